"""Mistakes of the gradients alone: stopped on the way, or spoilt at the end."""

import math
from collections.abc import Callable

import tensorflow as tf

from batchnorm_mechanics.conformance.mistakes.hypothesis import Hypothesis, mistake
from batchnorm_mechanics.conformance.model import Prediction
from batchnorm_mechanics.conformance.steps import Moments, Pair, Tensor, Triple


def _stopped(*, mean: bool, variance: bool) -> Callable[[Moments], Pair]:
    def use(batch: Moments) -> Pair:
        return Pair(
            tf.stop_gradient(batch.mean) if mean else batch.mean,
            tf.stop_gradient(batch.variance) if variance else batch.variance,
        )

    return use


def _steeper(factor: float) -> Callable[[Moments], Pair]:
    """Keep the variance's value and multiply its gradient."""

    def use(batch: Moments) -> Pair:
        fixed = tf.stop_gradient(batch.variance)
        return Pair(batch.mean, fixed + factor * (batch.variance - fixed))

    return use


def _count(prediction: Prediction) -> float:
    """Return the number of elements of a channel, masked ones included."""
    material = prediction.material
    return math.prod(material.shape) / max(1, math.prod(material.kept))


def _averaged(slopes: Triple, prediction: Prediction) -> Triple:
    count = _count(prediction)
    return slopes._replace(dgamma=slopes.dgamma / count, dbeta=slopes.dbeta / count)


def _without_gamma(slopes: Triple, prediction: Prediction) -> Triple:
    return slopes._replace(dx=slopes.dx / prediction.spread(prediction.material.gamma))


def _exchanged(slopes: Triple, prediction: Prediction) -> Triple:
    return Triple(slopes.dx, slopes.dbeta, slopes.dgamma)


def _gamma_by(factor: Callable[[Prediction], Tensor]) -> Callable[..., Triple]:
    def slopes(slopes: Triple, prediction: Prediction) -> Triple:
        material = prediction.material
        total = tf.reduce_sum(material.dy * factor(prediction), prediction.place)
        return slopes._replace(dgamma=total)

    return slopes


def _centred(prediction: Prediction) -> Tensor:
    return prediction.material.xs[0] - prediction.first.mean


def _as_in_inference(slopes: Triple, prediction: Prediction) -> Triple:
    material = prediction.material
    variance = prediction.spread(material.start.variance)
    gamma = prediction.spread(material.gamma)
    return slopes._replace(dx=material.dy * gamma / tf.sqrt(variance + prediction.epsilon))


GRADIENT: tuple[Hypothesis, ...] = (
    mistake(
        "gradient through the variance missing",
        "gradient",
        use=_stopped(mean=False, variance=True),
    ),
    mistake(
        "gradient through the mean missing", "gradient", use=_stopped(mean=True, variance=False)
    ),
    mistake(
        "gradient through both statistics missing",
        "gradient",
        use=_stopped(mean=True, variance=True),
    ),
    mistake("gradient through the variance doubled", "gradient", use=_steeper(2.0)),
    mistake("gradient through the variance halved", "gradient", use=_steeper(0.5)),
    mistake("gradient through the variance with the wrong sign", "gradient", use=_steeper(-1.0)),
    mistake("dgamma and dbeta averaged instead of summed", "gradient", slopes=_averaged),
    mistake("gamma missing in dx", "gradient", slopes=_without_gamma),
    mistake("dgamma and dbeta exchanged", "gradient", slopes=_exchanged),
    mistake(
        "dgamma taken with x instead of x_hat",
        "gradient",
        slopes=_gamma_by(lambda prediction: prediction.material.xs[0]),
    ),
    mistake("dgamma taken with x - mean instead of x_hat", "gradient", slopes=_gamma_by(_centred)),
    mistake(
        "gradient taken as in inference, by the moving variance",
        "gradient",
        slopes=_as_in_inference,
    ),
)
