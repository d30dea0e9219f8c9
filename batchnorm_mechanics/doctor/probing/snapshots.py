"""Moving statistics at two moments of training, and the statistics of the batches between them."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics.doctor.structure.norms import Norm, Vector
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import ExponentialMovingAverage

# Of the old statistics, the least that must be left in the new ones: with less, the difference of
# the two is rounding.
_LEAST_LEFT = 0.05


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Moving statistics at a moment of training.

    Attributes:
        step: how many batches of the epoch came before.
        statistics: moving mean and variance, each of shape (channels,), by the names of layers.
    """

    step: int
    # Tensors: to fetch their numbers at once would hold up a device each time.
    statistics: dict[str, tuple[tf.Tensor, tf.Tensor]]

    def of(self, name: str) -> tuple[Vector, Vector]:
        """Return moving mean and variance of a layer, float64 of shape (channels,)."""
        mean, variance = (np.asarray(part, np.float64) for part in self.statistics[name])
        return mean, variance


def latest_batches(norm: Norm, then: Snapshot, now: Snapshot) -> tuple[Vector, Vector] | None:
    """Return mean and variance that the batches between two snapshots had, or None.

    Args:
        norm: a layer whose statistics are moving averages.
        then: the earlier snapshot.
        now: the later one.

    Returns:
        Averages in which the later batches weigh more, as in the moving average; None where the
        layer keeps something else, or too little of the earlier statistics is left.
    """
    layer = norm.layer
    if isinstance(layer, BatchNormalization) and not isinstance(
        layer.policy, ExponentialMovingAverage
    ):
        return None
    momentum, steps = norm.momentum, now.step - then.step
    if norm.renorm or momentum is None or not layer.trainable or steps < 1:
        return None
    # A layer that the graph calls twice is updated twice a step.
    left = momentum ** (steps * max(1, len(norm.calls)))
    if not _LEAST_LEFT <= left < 1 or norm.name not in then.statistics:
        return None
    pairs = zip(then.of(norm.name), now.of(norm.name), strict=True)
    mean, variance = ((new - left * old) / (1 - left) for old, new in pairs)
    return mean, variance


def snapshot(norms: tuple[Norm, ...], step: int) -> Snapshot:
    """Return the moving statistics of layers as they are now.

    Args:
        norms: the layers.
        step: how many batches of the epoch came before.

    Example:
        >>> layer = keras.layers.BatchNormalization(momentum=0.5, name="bn")
        >>> _ = layer(np.zeros((4, 1), "float32"))
        >>> norm = Norm("bn", layer, ())
        >>> then = snapshot((norm,), step=0)
        >>> _ = layer(np.array([[2.0], [4.0]], "float32"), training=True)
        >>> mean, variance = latest_batches(norm, then, snapshot((norm,), step=1))
        >>> mean.item(), variance.item()
        (3.0, 1.0)
    """
    return Snapshot(
        step,
        {
            norm.name: (_value(norm.layer.moving_mean), _value(norm.layer.moving_variance))
            for norm in norms
        },
    )


def _value(statistic: Any) -> tf.Tensor:
    """Return what a statistic is now, as a tensor that stays so."""
    variable = statistic.value if isinstance(statistic, keras.Variable) else statistic
    return tf.convert_to_tensor(variable)


def distance(
    norm: Norm,
    of: tuple[Vector, Vector],
    to: tuple[Vector, Vector],
    *,
    unit: tuple[Vector, Vector] | None = None,
) -> tuple[float, float]:
    """Return how far means and variances are apart, as root mean squares over channels."""
    epsilon = float(norm.layer.epsilon)
    with np.errstate(all="ignore"):
        # What is not finite or below 0 comes out as NaN, and the rules tell of it.
        shift = (of[0] - to[0]) / np.sqrt((unit or to)[1] + epsilon)
        ratio = np.log((np.maximum(of[1], 0) + epsilon) / (to[1] + epsilon))
    return _root_mean_square(shift), _root_mean_square(ratio)


def _root_mean_square(values: Vector) -> float:
    return float(np.sqrt(np.mean(values**2)))
