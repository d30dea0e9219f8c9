"""Functions of tensors as subjects: ours, `tf.nn.batch_normalization` and the fused operation."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.conformance.subject import (
    ONE,
    Ability,
    Array,
    Mask,
    Session,
    Setting,
    Slopes,
    Statistics,
    Subject,
    given,
    wide,
)
from batchnorm_mechanics.statistics import ExponentialMovingAverage


class CoreFunctions(Subject):
    """`forward`, `infer` and `backward`, with `ExponentialMovingAverage` for the statistics.

    The statistics begin where the policy begins, and a setting's momentum is its decay. Axes are
    named in every call of these functions, so no kept axis is theirs by default.

    Args:
        name: see `Subject`.
        autodiff: whether gradients are TensorFlow's instead of `backward`'s.
    """

    def __init__(self, name: str, *, autodiff: bool) -> None:
        way = "autodiff" if autodiff else "backward"
        self.name = name
        self.description = f"our functions forward, infer and {way}"
        self.abilities = frozenset(Ability) - {Ability.CALL, Ability.RELOAD}
        self.declared_momentum = "old"
        self.needs = frozenset({"axis"})
        self._autodiff = autodiff

    def open(self, setting: Setting) -> "CoreSession":
        """Return a session with the policy's state."""
        return CoreSession(setting.keeping(-1), autodiff=self._autodiff)


functions = partial(CoreFunctions, "bnm.functions", autodiff=False)
functions_with_autodiff = partial(CoreFunctions, "bnm.functions-autodiff", autodiff=True)


class CoreSession(Session):
    """Parameters and statistics for our functions."""

    def __init__(self, setting: Setting, *, autodiff: bool) -> None:
        dtype = tf.as_dtype(wide(setting.dtype))
        self._gamma, self._beta, *_ = (tf.constant(value, dtype) for value in setting.parameters)
        self._options = {"axes": setting.axes, **given(epsilon=setting.epsilon)}
        self._policy = ExponentialMovingAverage(**given(decay=setting.momentum))
        state = self._policy.init(setting.kept_shape, dtype)
        starts = given(mean=setting.moving_mean, variance=setting.moving_variance)
        for field, value in starts.items():
            state = state._replace(**{field: tf.constant(value, dtype)})
        self._state = state
        self._autodiff = autodiff

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Normalize by the batch and update the policy's state, or by what the policy reads."""
        sources = (self._gamma, self._beta)
        if not training:
            used = self._policy.read(self._state)
            return core.infer(tf.constant(x), *used, *sources, **self._options).numpy()
        y, cache = core.forward(tf.constant(x), *sources, mask=mask, **self._options)
        self._state = self._policy.update(self._state, cache.mean, cache.variance, cache.count)
        return y.numpy()

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return the gradients of `backward`, or TensorFlow's of `forward`."""

        def forward(*sources: tf.Tensor) -> tuple[tf.Tensor, core.Cache]:
            return core.forward(*sources, mask=mask, **self._options)

        sources = (tf.constant(x), self._gamma, self._beta)
        if self._autodiff:
            slopes = taped(lambda *given: forward(*given)[0], sources, dy)
        else:
            slopes = core.backward(tf.constant(dy), forward(*sources)[1])
        return Slopes(*(slope.numpy() for slope in slopes))

    def statistics(self) -> Statistics:
        """Return what the policy reads from its state."""
        return Statistics(*(value.numpy() for value in self._policy.read(self._state)))


class TfNn(Subject):
    """`tf.nn.moments` and `tf.nn.batch_normalization`.

    They have no state: inference uses the statistics that it is given. Both want everything in one
    dtype, so that half-precision statistics come with half-precision inputs.
    """

    name = "tf.nn"
    declared_momentum = None

    def __init__(self) -> None:
        self.description = f"tf.nn.moments and tf.nn.batch_normalization of {_version()}"
        self.abilities = frozenset({Ability.TRAIN, Ability.INFER, Ability.GRADIENTS})
        self.needs = frozenset({"axis", "epsilon", "statistics"})

    def refusal(self, setting: Setting) -> str | None:
        """Refuse momentum too; see `Subject.refusal`."""
        return "it has no momentum" if setting.momentum is not None else super().refusal(setting)

    def open(self, setting: Setting) -> "TfNnSession":
        """Return the setting's parameters and statistics, ready to be used."""
        return TfNnSession(setting.keeping(-1))


class TfNnSession(Session):
    """Parameters and statistics for `tf.nn.batch_normalization`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._epsilon = 1e-3 if setting.epsilon is None else setting.epsilon
        self._gamma, self._beta, self._mean, self._variance = (
            tf.constant(np.reshape(value, setting.aligned_shape), setting.dtype)
            for value in setting.parameters
        )

    def _trained(self, x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, self._setting.axes, keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, self._epsilon)

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Normalize by the batch's own moments, or by the statistics that the setting gave."""
        if training:
            return self._trained(tf.constant(x), self._gamma, self._beta).numpy()
        return tf.nn.batch_normalization(
            tf.constant(x), self._mean, self._variance, self._beta, self._gamma, self._epsilon
        ).numpy()

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return TensorFlow's gradients."""
        slopes = taped(self._trained, (tf.constant(x), self._gamma, self._beta), dy)
        shapes = (x.shape, self._setting.kept_shape, self._setting.kept_shape)
        return Slopes(*map(np.reshape, (slope.numpy() for slope in slopes), shapes))


class TfFused(Subject):
    """`FusedBatchNormV3`, the kernel below Keras 2 and `tf.compat.v1.nn.fused_batch_norm`.

    It takes four axes, of which the last is kept, so any other input is brought into that form. Its
    moving averages are its own: `exponential_avg_factor` weighs the new value, and by default it is
    1, so that no average is taken.
    """

    name = "tf.fused"
    keeps = ONE._replace(reason="it keeps exactly one axis")

    def __init__(self) -> None:
        self.description = f"FusedBatchNormV3 of {_version()}"
        self.abilities = frozenset(Ability) - {Ability.MASK, Ability.RELOAD}
        self.declared_momentum = "new"
        self.needs = frozenset({"statistics"})

    def refusal(self, setting: Setting) -> str | None:
        """Refuse float64 too; see `Subject.refusal`."""
        if setting.dtype == "float64":
            return "it has no float64 kernel"
        return super().refusal(setting)

    def open(self, setting: Setting) -> "TfFusedSession":
        """Return the setting's parameters and statistics, ready to be used."""
        return TfFusedSession(setting.keeping(-1))


class TfFusedSession(Session):
    """Parameters and moving statistics for `FusedBatchNormV3`."""

    def __init__(self, setting: Setting) -> None:
        [self._axis] = setting.kept or (-1,)
        self._gamma, self._beta, self._mean, self._variance = (
            tf.constant(value, wide(setting.dtype)) for value in setting.parameters
        )
        self._options = given(epsilon=setting.epsilon, exponential_avg_factor=setting.momentum)

    def _run(
        self, x: tf.Tensor, *, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return y and the moving statistics that the operation gives back."""
        shape: list[Any] = x.shape.as_list()
        # Exchanges the kept axis and the last; done twice, it undoes itself.
        swap = list(range(len(shape)))
        swap[self._axis], swap[-1] = swap[-1], swap[self._axis]
        last = tf.transpose(x, swap)
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(last, _four_axes([shape[axis] for axis in swap])),
            scale=self._gamma,
            offset=self._beta,
            mean=self._mean,
            variance=self._variance,
            **self._options,
            **given(is_training=training),
        )
        y = tf.transpose(tf.reshape(outputs.y, last.shape), swap)
        return y, outputs.batch_mean, outputs.batch_variance

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Normalize in the mode of `is_training` and keep the moving statistics that come back."""
        y, mean, variance = self._run(tf.constant(x), training=training)
        if training is not False:
            self._mean, self._variance = mean, variance
        return y.numpy()

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return what the gradient that is registered for the operation gives."""
        sources = (tf.constant(x), self._gamma, self._beta)
        slopes = taped(lambda x, *_: self._run(x, training=True)[0], sources, dy)
        return Slopes(*(slope.numpy() for slope in slopes))

    def statistics(self) -> Statistics:
        """Return the moving statistics as the operation gave them back last."""
        return Statistics(self._mean.numpy(), self._variance.numpy())


def _four_axes(shape: list[int]) -> list[int]:
    """Return a shape of four axes with as many elements, the last one as it was.

    A shape with four axes stays.

    Example:
        >>> _four_axes([60, 3]), _four_axes([2, 4, 5, 6, 3])
        ([60, 1, 1, 3], [2, 4, 30, 3])
    """
    batch, *between, channels = shape
    first, *rest = [*between, 1, 1]
    return [batch, first, math.prod(rest), channels]


def taped(
    forward: Callable[..., Any], sources: Sequence[Any], dy: Any, *, unconnected: str = "zero"
) -> list[Any]:
    """Return the gradients of sum(y * dy) that TensorFlow derives from a computation of y.

    Args:
        forward: takes the sources.
        sources: tensors or variables.
        dy: in the shape of y.
        unconnected: what stands for a gradient where no way leads to a source: "zero", or "none".
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        y = tf.convert_to_tensor(forward(*sources))
    return tape.gradient(
        y,
        sources,
        output_gradients=[tf.cast(dy, y.dtype)],
        unconnected_gradients=tf.UnconnectedGradients(unconnected),
    )


def _version() -> str:
    return f"TensorFlow {tf.__version__}"
