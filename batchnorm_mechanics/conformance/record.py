"""What conformance finds, as frozen data: checks, cases, conventions, mistakes, reports."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._io.terminal import Shown

Status = Literal["pass", "fail", "measured", "skipped"]

# What a check may be about; each is one output of a subject.
TRAINING_OUTPUT = "training output"
INFERENCE_OUTPUT = "inference output"
MOVING_MEAN = "moving mean"
MOVING_VARIANCE = "moving variance"
DX = "dx"
DGAMMA = "dgamma"
DBETA = "dbeta"
STATISTICS = (MOVING_MEAN, MOVING_VARIANCE)
GRADIENTS = (DX, DGAMMA, DBETA)
OUTPUTS = (TRAINING_OUTPUT, INFERENCE_OUTPUT, *STATISTICS, *GRADIENTS)
# When it was asked for, if not as usual: what the cases that follow something up add to its name.
ALONE = " of one sample alone"
AGAIN = " asked again"
INFERRED = " after inference"
LOADED = " after loading"
STEP_LATER = " one step after loading"
# The longer one first: it ends like the other.
_WHEN = (ALONE, AGAIN, INFERRED, STEP_LATER, LOADED)

# Of what `document` returns. Raise it when that changes;
# tests/formats keeps one of each version.
_FORMAT = 1

_OF_FAILURES = ("what", "error", "tolerance", "diagnosis", "reason")


def parts(what: str) -> tuple[str, str]:
    """Return an output's name and when it was asked for.

    Example:
        >>> parts("moving mean after loading")
        ('moving mean', ' after loading')
    """
    when = next((when for when in _WHEN if what.endswith(when)), "")
    return what.removesuffix(when), when


@dataclass(frozen=True)
class Check:
    """One output of a subject beside the oracle's.

    Attributes:
        what: which output, one of the names above or a behaviour in words.
        passed: whether every element lies within its tolerance.
        absolute, relative, ulps: the largest differences, each over all elements by itself; None
            where nothing could be compared.
        tolerance: the absolute tolerance of the element that comes closest to its own, or exceeds
            it the most.
        error: the absolute error of that element.
        reason: what is wrong in words, where numbers do not say it (raised, hung, wrong shape).
        diagnosis: the name of the mistake that explains a failure, or None.
    """

    what: str
    passed: bool
    absolute: float | None = None
    relative: float | None = None
    ulps: float | None = None
    tolerance: float | None = None
    error: float | None = None
    reason: str | None = None
    diagnosis: str | None = None


@dataclass(frozen=True)
class CaseResult:
    """What came of one case.

    Attributes:
        case: the case's name.
        group: what the case is about, such as "axes" or "offset".
        status: "pass"; "fail"; "measured" if what came is shown and not judged, since the dtype
            has no digit left there or nobody defines what is due; "skipped" if the subject is not
            made for it.
        checks: one for each output.
        reason: why it was skipped or only measured.
        seconds: how long it took.
    """

    case: str
    group: str
    status: Status
    checks: tuple[Check, ...] = ()
    reason: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Conventions:
    """What a subject does, found from its behaviour alone; None where it could not be told.

    Attributes:
        moving_variance: which variance its moving average takes in; "none" if nothing moves,
            "other" if it is neither.
        momentum_weighs: whether its momentum weighs the old value or the new one.
        default_momentum: in the subject's own meaning.
        epsilon_place: where epsilon is added: 1/sqrt(variance + epsilon), or
            1/(sqrt(variance) + epsilon).
        default_epsilon: epsilon when none is set.
        initial_mean, initial_variance: moving statistics before any batch.
        axis_kept: kept axis when none is set, of a rank-4 input: -1 or 1.
        default_mode: what a call without a mode gives.
        moves_in_inference: whether statistics change in inference.
        one_sample: what it does with a single sample behind a statistic: "normalizes" (the output
            is beta) or "refuses".
        empty_batch: "refuses", "ignores" it (statistics stay), or "poisons" them (NaN, or worse).
        large_mean: how the error grows with mean/std: "exact" (not at all), "proportional" (one
            digit lost for each digit of mean/std), or "quadratic" (two digits lost).
    """

    moving_variance: Literal["biased", "unbiased", "none", "other"] | None = None
    momentum_weighs: Literal["old", "new"] | None = None
    default_momentum: float | None = None
    epsilon_place: Literal["inside", "outside"] | None = None
    default_epsilon: float | None = None
    initial_mean: float | None = None
    initial_variance: float | None = None
    axis_kept: int | None = None
    default_mode: Literal["training", "inference"] | None = None
    moves_in_inference: bool | None = None
    one_sample: Literal["normalizes", "refuses"] | None = None
    empty_batch: Literal["refuses", "ignores", "poisons"] | None = None
    large_mean: Literal["exact", "proportional", "quadratic"] | None = None


class View(Protocol):
    """How a report is shown. A record knows no more of it; `conformance` gives it one."""

    def plain_text(self, report: "Report", /) -> str:
        """Return it as a terminal of 80 columns has it."""
        ...


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """Everything about one subject.

    Attributes:
        name, description: the subject's.
        conventions: found before judging.
        cases: in the order of the table of cases.
        seconds: how long it all took.
        view: how all reports are shown.
    """

    view: ClassVar[View]

    name: str
    description: str
    conventions: Conventions
    cases: tuple[CaseResult, ...]
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not any(case.status == "fail" for case in self.cases)

    @property
    def summary(self) -> str:
        """How many cases failed, in one line."""
        failed = sum(case.status == "fail" for case in self.cases)
        return f"{self.name}, {failed} of {len(self.cases)} cases failed"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `bnm conform --json` has it, with nothing in it that JSON lacks.

        Returns:
            `name`, `description`, `passed`, `seconds`; `conventions`, as in `Conventions`; `cases`,
            each with `case`, `group`, `status`, `reason`, `seconds` and `checks`, as in `Check`;
            `failures`, one for each failed check, with `case`, `what`, `error`, `tolerance`,
            `diagnosis` and `reason`. null stands for what there is no number for, since nothing
            could be compared; `reason` then says why.

        Example:
            >>> Report("mine", "", Conventions(), ()).to_dict()["failures"]
            []
        """
        return {
            "name": self.name,
            "description": self.description,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "conventions": plain(asdict(self.conventions)),
            "cases": [plain(asdict(case)) for case in self.cases],
            "failures": [
                {"case": case.case, **{name: plain(getattr(check, name)) for name in _OF_FAILURES}}
                for case in self.cases
                if case.status == "fail"
                for check in case.checks
                if not check.passed
            ],
        }

    def __str__(self) -> str:
        return self.view.plain_text(self)


def document(reports: Sequence[Report], *, finished: bool = True) -> dict[str, Any]:
    """Return what `bnm conform --json` prints.

    Args:
        reports: of all subjects.
        finished: False if the run was interrupted, and reports may lack cases and diagnoses.

    Returns:
        `format`, the version of this form; `passed`, whether no subject failed; `finished`;
        `subjects`, as `Report.to_dict` has them.
    """
    return {
        "format": _FORMAT,
        "passed": all(report.passed for report in reports),
        "finished": finished,
        "subjects": [report.to_dict() for report in reports],
    }
