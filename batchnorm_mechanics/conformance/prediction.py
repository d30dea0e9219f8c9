"""What a batch normalization made of given steps gives for the data of a case, in float64.

`Material` is what a case gave to a subject, and `Prediction` what an implementation made of some
steps gives for it, in NumPy. Wrong gradients are not written down anywhere: they come from
TensorFlow's differentiation of the wrong forward computation, and mistakes of a gradient alone are
stopped gradients.
"""

from functools import cached_property
from typing import Any

import numpy as np

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.mistakes import (
    Moments,
    Pair,
    Seen,
    Steps,
    Triple,
    as_it_is,
)
from batchnorm_mechanics.conformance.mistakes.arithmetic import Tensor, broadcast, expand, mean
from batchnorm_mechanics.conformance.shares import joined


class Material:
    """What one case gave to a subject, in float64.

    Attributes:
        axes: the right axes to reduce over.
        shape, rank: of the input; kept: the shape of the kept axes.
        xs, masks: the batches; each mask None or boolean in as many dimensions as its batch.
        dy, probe: as in `Evidence`.
        gamma, beta: given to the subject, or 1 and 0.
        shares: how replicas share the batches; None where one has them all.
        start: moving statistics before the first batch.
        end: the subject's own after the last, which its inference output is made from.
        epsilon: as set.
        decay: weight of the old value, by what the subject declares of its momentum.
        unbiased: whether the moving variance takes in the unbiased variance.
        known: the moments of batches that were computed before.
    """

    def __init__(self, evidence: Evidence) -> None:
        setting = evidence.setting
        self.shape, self.kept, self.axes = setting.shape, setting.kept_shape, setting.axes
        self.rank = len(setting.shape)
        self.xs = [_float64(batch) for batch in evidence.batches]
        self.masks = [_mask(mask, self.rank) for mask in evidence.masks]
        self.dy, self.probe = _float64(evidence.dy), _float64(evidence.probe)
        self.gamma, self.beta, *start = map(_float64, setting.parameters)
        self.start, self.end = Pair(*start), Pair(*map(_float64, evidence.own_statistics))
        self.epsilon, self.decay = evidence.epsilon, evidence.decay
        self.unbiased = evidence.unbiased
        self.shares, self._evidence = setting.shares, evidence
        self.known: dict[Any, Moments] = {}

    @cached_property
    def parts(self) -> "list[Material]":
        """What each replica was given, as material of its own."""
        parts = [Material(part) for part in self._evidence.parts]
        for part in parts:
            # A part without samples has none that count: a mean over no axis at all is NaN.
            part.masks = [
                np.ones((*x.shape[:1], *[1] * (x.ndim - 1)), bool) if x.size == 0 else mask
                for x, mask in zip(part.xs, part.masks, strict=True)
            ]
        return parts


def _float64(value: np.ndarray) -> Tensor:
    return np.asarray(value).astype(np.float64)


def _mask(mask: np.ndarray | None, rank: int) -> Tensor:
    return None if mask is None else mask.reshape(mask.shape + (1,) * (rank - mask.ndim))


class Prediction:
    """What an implementation made of these steps gives for this material, computed when asked.

    Args:
        steps: the steps.
        material: the case.
    """

    def __init__(self, steps: Steps, material: Material) -> None:
        self.steps, self.material = steps, material
        self.axes = steps.axes(material.rank, material.axes)
        self.place = steps.place(material.rank, material.axes)
        self.possible = self.axes is not None and self._placeable()
        self.epsilon = steps.epsilon(material.epsilon)

    def _placeable(self) -> bool:
        """Whether gamma has the right size for the axes that it is put along."""
        if self.place is None:
            return False
        shape = self.material.shape
        return self.material.kept == tuple(
            shape[axis] for axis in range(len(shape)) if axis not in self.place
        )

    # What a mistake divides by may be 0: NaN and infinity are what such a layer gives.
    @np.errstate(all="ignore")
    def of(self, what: str) -> np.ndarray | None:
        """Return an output by its name, None where the mistake is impossible or the name unknown.

        Args:
            what: a name of `record`, with what a case may add to it.

        Returns:
            float64; gradients of parameters and moving statistics in the shape of the kept axes.
        """
        base, when = record.parts(what)
        if not self.possible or base not in record.OUTPUTS:
            return None
        if self._is_apart(base):
            parts = [Prediction(self.steps, part) for part in self.material.parts]
            if base in record.STATISTICS:
                number = record.replica_of(when)
                return parts[number].of(base if number else what)
            values = [part.of(what) for part in parts]
            return joined(base, [value for value in values if value is not None])
        if base == record.TRAINING_OUTPUT:
            return self.output
        if base == record.INFERENCE_OUTPUT:
            return self._inferred(when)
        if base == record.DX:
            return self.slopes.dx
        of_channels = {record.DGAMMA: 1, record.DBETA: 2}
        if base in of_channels:
            value = self.slopes[of_channels[base]]
        else:
            value = self._moving(when)[record.STATISTICS.index(base)]
        return np.reshape(value, self.material.kept)

    def _is_apart(self, what: str) -> bool:
        """Whether each replica computes an output of its part alone."""
        shares = self.material.shares
        if shares is None or what == record.INFERENCE_OUTPUT:
            return False
        masked = self.material.masks[0] is not None
        if what in record.STATISTICS:
            return not self.steps.merges(shares.synchronized, masked)
        return not self.steps.synchronizes(shares.synchronized, masked)

    def spread(self, value: Tensor) -> Tensor:
        """Give a parameter size-1 axes where it does not lie along the input's."""
        for axis in sorted(self.place or ()):
            value = expand(value, axis)
        return value

    def batch(self, x: Tensor, mask: Tensor) -> Moments:
        """Return the moments of a batch, with the mask as these steps understand it."""
        return self.steps.moments(x, self.steps.mask(mask, x), self.axes or ())

    @property
    def first(self) -> Moments:
        """The moments of the first batch."""
        return self._moments(0)

    def _moments(self, number: int) -> Moments:
        """Return the moments of a batch, which most mistakes have in common."""
        key = number, self.steps.moments, self.steps.mask, self.axes
        known = self.material.known
        if key not in known:
            known[key] = self.batch(self.material.xs[number], self.material.masks[number])
        return known[key]

    def _forward(self, x: Tensor, gamma: Tensor, beta: Tensor, batch: Moments) -> Tensor:
        steps, material = self.steps, self.material
        mask = material.masks[0]
        old = self._start
        used = steps.use(batch)
        if steps.training is not as_it_is:
            used = steps.training(used, old, self._updated(old, batch, 0))
        x_hat = steps.normalize(x, used, self.epsilon)
        return steps.affine(x_hat, self.spread(gamma), self.spread(beta), mask)

    @cached_property
    def output(self) -> Tensor:
        """The training output of the first batch."""
        material = self.material
        return self._forward(material.xs[0], material.gamma, material.beta, self.first)

    @cached_property
    def slopes(self) -> Triple:
        """The gradients of sum(y * dy) for the first batch."""
        # A subject without gradients needs none of TensorFlow, which takes seconds to import.
        import_tensorflow_quietly()
        import tensorflow as tf

        material = self.material
        x, gamma, beta = sources = [
            tf.constant(value) for value in (material.xs[0], material.gamma, material.beta)
        ]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            # Computed anew: what is known already was not watched.
            batch = self.batch(x, material.masks[0])
            loss = tf.reduce_sum(self._forward(x, gamma, beta, batch) * material.dy)
        found = tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return self.steps.slopes(Triple(*map(np.asarray, found)), self)

    def _inferred(self, when: str) -> Tensor:
        """Return the inference output of the probe, by the subject's own moving statistics."""
        steps, material = self.steps, self.material
        probe = material.probe[:1] if when == record.ALONE else material.probe
        by = Pair(*(self.spread(value) for value in material.end))
        if when == record.LOADED:
            by = steps.stored(by)
        elif steps.moves_in_inference and when in (record.ALONE, record.AGAIN):
            by = self._inferred_once(by)
        if steps.moves_in_inference == "before":
            by = self._updated(by, self.batch(probe, None), 0, training=False)
        if steps.inference is not as_it_is:
            by = steps.inference(by, steps.use(self.batch(probe, None)))
        x_hat = steps.normalize(probe, by, self.epsilon)
        gamma, beta = self.spread(material.gamma), self.spread(material.beta)
        return steps.affine(x_hat, gamma, beta, None)

    def _moving(self, when: str) -> Pair:
        """Return the moving statistics, with size 1 where an axis is reduced."""
        if when == "" or when.startswith(record.ON_REPLICA):
            return self._moved
        end = Pair(*(self.spread(value) for value in self.material.end))
        if when == record.INFERRED:
            # Twice: for the inference output, and when it was asked for again.
            moves = self.steps.moves_in_inference
            return self._inferred_once(self._inferred_once(end)) if moves else end
        end = self.steps.stored(end)
        return self._updated(end, self.first, 0) if when == record.STEP_LATER else end

    def _inferred_once(self, moving: Pair) -> Pair:
        """Return what inference makes of the moving statistics if it moves them."""
        batch = self.batch(self.material.probe, None)
        return self._updated(moving, batch, 0, training=False)

    @cached_property
    def _start(self) -> Pair:
        """The moving statistics before the first batch."""
        return Pair(*(self.spread(value) for value in self.material.start))

    @cached_property
    def _moved(self) -> Pair:
        """The moving statistics after all batches, read before inference."""
        moving = self._start
        for number in range(len(self.material.xs)):
            moving = self._updated(moving, self._moments(number), number)
        return moving

    def _updated(self, old: Pair, batch: Moments, number: int, *, training: bool = True) -> Pair:
        """Return the moving statistics after one batch."""
        steps, unbiased = self.steps, self.material.unbiased
        taken = steps.intake(batch, unbiased, old)
        seen = Seen(self._fitted(batch.count, old.mean), unbiased, number, training)
        taken = Pair(*(self._fitted(part, old.mean) for part in taken))
        return steps.update(old, taken, steps.decay(self.material.decay), seen)

    def _fitted(self, value: Tensor, like: Tensor) -> Tensor:
        """Bring a statistic reduced over wrong axes into the shape of the moving ones."""
        extra = [
            axis for axis, size in enumerate(like.shape) if size == 1 and value.shape[axis] != 1
        ]
        if extra:
            value = mean(value, tuple(extra))
        return broadcast(value, like)
