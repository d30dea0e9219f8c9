"""Judge one subject in this process: conventions, all cases, and what explains the failures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.cases import (
    CASES,
    Case,
    Data,
    draw,
    judged,
    select,
    shared,
)
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.diagnosis import diagnose
from batchnorm_mechanics.conformance.due import compared, samples, with_due
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.limits import required, settled
from batchnorm_mechanics.conformance.questions import (
    Answers,
    ask_all,
    ask_empty,
    raised,
    told_by_itself,
)
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions, Status
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.shares import checked
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Setting,
    Subject,
    given,
)
from batchnorm_mechanics.conformance.subjects import as_subject, resolve, shared_by

_UNDEFINED = "nobody defines what is due without samples"

# What came of a case, and the evidence from which a mistake can be diagnosed; None where there is
# none: nothing was asked, or there were no samples.
Judged = tuple[CaseResult, Evidence | None]


def conform(
    subject: Any,
    *,
    name: str | None = None,
    cases: Sequence[Case] | str = CASES,
    strict: bool = False,
    require: str | Sequence[str] = (),
    replicas: int = 1,
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
        cases: what to ask it, or a group of cases or part of a name that selects them.
        strict: whether to judge edge cases too, of which nobody defines what is due.
        require: what it must take to pass, as `"axes, float64"`: axes, ranks, float64, float32,
            bfloat16, float16, training, inference, statistics, gradients, masks, saving.
        replicas: how many share each batch of training, on as many devices of the processor, under
            a strategy of tf.distribute; of Keras layers alone. A layer that is `synchronized` is
            held to what one replica gives for the whole batch; another to normalizing by each
            part, with moving statistics that are the whole batch's on every replica.
        progress: called with each result as it comes.

    Returns:
        The report. It is true if nothing is wrong, so that `assert conform(...)` is a test;
        `verdict` says what is, `print` shows it, and `to_dict` gives what JSON has.

    Raises:
        InputError: there is no such subject, or it is nothing that can be judged; or there are no
            such cases, or nothing of the kind to require; or it knows nothing of replicas.

    Example:
        >>> import keras
        >>> report = conform(keras.layers.BatchNormalization, cases="one step rank 2")
        >>> report.passed, report.conventions.moving_variance
        (True, 'biased')
        >>> report.verdict.sentence
        'Right.'
    """
    begun = time.perf_counter()
    needed = required(require)
    table = shared(CASES, checked(replicas))
    chosen = select(cases, table) if isinstance(cases, str) else shared(cases, replicas)
    is_named = isinstance(subject, str)
    asked = shared_by(replicas, lambda: resolve(subject) if is_named else as_subject(subject, name))
    conventions = find_conventions(asked)
    results: list[Judged] = []
    for case in judged(chosen) if strict else chosen:
        results.append(telling(judge(asked, case, conventions)))
        if progress is not None:
            progress(results[-1][0])
    report = reported(asked, conventions, explain(results))
    return replace(
        report,
        name=asked.name if name is None else name,
        seconds=time.perf_counter() - begun,
        required=needed,
        spec=subject if is_named else None,
        replicas=replicas,
    )


def reported(subject: Subject, conventions: Conventions, cases: Sequence[CaseResult]) -> Report:
    """Return a report with what a subject says of itself."""
    return Report(
        name=subject.name,
        description=subject.description,
        conventions=conventions,
        cases=tuple(cases),
        taken_as=subject.taken_as,
        abilities=tuple(sorted(subject.abilities)),
    )


def telling(found: Judged) -> Judged:
    """Leave out the evidence of a case that does not help to explain failures.

    A failure's does, and so do right answers under a mask: where all is masked out, many mistakes
    look alike, and most of them would show where only some is. Other evidence would cost more time
    than it tells.
    """
    result, evidence = found
    masked = evidence is not None and any(mask is not None for mask in evidence.masks)
    return result, evidence if result.status == "fail" or masked else None


def explain(found: Sequence[Judged]) -> tuple[CaseResult, ...]:
    """Return the results with the mistakes that explain the failures, all of them seen together.

    Args:
        found: of one subject, as `telling` leaves it.

    Returns:
        The results; each failed check of which a mistake gives the very numbers has its name, and
        what comes of a limit is no failure.
    """
    failures = [
        (number, check.what, evidence)
        for number, (result, evidence) in enumerate(found)
        for check in result.checks
        if evidence is not None
        and not check.passed
        and check.what in evidence.actual
        and told_by_itself(check.what) is None
    ]
    passed = [each for result, each in found if each is not None and result.status == "pass"]
    diagnoses = diagnose([(evidence, what) for _, what, evidence in failures], passed)
    names = {failure[:2]: name for failure, name in zip(failures, diagnoses, strict=True)}
    return settled(
        [
            replace(
                result,
                checks=tuple(
                    check
                    if check.passed
                    else replace(
                        check,
                        diagnosis=told_by_itself(check.what) or names.get((number, check.what)),
                    )
                    for check in result.checks
                ),
            )
            for number, (result, _) in enumerate(found)
        ]
    )


def judge(subject: Subject, case: Case, conventions: Conventions) -> Judged:
    """Ask a subject for everything that a case is about, and compare it with the oracle.

    Args:
        subject: who is judged.
        case: by what.
        conventions: the subject's, found before: they say which variance its moving average takes
            in, and what it does where it cannot be set.

    Returns:
        The result and the evidence.

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
        return result_of(case, "fail", (raised("setting", error),)), None
    reason = reason or _missing(subject, case, conventions)
    if setting is None or reason is not None:
        return result_of(case, "skipped", reason=reason), None
    answers = Answers(subject, setting, data, may_refuse=samples(data, setting) <= 1)
    evidence, beyond = None, []
    if case.samples == 0:
        ask_empty(answers)
    else:
        ask_all(answers, case)
        evidence, beyond = with_due(_evidence(answers, conventions), answers.claims)
        answers.checks += compared(evidence, case, beyond)
    result = _result(case, answers.checks, beyond)
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
        shares=case.shares and replace(case.shares, synchronized=subject.synchronized),
    )
    # Not everything that normalizes has moving statistics, or lets one set them.
    without = replace(full, moving_mean=None, moving_variance=None)
    reasons = []
    for setting in (full, without):
        reasons.append(subject.refusal(setting))
        if reasons[-1] is None:
            return setting, None
    return None, reasons[0]


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


def _evidence(answers: Answers, conventions: Conventions) -> Evidence:
    """Return what was given and what came back, with what the subject has where it was not set."""
    setting, data = answers.setting, answers.data
    found = {
        "epsilon": conventions.default_epsilon,
        "momentum": conventions.default_momentum,
        "moving_mean": conventions.initial_mean,
        "moving_variance": conventions.initial_variance,
    }
    for name, value in given(**found).items():
        if getattr(setting, name) is None:
            of_each = name.startswith("moving")
            filled = np.full(setting.kept_shape, value) if of_each else value
            setting = replace(setting, **{name: filled})
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


def _result(case: Case, checks: list[Check], beyond: list[str]) -> CaseResult:
    status: Status = "pass"
    reason = None
    if any(not check.passed for check in checks):
        status, reason = ("measured", _UNDEFINED) if case.undefined else ("fail", None)
    elif not checks:
        status, reason = "skipped", "nothing of what it is about can be asked"
    elif beyond:
        status = "measured"
        reason = f"{case.dtype} has no digit left to judge by: {', '.join(beyond)}"
    return result_of(case, status, tuple(checks), reason)


def result_of(
    case: Case, status: Status, checks: tuple[Check, ...] = (), reason: str | None = None
) -> CaseResult:
    """Return what came of a case, with what it was about."""
    return CaseResult(
        case=case.name,
        group=case.group,
        status=status,
        checks=checks,
        reason=reason,
        shape=case.shape,
        kept=case.kept,
        dtype=case.dtype,
        deviations=abs(case.offset) / case.scale,
    )
