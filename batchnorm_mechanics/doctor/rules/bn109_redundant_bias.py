"""BN109: the layer before has a bias, which the mean takes away again."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from batchnorm_mechanics.doctor.rule import Action, Case, Findings, NewValues, Rule, Stage

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Call, Norm


def _moved_into_mean(norm: "Norm") -> Iterator[NewValues]:
    before = norm.calls[0].before
    bias = np.asarray(before.bias.numpy(), np.float64)
    means = {"moving_mean": norm.mean - bias}
    if norm.renorm:
        means["renorm_mean"] = norm.by_channel["renorm_mean"] - bias
    yield NewValues(before.name, before, {"bias": np.zeros_like(bias)})
    yield NewValues(norm.name, norm.layer, means)


def _obstacle(model: Any, norm: "Norm") -> str | None:
    from batchnorm_mechanics.models.norms import calls_in

    if len(norm.calls) == 1 and len(calls_in(model)[id(norm.calls[0].before)]) == 1:
        return None
    return "it or the layer before it is called more than once"


FOLD_BIAS = Action(
    name="fold-bias",
    words="move the bias of the layer before into the moving mean",
    stage=Stage.LAYER_BEFORE,
    new_values=_moved_into_mean,
    obstacle=_obstacle,
)


class RedundantBias(Rule):
    """A bias that does nothing: the mean takes it away, and beta does its work."""

    severity = "note"
    actions = (FOLD_BIAS,)

    def check(self, case: Case) -> Findings:
        """Look at the linear layers whose output goes nowhere else."""
        import keras

        for norm in case.norms:
            layer = next(
                (call.linear_before for call in norm.calls if _has_no_use(norm, call)), None
            )
            if layer is None:
                continue
            bias = np.asarray(keras.ops.convert_to_numpy(layer.bias), np.float64)
            yield self.finding(
                norm.name,
                cause=f"The bias of {layer.name} is subtracted again with the mean; beta does its "
                "work.",
                remedy=f"Build {layer.name} with use_bias=False; for inference `bnm fold` merges "
                "both.",
                layer_before=layer.name,
                parameters=bias.size,
                largest_bias=float(np.abs(bias).max()),
            )


def _has_no_use(norm: "Norm", call: "Call") -> bool:
    """Whether the layer before a call has a bias that the layer, and no other, takes away again."""
    import keras

    from batchnorm_mechanics.models.linear import channel_axis
    from batchnorm_mechanics.models.wiring import Wiring

    layer, rank = call.linear_before, len(call.shape)
    if layer is None or getattr(layer, "bias", None) is None:
        return False
    if layer.activation is not keras.activations.linear:
        return False
    if norm.layer.axis % rank != channel_axis(layer, rank):
        return False
    users = Wiring(call.graph).users(call.node.input_tensors[0])
    return not users.is_output and len(users.nodes) == 1
