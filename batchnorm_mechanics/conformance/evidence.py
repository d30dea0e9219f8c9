"""What a subject was given in one case, what came back, and what should have come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import ml_dtypes
import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics._difference import difference, elementwise_error
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.record import Check
from batchnorm_mechanics.conformance.subject import Setting

_SLOPES = {record.DX: "d_x", record.DGAMMA: "d_gamma", record.DBETA: "d_beta"}
_NUMBERS = {np.dtype(ml_dtypes.bfloat16)} | {np.dtype(name) for name in ("f2", "f4", "f8")}


@dataclass(frozen=True, eq=False)
class Evidence:
    """All data of one case, enough to try out what a mistaken implementation would have given.

    Attributes:
        setting: the setting as the subject was opened with it, with epsilon, momentum, gamma, beta,
            moving mean and moving variance all filled in: where the subject could not be set, with
            what it has by itself.
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
        reloaded: whether the case asks for outputs after saving and loading.
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
    reloaded: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes reduced over."""
        kept = self.setting.kept or ()
        return tuple(axis for axis in range(len(self.setting.shape)) if axis not in kept)


def expected(evidence: Evidence, what: str) -> np.ndarray:
    """Return what an output should be.

    Args:
        evidence: the data; for the inference output also the subject's own moving statistics in
            `actual`, if it has any, in place of those it was set up with.
        what: the name of the output.

    Returns:
        float64, in the output's shape.
    """
    setting, x, mask = evidence.setting, evidence.batches[0], evidence.masks[0]
    # NaN and infinity are data here, and the cases that hold them say so.
    with np.errstate(all="ignore"):
        if what in record.STATISTICS:
            return moving_statistics(evidence)[what == record.MOVING_VARIANCE]
        settings = (evidence.axes, epsilon(evidence))
        if what == record.TRAINING_OUTPUT:
            return reference.forward(x, setting.gamma, setting.beta, *settings, mask)[0]
        if what == record.INFERENCE_OUTPUT:
            used = inference_statistics(evidence)
            return reference.infer(evidence.probe, *used, setting.gamma, setting.beta, *settings)
        slopes = reference.gradients(evidence.dy, x, setting.gamma, *settings, mask)
        return slopes[_SLOPES[what]]


def decay(evidence: Evidence) -> float:
    """Return the weight of the old value that the momentum amounts to, as documented.

    Raises:
        ValueError: the momentum is not known, so that there is nothing to expect.
    """
    momentum = evidence.setting.momentum
    if momentum is None:
        raise ValueError(
            "decay: `evidence.setting.momentum` must be known. Received: "
            "evidence.setting.momentum=None. Do not judge moving statistics without it."
        )
    return 1 - momentum if evidence.momentum_weighs == "new" else momentum


def epsilon(evidence: Evidence) -> float:
    """Return the epsilon of the setting.

    Raises:
        ValueError: it is not known, so that there is nothing to expect.
    """
    if evidence.setting.epsilon is None:
        raise ValueError(
            "epsilon: `evidence.setting.epsilon` must be known. Received: "
            "evidence.setting.epsilon=None. Judge nothing without it."
        )
    return evidence.setting.epsilon


def inference_statistics(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and variance by which the subject should infer: its own where it has them."""
    given = evidence.setting
    mean = evidence.actual.get(record.MOVING_MEAN, given.moving_mean)
    variance = evidence.actual.get(record.MOVING_VARIANCE, given.moving_variance)
    return np.asarray(mean).astype(np.float64), np.asarray(variance).astype(np.float64)


def moving_statistics(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the moving mean and variance after all batches."""
    setting = evidence.setting
    mean, variance = reference.exponential_moving_average(
        evidence.batches,
        evidence.axes,
        decay(evidence),
        unbiased=evidence.unbiased,
        masks=evidence.masks,
        initial_mean=_given(setting.moving_mean, 0.0),
        initial_variance=_given(setting.moving_variance, 1.0),
    )
    return mean, variance


def _given(value: np.ndarray | None, otherwise: float) -> np.ndarray:
    return np.asarray(otherwise if value is None else value, np.float64)


class Due(NamedTuple):
    """What an output should be.

    Attributes:
        value: float64.
        tolerance: absolute, in the value's shape; infinite where anything will do.
        dtype: the type whose units in the last place are counted.
    """

    value: np.ndarray
    tolerance: np.ndarray
    dtype: str


def compare(what: str, actual: np.ndarray, due: Due) -> Check:
    """Return whether an output lies within its tolerance, and how far off it is.

    Where the expected value is NaN or infinite, any value that is not finite will do: sums in
    another order give one or the other. Elsewhere a value that is not finite is infinitely far off.

    Args:
        what: the output's name.
        actual: as the subject gave it, of any shape and dtype.
        due: what it should be.

    Returns:
        The check. The largest differences leave out the elements for which anything will do.

    Example:
        >>> compare("dx", np.ones(2, np.float32), Due(np.ones(2), np.zeros(2), "float32")).passed
        True
    """
    reason = wrong_kind(actual, due.value.shape)
    if reason is not None:
        return Check(what, False, reason=reason)
    finite = np.isfinite(due.value)
    values = actual.astype(np.float64)
    values = np.where(~finite & ~np.isfinite(values), due.value, values)
    tolerance = np.where(finite, due.tolerance, 0.0)
    judged = ~np.isposinf(tolerance)
    error, tolerance = elementwise_error(values, due.value)[judged], tolerance[judged]
    apart = difference(values[judged], due.value[judged], due.dtype)
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
        reason=_about_not_finite(values[judged], finite[judged]),
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
