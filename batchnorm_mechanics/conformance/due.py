"""What is due of a subject's answers in one case, and how they compare with it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.cases import Case, Data
from batchnorm_mechanics.conformance.evidence import Evidence, compare, expected, wrong_kind
from batchnorm_mechanics.conformance.questions import Claim
from batchnorm_mechanics.conformance.record import Check
from batchnorm_mechanics.conformance.subject import Setting, is_narrower, wide
from batchnorm_mechanics.conformance.tolerance import bound

# More than any variance, and less than infinity, which comes of no computation that went well.
_ANYTHING_FINITE = float(np.finfo(np.float64).max)
_OF_X = (record.TRAINING_OUTPUT, record.INFERENCE_OUTPUT, record.DX)


def samples(data: Data | Evidence, setting: Setting) -> int:
    """Return how many samples the statistics of the largest batch have behind them."""
    with np.errstate(all="ignore"):  # A NaN counts as a sample.
        counts = [
            reference.moments(x, setting.axes, mask)[2]
            for x, mask in zip(data.batches, data.masks, strict=True)
        ]
    return int(max(np.max(count) for count in counts))


def with_due(evidence: Evidence, claims: Sequence[Claim]) -> tuple[Evidence, list[str]]:
    """Add what the oracle gives for each output, what else must hold, and how far off each may be.

    Returns:
        The evidence, and the names of the outputs that the dtype leaves nothing to judge by.
    """
    for what in _OF_X:
        # What computes in a narrower dtype than it was asked for is judged as if asked for that.
        if what in evidence.actual:
            evidence = evidence.narrowed(evidence.actual[what].dtype.name)
    actual, values, tolerances, beyond = dict(evidence.actual), {}, {}, []
    for what in record.OUTPUTS:
        if not _can_be_judged(evidence, what):
            continue
        asked = evidence.narrowed(evidence.actual[what].dtype.name)
        allowed = bound(asked, what)
        tolerance = np.array(allowed.tolerance)
        if what == record.TRAINING_OUTPUT and evidence.masks[0] is not None:
            # What becomes of a sample that does not count is its own affair.
            tolerance[~evidence.masks[0]] = np.inf
        kind_matters = what == record.MOVING_VARIANCE and evidence.unbiased
        if kind_matters and samples(evidence, evidence.setting) == 1:
            # One sample has no unbiased variance: anything finite is as good as any other.
            tolerance[...] = _ANYTHING_FINITE
        if np.all(np.isposinf(tolerance)):
            continue
        values[what], tolerances[what] = expected(asked, what), tolerance
        if not allowed.judgeable:
            beyond.append(what)
    for claim in claims:
        value, like = claim.due, claim.like
        if like is not None and like not in tolerances:
            continue  # What it is measured by is not known.
        if value is None:
            value = values[like or claim.what][: claim.first]
        exact = np.zeros(value.shape)
        tolerance = exact if like is None else claim.times * tolerances[like][: claim.first]
        actual[claim.what] = claim.actual
        values[claim.what], tolerances[claim.what] = value.astype(np.float64), tolerance
    return replace(evidence, actual=actual, expected=values, tolerance=tolerances), beyond


def _can_be_judged(evidence: Evidence, what: str) -> bool:
    """Return whether there is an output, and everything known that it depends on."""
    if what not in evidence.actual:
        return False
    setting = evidence.setting
    if what in record.STATISTICS:
        return setting.momentum is not None and setting.moving_mean is not None
    if what == record.INFERENCE_OUTPUT:
        # Statistics of the wrong shape fail by themselves; nothing can be inferred by them.
        return all(
            part is not None and wrong_kind(part, setting.kept_shape) is None
            for part in (
                evidence.actual.get(record.MOVING_MEAN, setting.moving_mean),
                evidence.actual.get(record.MOVING_VARIANCE, setting.moving_variance),
            )
        )
    return True


def compared(evidence: Evidence, case: Case, beyond: list[str]) -> list[Check]:
    """Return a check for each output; what is beyond judging passes if it can be compared."""
    checks = []
    for what, due in evidence.expected.items():
        # Statistics of half types are float32.
        dtype = case.dtype if what in _OF_X else wide(case.dtype)
        if is_narrower(evidence.actual[what].dtype.name, dtype):
            dtype = evidence.actual[what].dtype.name
        check = compare(what, evidence.actual[what], due, evidence.tolerance[what], dtype)
        if what in beyond and check.absolute is not None:
            check = replace(check, passed=True, reason=f"measured, not judged: {case.dtype}")
        checks.append(check)
    return checks + _dtype_of_the_output(evidence, case)


def _dtype_of_the_output(evidence: Evidence, case: Case) -> list[Check]:
    """Return whether the output has the input's dtype, where it is asked, or anything a narrower.

    A narrower one is a limit if it is everywhere so, which is not known yet.
    """
    dtypes = {
        what: evidence.actual[what].dtype.name for what in record.OUTPUTS if what in evidence.actual
    }
    for what, dtype in dtypes.items():
        # Statistics of half types are float32, or as narrow as the type itself.
        if is_narrower(dtype, case.dtype):
            of_it = "" if what in _OF_X else f" of the {what}"
            reason = f"dtype {dtype}{of_it}, the input's is {case.dtype}"
            return [Check("dtype of the output", False, reason=reason, limit=case.dtype)]
    given = dtypes.get(record.TRAINING_OUTPUT)
    if case.group != "dtype" or given is None:
        return []
    right = given == case.dtype
    reason = None if right else f"dtype {given}, the input's is {case.dtype}"
    return [Check("dtype of the output", right, reason=reason)]
