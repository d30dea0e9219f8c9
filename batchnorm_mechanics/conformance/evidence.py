"""What a subject was given in one case, what came back, and what should have come."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

import ml_dtypes
import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics._difference import difference, elementwise_error
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.record import Check
from batchnorm_mechanics.conformance.shares import joined
from batchnorm_mechanics.conformance.subject import (
    Setting,
    Statistics,
    as_type,
    given,
    is_narrower,
)

_SLOPES = {record.DX: "d_x", record.DGAMMA: "d_gamma", record.DBETA: "d_beta"}
_NUMBERS = {np.dtype(ml_dtypes.bfloat16)} | {np.dtype(name) for name in ("f2", "f4", "f8")}


@dataclass(frozen=True, eq=False)
class Evidence:
    """All data of one case, enough to try out what a mistaken implementation would have given.

    Attributes:
        setting: the setting as the subject was opened with it, with epsilon, momentum and moving
            statistics filled in where the subject could not be set, with what it has by itself.
        momentum_weighs: what its momentum weighs by its documentation; None if it has none.
        unbiased: whether its moving average takes in the unbiased variance, by the conventions
            found.
        batches: what `train` was called with, in this order.
        masks: None or a mask for each batch.
        dy: gradient of the loss with respect to the output of the first batch.
        probe: what `infer` was called with, after all batches.
        actual: the subject's outputs by the names of `record`: the training output and the
            gradients belong to the first batch (in a session of its own for the gradients), the
            moving statistics to all batches, the inference output to `probe` after all batches.
        expected: the oracle's, float64. The inference output is the oracle's for the moving
            statistics that the subject itself has, so that one mistake is not counted twice.
        tolerance: absolute, float64, in the shape of the expected value.
    """

    setting: Setting
    momentum_weighs: Literal["old", "new"] | None
    unbiased: bool
    batches: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray | None, ...]
    dy: np.ndarray
    probe: np.ndarray
    actual: Mapping[str, np.ndarray] = field(default_factory=dict)
    expected: Mapping[str, np.ndarray] = field(default_factory=dict)
    tolerance: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes reduced over."""
        return self.setting.axes

    @property
    def epsilon(self) -> float:
        """What is added to the variance. Without it nothing is judged."""
        return float(self.setting.epsilon or 0.0)

    @property
    def decay(self) -> float:
        """The weight of the old value, by what is documented of momentum; without one, no matter.

        Moving statistics are not judged then.
        """
        momentum = float(self.setting.momentum or 0.0)
        return 1 - momentum if self.momentum_weighs == "new" else momentum

    @property
    def own_statistics(self) -> Statistics:
        """By which the subject should infer: its own where it has them, float64."""
        start, own = self.setting.parameters, []
        for name, first in (
            (record.MOVING_MEAN, start.mean),
            (record.MOVING_VARIANCE, start.variance),
        ):
            value = self.actual.get(name)
            fits = value is not None and value.shape == self.setting.kept_shape
            own.append(np.asarray(value if fits else first).astype(np.float64))
        return Statistics(*own)

    @cached_property
    def parts(self) -> tuple["Evidence", ...]:
        """What each replica was given, as a case of its own; one part where there is one replica.

        What came back stays: moving statistics are of all parts.
        """
        shares = self.setting.shares
        if shares is None:
            return (self,)
        batches = [shares.split(x) for x in self.batches]
        masks = [
            [None] * len(x) if m is None else shares.split(m)
            for x, m in zip(batches, self.masks, strict=True)
        ]
        return tuple(
            replace(
                self,
                setting=replace(self.setting, shape=dy.shape, shares=None),
                batches=tuple(batch[number] for batch in batches),
                masks=tuple(mask[number] for mask in masks),
                dy=dy,
            )
            for number, dy in enumerate(shares.split(self.dy))
        )

    def is_apart(self, what: str) -> bool:
        """Return whether an output is due of each part by itself, and not of the whole batch."""
        shares = self.setting.shares
        of_batch = what == record.TRAINING_OUTPUT or what in record.GRADIENTS
        return shares is not None and not shares.synchronized and of_batch

    @property
    def is_empty(self) -> bool:
        """Whether no sample of the first batch counts."""
        mask = self.masks[0]
        return self.batches[0].size == 0 if mask is None else not np.any(mask)

    def narrowed(self, dtype: str) -> "Evidence":
        """Return the same as a subject has it that computes in a narrower dtype than was asked.

        It rounds what it is given first. Moving statistics stay: they are its own by then.

        Args:
            dtype: of what it gave; one that is not narrower changes nothing.
        """
        setting = self.setting
        if not is_narrower(dtype, setting.dtype):
            return self
        parts = given(gamma=setting.gamma, beta=setting.beta)
        parts |= given(moving_mean=setting.moving_mean, moving_variance=setting.moving_variance)
        rounded = {name: as_type(part, dtype).astype(np.float64) for name, part in parts.items()}
        return replace(
            self,
            setting=replace(setting, dtype=dtype, **rounded),
            batches=tuple(as_type(x, dtype) for x in self.batches),
            dy=as_type(self.dy, dtype),
            probe=as_type(self.probe, dtype),
        )

    def passes(self, what: str) -> bool:
        """Whether an output that is judged lies within its tolerance."""
        actual, due = np.asarray(self.actual[what]).astype(np.float64), self.expected[what]
        if actual.shape != due.shape:
            return False
        tolerance = np.where(np.isfinite(due), self.tolerance[what], 0.0)
        return bool(np.all(distance(actual, due) <= tolerance))


def expected(evidence: Evidence, what: str) -> np.ndarray:
    """Return what an output should be.

    Args:
        evidence: the data; for the inference output also the subject's own moving statistics in
            `actual`, if it has any, in place of those it was set up with.
        what: the name of the output.

    Returns:
        float64, in the output's shape.
    """
    if evidence.is_apart(what):
        return joined(what, [expected_of_part(part, what) for part in evidence.parts])
    x, mask = evidence.batches[0], evidence.masks[0]
    gamma, beta, *_ = evidence.setting.parameters
    settings = (evidence.axes, evidence.epsilon)
    # NaN and infinity are data here, and the cases that hold them say so.
    with np.errstate(all="ignore"):
        if what in record.STATISTICS:
            return _moving(evidence)[record.STATISTICS.index(what)]
        if what == record.TRAINING_OUTPUT:
            return reference.forward(x, gamma, beta, *settings, mask)[0]
        if what == record.INFERENCE_OUTPUT:
            used = evidence.own_statistics
            return reference.infer(evidence.probe, *used, gamma, beta, *settings)
        return _gradients(evidence)[_SLOPES[what]]


def expected_of_part(part: Evidence, what: str) -> np.ndarray:
    """Return what is due of one replica; nothing that could be judged where it has no samples."""
    if part.is_empty:
        summed = what in (record.DGAMMA, record.DBETA)
        return np.zeros(part.setting.kept_shape if summed else part.setting.shape)
    return expected(part, what)


# Each of several outputs of a case is asked for in turn, first what it is and then how exactly.
@lru_cache(maxsize=2)
def _moving(evidence: Evidence) -> tuple[np.ndarray, ...]:
    *_, mean, variance = evidence.setting.parameters
    return reference.exponential_moving_average(
        evidence.batches,
        evidence.axes,
        evidence.decay,
        unbiased=evidence.unbiased,
        masks=evidence.masks,
        initial_mean=mean,
        initial_variance=variance,
    )


@lru_cache(maxsize=2)
def _gradients(evidence: Evidence) -> dict[str, np.ndarray]:
    x, mask, gamma = evidence.batches[0], evidence.masks[0], evidence.setting.parameters.gamma
    return reference.gradients(evidence.dy, x, gamma, evidence.axes, evidence.epsilon, mask)


def distance(actual: np.ndarray, due: np.ndarray) -> np.ndarray:
    """Return |actual - due|, 0 where neither is finite: sums in another order give NaN or inf.

    Example:
        >>> distance(np.array([np.nan, 1.0, np.inf]), np.array([np.inf, 3.0, 1.0]))
        array([ 0.,  2., inf])
    """
    neither = ~np.isfinite(actual) & ~np.isfinite(due)
    return np.where(neither, 0.0, elementwise_error(actual, due))


def compare(
    what: str, actual: np.ndarray, due: np.ndarray, tolerance: np.ndarray, dtype: str
) -> Check:
    """Return whether an output lies within its tolerance, and how far off it is.

    Where the expected value is NaN or infinite, any value that is not finite will do: sums in
    another order give one or the other. Elsewhere a value that is not finite is infinitely far off.

    Args:
        what: the output's name.
        actual: as the subject gave it, of any shape and dtype.
        due: what it should be, float64.
        tolerance: absolute, in the shape of `due`; infinite where anything will do.
        dtype: the type whose units in the last place are counted.

    Returns:
        The check. The largest differences leave out the elements for which anything will do.

    Example:
        >>> compare("dx", np.ones(2, np.float32), np.ones(2), np.zeros(2), "float32").passed
        True
    """
    reason = wrong_kind(actual, due.shape)
    if reason is not None:
        return Check(what, False, reason=reason)
    tolerance = np.where(np.isfinite(due), tolerance, 0.0)
    judged = ~np.isposinf(tolerance)
    values, due, tolerance = actual.astype(np.float64)[judged], due[judged], tolerance[judged]
    finite, error = np.isfinite(due), distance(values, due)
    apart = difference(np.where(finite | np.isfinite(values), values, due), due, dtype)
    if not error.size:
        return Check(what, True, 0.0, 0.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0/0 is an exact result that had to be exact.
        share = np.nan_to_num(error / tolerance, nan=0.0, posinf=np.inf)
    worst = int(np.argmax(share))
    return Check(
        what,
        passed=bool(np.all(error <= tolerance)),
        absolute=apart.absolute,
        relative=apart.relative,
        ulps=apart.ulps,
        tolerance=float(tolerance[worst]),
        error=float(error[worst]),
        reason=_about_not_finite(values, finite),
    )


def wrong_kind(actual: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with an output before its values are looked at, or None."""
    if actual.dtype not in _NUMBERS:
        return f"dtype {actual.dtype}, which is no floating type"
    if actual.shape != shape:
        return f"shape {actual.shape}, expected {shape}"
    return None


def _about_not_finite(values: np.ndarray, finite: np.ndarray) -> str | None:
    """Return in words what numbers do not say."""
    if np.any(finite & ~np.isfinite(values)):
        return "NaN or infinite where it should be a number"
    if np.any(~finite & np.isfinite(values)):
        return "a number where the input's NaN or infinity should show"
    return None
