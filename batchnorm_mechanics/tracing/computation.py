"""What one batch-norm computation is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.core.axes import Axes, TensorLike, as_parameter, normalize_axes
from batchnorm_mechanics.core.moments import statistics_dtype
from batchnorm_mechanics.core.transform import check_epsilon
from batchnorm_mechanics.tracing.record import Mode


@dataclass(frozen=True, eq=False)
class Computation:
    """Everything that goes into one forward pass.

    Attributes:
        x: floating tensor with values.
        axes: the axes reduced over, none negative, in the order given.
        gamma, beta: in the statistics' dtype, a scalar or in the shape of the kept axes, or None.
        epsilon: added to the variance inside the square root.
        mask: boolean over the leading axes of `x`, or None.
        mean, variance: what inference uses; None in training.
        origin: what the given statistics are, in words.
        x_note: what was done to `x` before it came here, or "".
    """

    x: tf.Tensor
    axes: tuple[int, ...]
    gamma: tf.Tensor | None
    beta: tf.Tensor | None
    epsilon: float
    mask: tf.Tensor | None = None
    mean: tf.Tensor | None = None
    variance: tf.Tensor | None = None
    origin: str = "the statistics given"
    x_note: str = ""

    @property
    def mode(self) -> Mode:
        """Training where no statistics are given."""
        return "training" if self.mean is None else "inference"

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the statistics."""
        return statistics_dtype(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input."""
        return tuple(self.x.shape.as_list())  # pyright: ignore[reportReturnType] - it has values

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """The shape of statistics, gamma and beta."""
        return tuple(self.shape[axis] for axis in self.kept)

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes that are kept."""
        return tuple(axis for axis in range(self.x.shape.rank) if axis not in self.axes)

    def forward(self) -> tuple[tf.Tensor, core.Cache]:
        """Normalize by the batch's own statistics, as `core.forward` does."""
        return core.forward(
            self.x, self.gamma, self.beta, axes=self.axes, epsilon=self.epsilon, mask=self.mask
        )

    def infer(self) -> tf.Tensor:
        """Normalize by the given statistics, as `core.infer` does."""
        return core.infer(
            self.x,
            self.mean,
            self.variance,
            self.gamma,
            self.beta,
            axes=self.axes,
            epsilon=self.epsilon,
        )


def make_computation(
    x: tf.Tensor,
    *,
    axes: Axes,
    parameters: Mapping[str, TensorLike],
    epsilon: float,
    mask: TensorLike = None,
    x_note: str = "",
) -> Computation:
    """Check what a user gave and put it together.

    Args:
        x: floating tensor with values.
        axes: the axes reduced over.
        parameters: gamma, beta, mean and variance, each a number, an array or None.
        epsilon: added to the variance.
        mask: boolean over the leading axes of `x`, or None.
        origin: what the given statistics are, in words.
        x_note: what was done to `x` before.

    Returns:
        A `Computation`.

    Raises:
        ValueError: axes, the shape of a parameter, or epsilon do not fit.
    """
    positive = normalize_axes(axes, x.shape.rank, caller="trace")
    wide = tf.cast(x, statistics_dtype(x))
    checked = {
        name: as_parameter(value, wide, positive, name=name, caller="trace")
        for name, value in parameters.items()
        if value is not None
    }
    return Computation(
        x,
        positive,
        checked.get("gamma"),
        checked.get("beta"),
        check_epsilon(epsilon, caller="trace"),
        None if mask is None else tf.cast(mask, tf.bool),
        checked.get("mean"),
        checked.get("variance"),
        x_note=x_note,
    )
