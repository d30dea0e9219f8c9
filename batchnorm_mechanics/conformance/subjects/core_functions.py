"""Our functions as subjects: `core` with the policy that is Keras's moving average."""

from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Running,
    Session,
    Setting,
    Slopes,
    Subject,
)
from batchnorm_mechanics.conformance.subjects.layout import parameters, reduced_axes, wide
from batchnorm_mechanics.statistics import ExponentialMovingAverage


def functions() -> "CoreFunctions":
    """Return our functions with the gradients of `backward`."""
    return CoreFunctions("bnm.functions", autodiff=False)


def functions_with_autodiff() -> "CoreFunctions":
    """Return our functions with the gradients that TensorFlow derives from `forward`."""
    return CoreFunctions("bnm.functions-autodiff", autodiff=True)


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
        self.abilities = frozenset(
            {
                Ability.TRAIN,
                Ability.INFER,
                Ability.STATISTICS,
                Ability.GRADIENTS,
                Ability.MASK,
            }
        )
        self.declared_momentum = "old"
        self.needs = frozenset({"axis"})
        self._autodiff = autodiff

    def refusal(self, setting: Setting) -> str | None:
        """Refuse to reduce over nothing; see `Subject.refusal`."""
        if setting.kept is not None and len(setting.kept) == len(setting.shape):
            return "it reduces over at least one axis"
        return None

    def open(self, setting: Setting) -> "CoreSession":
        """Return a session with the policy's state."""
        return CoreSession(setting, autodiff=self._autodiff)


class CoreSession(Session):
    """Parameters and statistics for our functions."""

    def __init__(self, setting: Setting, *, autodiff: bool) -> None:
        rank = len(setting.shape)
        kept = (rank - 1,) if setting.kept is None else setting.kept
        dtype = tf.as_dtype(wide(setting.dtype))
        given = parameters(setting, kept)
        self._gamma = tf.constant(given.gamma, dtype)
        self._beta = tf.constant(given.beta, dtype)
        self._options: dict[str, Any] = {"axes": reduced_axes(rank, kept)}
        if setting.epsilon is not None:
            self._options["epsilon"] = setting.epsilon
        self._policy = (
            ExponentialMovingAverage()
            if setting.momentum is None
            else ExponentialMovingAverage(decay=setting.momentum)
        )
        state = self._policy.init(given.mean.shape, dtype)
        for field, value in (("mean", setting.moving_mean), ("variance", setting.moving_variance)):
            if value is not None:
                state = state._replace(**{field: tf.constant(value, dtype)})
        self._state = state
        self._autodiff = autodiff

    def train(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Normalize by the batch and update the policy's state."""
        y, cache = core.forward(tf.constant(x), self._gamma, self._beta, mask=mask, **self._options)
        self._state = self._policy.update(self._state, cache.mean, cache.variance, cache.count)
        return y.numpy()

    def infer(self, x: np.ndarray) -> np.ndarray:
        """Normalize by what the policy reads from its state."""
        mean, variance = self._policy.read(self._state)
        return core.infer(
            tf.constant(x), mean, variance, self._gamma, self._beta, **self._options
        ).numpy()

    def gradients(self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None = None) -> Slopes:
        """Return the gradients of `backward`, or TensorFlow's of `forward`."""
        inputs = tf.constant(x)
        sources = [inputs, self._gamma, self._beta]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if self._autodiff:
                tape.watch(sources)
            y, cache = core.forward(inputs, self._gamma, self._beta, mask=mask, **self._options)
        slopes: Any = (
            tape.gradient(y, sources, output_gradients=[tf.constant(dy)])
            if self._autodiff
            else core.backward(tf.constant(dy), cache)
        )
        return Slopes(*(slope.numpy() for slope in slopes))

    def running(self) -> Running:
        """Return what the policy reads from its state."""
        return Running(*(value.numpy() for value in self._policy.read(self._state)))
