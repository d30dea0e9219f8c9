"""Reports as JSON has them: plain dictionaries, lists, numbers and text."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from batchnorm_mechanics.conformance.record import CaseResult, Report


def report_as_json(report: Report) -> dict[str, Any]:
    """Return a report in the form that `json.dumps` takes, with nothing in it that JSON lacks.

    Args:
        report: of one subject.

    Returns:
        `name`, `description`, `passed`, `seconds`; `conventions`, as in `Conventions`; `cases`,
        each with `case`, `group`, `status`, `reason`, `seconds` and `checks`, as in `Check`;
        `failures`, one for each failed check, with `case`, `what`, `error`, `tolerance`,
        `diagnosis` and `reason`. null stands for what there is no number for: nothing could be
        compared, or the difference is infinite; `reason` then says which.

    Example:
        >>> from batchnorm_mechanics.conformance.record import Conventions
        >>> report_as_json(Report("mine", "", Conventions(), ()))["failures"]
        []
    """
    return {
        "name": report.name,
        "description": report.description,
        "passed": report.passed,
        "seconds": round(report.seconds, 3),
        "conventions": _finite(asdict(report.conventions)),
        "cases": [_finite(asdict(case)) for case in report.cases],
        "failures": [
            failure for case in report.cases if case.status == "fail" for failure in _failures(case)
        ],
    }


def document(reports: Sequence[Report], *, finished: bool = True) -> dict[str, Any]:
    """Return what `bnm conform --json` prints.

    Args:
        reports: of all subjects.
        finished: False if the run was interrupted, and reports may lack cases and diagnoses.

    Returns:
        `passed`, whether no subject failed; `finished`; `subjects`, as `report_as_json` has them.
    """
    return {
        "passed": all(report.passed for report in reports),
        "finished": finished,
        "subjects": [report_as_json(report) for report in reports],
    }


def _failures(case: CaseResult) -> list[dict[str, Any]]:
    return [
        _finite(
            {
                "case": case.case,
                "what": check.what,
                "error": check.error,
                "tolerance": check.tolerance,
                "diagnosis": check.diagnosis,
                "reason": check.reason,
            }
        )
        for check in case.checks
        if not check.passed
    ]


def _finite(value: Any) -> Any:
    """Return a copy with None for each number that JSON has no literal for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
