"""Judge one subject in this process: conventions, all cases, and what explains the failures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics.conformance.cases import CASES, Case, judged
from batchnorm_mechanics.conformance.conventions import find_conventions
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.judge import judge
from batchnorm_mechanics.conformance.record import CaseResult, Report
from batchnorm_mechanics.conformance.subjects import as_subject, resolve


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
