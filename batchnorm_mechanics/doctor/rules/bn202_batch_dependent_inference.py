"""BN202: a sample's output depends on the batch that it comes in."""

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule


class BatchDependentInference(Rule):
    """Something normalizes by the batch, or mixes its samples, when the model predicts."""

    severity = "error"
    needs_data = True
    refusal = "the model's own code has the layer normalize by the batch: pass `training` on there"

    def check(self, case: Case) -> Findings:
        """Compare a sample alone with the same one in a batch."""
        measured = case.measured
        # Where outputs are no numbers nothing can be compared, and BN205 says so.
        if measured is None or measured.non_finite_outputs:
            return
        effects = measured.effects
        guilty = [name for name, found in measured.norms.items() if found.by_batch]
        if effects.alone is not None and effects.alone > effects.rounding:
            yield self.finding(
                guilty[0] if guilty else "",
                cause=(
                    "The layer normalizes by the batch although the model predicts."
                    if guilty
                    else "Something other than batch norm mixes the samples of a batch."
                ),
                remedy=(
                    "Have the model's code pass `training` on instead of setting it."
                    if guilty
                    else "Look for operations over the axis of the samples."
                ),
                output_change=effects.alone,
                rounding=effects.rounding,
                layers_by_batch=len(guilty),
            )
            return
        difference = effects.alone_if_called
        if difference is None or difference <= effects.rounding or not effects.called_by_batch:
            return
        yield self.finding(
            effects.called_by_batch[0],
            severity="warning",
            cause=(
                "`model(x)` normalizes by the batch and moves the statistics, while "
                "`model.predict(x)` and `model(x, training=False)` do not."
            ),
            remedy=(
                "Call the model with training=False, or remove the training flag that is baked in: "
                "`bnm repair`."
            ),
            output_change=difference,
            rounding=effects.rounding,
            layers_by_batch=len(effects.called_by_batch),
        )
