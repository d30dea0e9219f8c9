"""BN114: some layers are frozen and others, beside them, are not."""

from typing import TYPE_CHECKING

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm


class PartlyFrozen(Rule):
    """Frozen layers infer in training too, and the others normalize by the batch."""

    severity = "note"
    refusal = "which layers are frozen is a choice of training"

    def check(self, case: Case) -> Findings:
        """Compare the layers with those that feed them, and with one another."""
        if not case.past.is_trained:
            return
        for norm in case.norms:
            yield from self._apart_from_its_input(norm)
        frozen = [norm.name for norm in case.norms if not norm.layer.trainable]
        if frozen and len(frozen) < len(case.norms):
            yield self.finding(
                "",
                cause="Some batch norm layers are frozen and infer even in training, and the "
                "others normalize by the batch.",
                remedy="Nothing if this is meant, as in fine-tuning; `trainable` takes effect at "
                "the next `compile`.",
                frozen=len(frozen),
                trainable=len(case.norms) - len(frozen),
                first_frozen=frozen[0],
            )

    def _apart_from_its_input(self, norm: "Norm") -> Findings:
        makers = [call.linear_before for call in norm.calls]
        before = next(
            (one for one in makers if one and one.trainable != norm.layer.trainable), None
        )
        if before is None:
            return
        if norm.layer.trainable:
            cause = (
                f"{before.name} is frozen and this layer is not: in training it normalizes by the "
                "batch, and its statistics move away from those that the frozen part was "
                "trained with."
            )
            remedy = "Freeze this layer too, unless its statistics are to adapt; then recompile."
        else:
            cause = (
                f"This layer is frozen and {before.name} is not: the statistics stay while the "
                "activations that they describe change."
            )
            remedy = "Keep the learning rate small, or re-estimate the statistics afterwards."
        yield self.finding(
            norm.name,
            cause=cause,
            remedy=remedy,
            layer_before=before.name,
            trainable=str(norm.layer.trainable),
            layer_before_trainable=str(before.trainable),
        )
