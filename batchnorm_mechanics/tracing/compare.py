"""Several implementations of one computation side by side, each against the float64 oracle."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core, reference
from batchnorm_mechanics._difference import difference
from batchnorm_mechanics.tracing import peers
from batchnorm_mechanics.tracing.computation import Computation
from batchnorm_mechanics.tracing.record import Beside, Comparison
from batchnorm_mechanics.tracing.steps import array, folded

_ORDER = ("mean", "variance", "x_hat", "y", "d_x", "d_gamma", "d_beta")
_HOW_TO_READ = (
    "Errors are the largest over all elements, against the oracle: NumPy in float64, from the same "
    "input. A ULP is the distance to the next number of the value's type. Near zero that distance "
    "is tiny, so a value that is fine beside its neighbours can be millions of ULPs off: read ULPs "
    "only together with the absolute error."
)


def compare(
    computation: Computation,
    dy: tf.Tensor | None = None,
    layer_values: Mapping[str, np.ndarray] | None = None,
) -> Comparison:
    """Return what each implementation has at each step, and how far it is from the oracle.

    Args:
        computation: what goes in, the same for all.
        dy: gradient of the loss with respect to y, or None to leave the gradients out.
        layer_values: values by step name that the real layer of a trace gave, to show beside.

    Returns:
        A `Comparison`: ours, tf.nn, FusedBatchNormV3 and Keras's layer, where they can do it.
    """
    notes = [_HOW_TO_READ]
    values: dict[str, Mapping[str, np.ndarray]] = {"ours": _ours(computation, dy)}
    made: tuple[tuple[str, Callable[..., peers.Answer]], ...] = (
        ("tf.nn", peers.tf_nn),
        ("FusedBatchNormV3", peers.fused),
        ("Keras layer", peers.keras_layer),
    )
    for name, peer in made:
        answer = peer(computation, dy)
        values[name] = answer.values
        notes += [f"{name}: {note}" for note in answer.notes]
    if computation.mode == "inference":
        values["ours, folded"] = {"y": _folded(computation)}
    if layer_values:
        values["the layer traced"] = layer_values
    oracle = oracle_values(computation, dy)
    rows = []
    for step in (step for step in _ORDER if step in oracle):
        rows.append(_row(step, "oracle", oracle[step], oracle[step], computation))
        rows += [
            _row(step, by, found[step], oracle[step], computation)
            for by, found in values.items()
            if step in found
        ]
    return Comparison(tuple(rows), tuple(notes))


def _row(
    step: str, by: str, value: np.ndarray, oracle: np.ndarray, computation: Computation
) -> Beside:
    dtype = value.dtype.name if by != "oracle" else computation.dtype.name
    return Beside(step, by, value, difference(value, oracle, dtype))


def _ours(computation: Computation, dy: tf.Tensor | None) -> dict[str, np.ndarray]:
    if computation.mode == "inference":
        x = tf.cast(computation.x, computation.dtype)
        x_hat = core.normalize(
            x,
            computation.mean,
            computation.variance,
            axes=computation.axes,
            epsilon=computation.epsilon,
        )
        return {"x_hat": array(x_hat), "y": array(computation.infer())}
    y, cache = computation.forward()
    found = {"mean": cache.mean, "variance": cache.variance, "x_hat": cache.x_hat, "y": y}
    if dy is not None:
        found |= dict(zip(("d_x", "d_gamma", "d_beta"), core.backward(dy, cache), strict=True))
    return {name: array(value) for name, value in found.items()}


def _folded(computation: Computation) -> np.ndarray:
    scale, offset = folded(computation)
    return array(core.multiply_and_add(computation.x, scale, offset, axes=computation.axes))


def oracle_values(computation: Computation, dy: tf.Tensor | None = None) -> dict[str, np.ndarray]:
    """Return the float64 oracle's values by step name.

    Args:
        computation: what goes in.
        dy: gradient of the loss with respect to y, or None to leave the gradients out.

    Returns:
        x_hat and y; in training mode mean and biased variance too, and with `dy` the gradients.
    """
    x = array(computation.x)
    gamma, beta, mask = (
        None if value is None else array(value)
        for value in (computation.gamma, computation.beta, computation.mask)
    )
    axes, epsilon = computation.axes, computation.epsilon
    if computation.mode == "inference":
        mean, variance = array(computation.mean), array(computation.variance)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "x_hat": reference.normalize(x, mean, variance, axes, epsilon),
                "y": reference.infer(x, mean, variance, gamma, beta, axes, epsilon),
            }
    with np.errstate(invalid="ignore", over="ignore"):
        y, mean, variance, x_hat = reference.forward(x, gamma, beta, axes, epsilon, mask)
        found = {"mean": mean, "variance": variance, "x_hat": x_hat, "y": y}
        if dy is not None:
            all_six = reference.gradients(array(dy), x, gamma, axes, epsilon, mask)
            found |= {name: all_six[name] for name in ("d_x", "d_gamma", "d_beta")}
    return found
