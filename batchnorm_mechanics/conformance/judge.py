"""Judge one subject in this process: conventions, all cases, and what explains the failures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.cases import CASES, Case, Data, draw, judged
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.evidence import Due, Evidence, compare, expected, wrong_kind
from batchnorm_mechanics.conformance.questions import (
    Answers,
    Claim,
    ask_all,
    ask_empty,
    in_one_line,
)
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions, Report
from batchnorm_mechanics.conformance.subject import Ability, Setting, Subject
from batchnorm_mechanics.conformance.subjects import as_subject, resolve
from batchnorm_mechanics.conformance.tolerance import bound

# More than any variance, and less than infinity, which comes of no computation that went well.
_ANYTHING_FINITE = float(np.finfo(np.float64).max)
_UNDEFINED = "nobody defines what is due without samples"
_OF_X = (record.TRAINING_OUTPUT, record.INFERENCE_OUTPUT, record.DX)


def conform(
    subject: Any,
    *,
    name: str | None = None,
    cases: Sequence[Case] = CASES,
    strict: bool = False,
    progress: Callable[[CaseResult], None] | None = None,
) -> Report:
    """Say whether an implementation of batch normalization is right, and what conventions it has.

    It runs in this process: a subject that hangs or crashes takes the process along. The command
    `bnm conform` guards against that.

    Args:
        subject: the name of a built-in one such as "keras", `path/to/file.py:Name` or
            `package.module:Name`; or a Keras layer class, an instance of one, or a function
            `f(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training)
            -> (y, new_moving_mean, new_moving_variance)`.
        name: what the report calls it; its own name by default.
        cases: what to ask it; `batchnorm_mechanics.conformance.cases.select` picks some.
        strict: whether to judge edge cases too, of which nobody defines what is due.
        progress: called with each result as it comes.

    Returns:
        The report. `passed` says whether all is well, `print` shows it as a table, and `to_dict`
        gives what JSON has.

    Raises:
        InputError: there is no such subject, or it is nothing that can be judged.

    Example:
        >>> import keras
        >>> from batchnorm_mechanics.conformance.cases import select
        >>> report = conform(keras.layers.BatchNormalization, cases=select("one step rank 2"))
        >>> report.passed, report.conventions.moving_variance
        (True, 'biased')
    """
    begun = time.perf_counter()
    asked = resolve(subject) if isinstance(subject, str) else as_subject(subject, name)
    conventions = find_conventions(asked)
    results, evidence = [], []
    for case in judged(cases) if strict else cases:
        result, found = judge(asked, case, conventions)
        results.append(result)
        evidence.append(found if telling(result, found) else None)
        if progress is not None:
            progress(result)
    return Report(
        name=asked.name if name is None else name,
        description=asked.description,
        conventions=conventions,
        cases=explain(results, evidence),
        seconds=time.perf_counter() - begun,
    )


def telling(result: CaseResult, evidence: Evidence | None) -> bool:
    """Return whether a case's evidence helps to explain failures.

    A failure's does, and so do right answers under a mask: where all is masked out, many mistakes
    look alike, and most of them would show where only some is. Other evidence would cost more time
    than it tells.
    """
    return evidence is not None and (
        result.status == "fail" or any(mask is not None for mask in evidence.masks)
    )


def explain(
    results: Sequence[CaseResult], evidence: Sequence[Evidence | None]
) -> tuple[CaseResult, ...]:
    """Return the results with the mistakes that explain the failures, all of them seen together.

    Args:
        results: of one subject.
        evidence: for each of them, None where there is none, or none that is `telling`.

    Returns:
        The results; each failed check of which a mistake gives the very numbers has its name.
    """
    failures = [
        (found, check.what)
        for result, found in zip(results, evidence, strict=True)
        for check in result.checks
        if found is not None and not check.passed and check.what in found.actual
    ]
    if not failures:
        return tuple(results)
    # It computes with TensorFlow, which takes seconds to import, and not every subject needs it.
    import_tensorflow_quietly()
    from batchnorm_mechanics.conformance.diagnosis import diagnose

    passed = [
        found
        for result, found in zip(results, evidence, strict=True)
        if found is not None and result.status == "pass"
    ]
    names = iter(diagnose(failures, passed))
    explained = []
    for result, found in zip(results, evidence, strict=True):
        checks = tuple(
            replace(check, diagnosis=next(names))
            if found is not None and not check.passed and check.what in found.actual
            else check
            for check in result.checks
        )
        explained.append(replace(result, checks=checks))
    return tuple(explained)


def judge(
    subject: Subject, case: Case, conventions: Conventions
) -> tuple[CaseResult, Evidence | None]:
    """Ask a subject for everything that a case is about, and compare it with the oracle.

    Args:
        subject: who is judged.
        case: by what.
        conventions: the subject's, found before: they say which variance its moving average takes
            in, and what it does where it cannot be set.

    Returns:
        The result, and the evidence from which a mistake can be diagnosed; None where there is
        none: nothing was asked, or there were no samples.

    Example:
        >>> from batchnorm_mechanics.conformance.cases import select
        >>> from batchnorm_mechanics.conformance import subjects
        >>> [case] = select("one step rank 2")
        >>> judge(subjects.resolve("keras"), case, Conventions("biased", "old"))[0].status
        'pass'
    """
    begun = time.perf_counter()
    data = draw(case)
    try:
        setting, reason = _setting(subject, case, data)
    except Exception as error:  # To say whether it is made for a setting, a user's code may run.
        check = Check("setting", False, reason=f"raised {in_one_line(error)}")
        return CaseResult(case.name, case.group, "fail", (check,)), None
    reason = reason or _missing(subject, case, conventions)
    if setting is None or reason is not None:
        return CaseResult(case.name, case.group, "skipped", reason=reason), None
    answers = Answers(subject, setting, data, may_refuse=_samples(case, data) <= 1)
    evidence = None
    if case.samples == 0:
        ask_empty(answers)
        result = _result(case, answers.checks, [])
    else:
        ask_all(answers, case)
        evidence, beyond = _with_due(_evidence(answers, conventions), case)
        evidence = _with_claims(evidence, answers.claims)
        result = _result(case, _compare(answers, evidence, case, beyond), beyond)
    return replace(result, seconds=time.perf_counter() - begun), evidence


def _setting(subject: Subject, case: Case, data: Data) -> tuple[Setting | None, str | None]:
    """Return how the subject is to be set up, or why it is not made for that."""
    momentum = case.decay if subject.declared_momentum == "old" else 1 - case.decay
    full = Setting(
        shape=case.shape,
        kept=case.kept,
        dtype=case.dtype,
        epsilon=case.epsilon if subject.takes_epsilon else None,
        momentum=None if subject.declared_momentum is None else momentum,
        gamma=None if "gamma" in subject.lacks else data.gamma,
        beta=None if "beta" in subject.lacks else data.beta,
        moving_mean=data.moving_mean,
        moving_variance=data.moving_variance,
    )
    # Not everything that normalizes has moving statistics, or lets one set them.
    without = replace(full, moving_mean=None, moving_variance=None)
    refusals = [(setting, subject.refusal(setting)) for setting in (full, without)]
    for setting, reason in refusals:
        if reason is None:
            return setting, None
    return None, refusals[0][1]


def _missing(subject: Subject, case: Case, conventions: Conventions) -> str | None:
    """Return why a case makes no sense for a subject, whatever its setting."""
    needed = {Ability.MASK} if case.mask else set()
    if case.follow_up == "saving":
        needed.add(Ability.RELOAD)
    elif case.follow_up in ("repeating", "one alone"):
        needed.add(Ability.INFER)
    missing = sorted(needed - subject.abilities)
    if missing:
        return f"it has no {', no '.join(missing)}"
    if not subject.takes_epsilon and conventions.default_epsilon is None:
        return "its epsilon can be neither set nor found out"
    return None


def _samples(case: Case, data: Data | Evidence) -> int:
    """Return how many samples the statistics of the largest batch have behind them."""
    axes = tuple(axis for axis in range(len(case.shape)) if axis not in case.kept)
    with np.errstate(all="ignore"):  # A NaN counts as a sample.
        counts = [
            reference.moments(x, axes, mask)[2]
            for x, mask in zip(data.batches, data.masks, strict=True)
        ]
    return int(max(np.max(count) for count in counts))


def _evidence(answers: Answers, conventions: Conventions) -> Evidence:
    """Return what was given and what came back, with what the subject has where it was not set."""
    setting, data = answers.setting, answers.data
    kept = tuple(setting.shape[axis] for axis in setting.kept or ())

    def filled(value: np.ndarray | None, otherwise: float | None) -> np.ndarray | None:
        return np.full(kept, otherwise) if value is None and otherwise is not None else value

    epsilon, momentum = setting.epsilon, setting.momentum
    setting = replace(
        setting,
        epsilon=conventions.default_epsilon if epsilon is None else epsilon,
        momentum=conventions.default_momentum if momentum is None else momentum,
        gamma=filled(setting.gamma, 1.0),
        beta=filled(setting.beta, 0.0),
        moving_mean=filled(setting.moving_mean, conventions.initial_mean),
        moving_variance=filled(setting.moving_variance, conventions.initial_variance),
    )
    return Evidence(
        setting=setting,
        momentum_weighs=answers.subject.declared_momentum or conventions.momentum_weighs,
        unbiased=conventions.moving_variance == "unbiased",
        batches=data.batches,
        masks=data.masks,
        dy=data.dy,
        probe=data.probe,
        actual=answers.actual,
    )


def _with_due(evidence: Evidence, case: Case) -> tuple[Evidence, list[str]]:
    """Add what the oracle gives for each output, and how far off it may be.

    Returns:
        The evidence, and the names of the outputs that the dtype leaves nothing to judge by.
    """
    values, tolerances, beyond = {}, {}, []
    for what in record.OUTPUTS:
        if not _can_be_judged(evidence, what):
            continue
        allowed = bound(evidence, what)
        tolerance = np.array(allowed.tolerance)
        if what == record.TRAINING_OUTPUT and evidence.masks[0] is not None:
            # What becomes of a sample that does not count is its own affair.
            tolerance[~evidence.masks[0]] = np.inf
        if what == record.MOVING_VARIANCE and evidence.unbiased and _samples(case, evidence) == 1:
            # One sample has no unbiased variance: anything finite is as good as any other.
            tolerance[...] = _ANYTHING_FINITE
        if np.all(np.isposinf(tolerance)):
            continue
        values[what], tolerances[what] = expected(evidence, what), tolerance
        if not allowed.judgeable:
            beyond.append(what)
    return replace(evidence, expected=values, tolerance=tolerances), beyond


def _can_be_judged(evidence: Evidence, what: str) -> bool:
    """Return whether there is an output, and everything known that it depends on."""
    if what not in evidence.actual:
        return False
    setting = evidence.setting
    if what in record.STATISTICS:
        return setting.momentum is not None and setting.moving_mean is not None
    if what == record.INFERENCE_OUTPUT:
        # Statistics of the wrong shape fail by themselves; nothing can be inferred by them.
        kept = tuple(setting.shape[axis] for axis in setting.kept or ())
        return all(
            part is not None and wrong_kind(part, kept) is None
            for part in (
                evidence.actual.get(record.MOVING_MEAN, setting.moving_mean),
                evidence.actual.get(record.MOVING_VARIANCE, setting.moving_variance),
            )
        )
    return True


def _with_claims(evidence: Evidence, claims: list[Claim]) -> Evidence:
    """Add what must hold besides the usual outputs, if what it is measured by is known."""
    actual, values, tolerances = (
        dict(part) for part in (evidence.actual, evidence.expected, evidence.tolerance)
    )
    for claim in claims:
        if claim.like is not None and claim.like not in evidence.tolerance:
            continue
        value = claim.due
        if value is None:
            value = evidence.expected[claim.like or claim.what][: claim.first]
        tolerance = np.zeros(value.shape)
        if claim.like is not None:
            tolerance = claim.times * evidence.tolerance[claim.like][: claim.first]
        actual[claim.what] = claim.actual
        values[claim.what], tolerances[claim.what] = value.astype(np.float64), tolerance
    return replace(evidence, actual=actual, expected=values, tolerance=tolerances)


def _compare(answers: Answers, evidence: Evidence, case: Case, beyond: list[str]) -> list[Check]:
    """Return all checks; what is beyond judging passes if it is at all what it should be."""
    checks = list(answers.checks)
    for what, value in evidence.expected.items():
        due = Due(value, evidence.tolerance[what], _dtype(what, case))
        check = compare(what, evidence.actual[what], due)
        if what in beyond and check.absolute is not None:
            check = replace(check, passed=True, reason=f"measured, not judged: {case.dtype}")
        checks.append(check)
    if case.group == "dtype" and record.TRAINING_OUTPUT in evidence.actual:
        checks.append(_output_dtype(evidence.actual[record.TRAINING_OUTPUT], case))
    return checks


def _output_dtype(y: np.ndarray, case: Case) -> Check:
    right = y.dtype.name == case.dtype
    reason = None if right else f"dtype {y.dtype.name}, the input's is {case.dtype}"
    return Check("dtype of the output", right, reason=reason)


def _dtype(what: str, case: Case) -> str:
    """Return the type whose last places are counted: statistics of half types are float32."""
    return case.dtype if what in _OF_X or case.dtype == "float64" else "float32"


def _result(case: Case, checks: list[Check], beyond: list[str]) -> CaseResult:
    status, reason = "pass", None
    if any(not check.passed for check in checks):
        status, reason = ("measured", _UNDEFINED) if case.undefined else ("fail", None)
    elif not checks:
        status, reason = "skipped", "nothing of what it is about can be asked"
    elif beyond:
        status = "measured"
        reason = f"{case.dtype} has no digit left to judge by: {', '.join(beyond)}"
    return CaseResult(case.name, case.group, status, tuple(checks), reason)
