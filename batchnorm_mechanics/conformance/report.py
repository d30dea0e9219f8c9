"""The report on one subject, and the document of all of them that JSON has."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._io.terminal import Shown
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.verdict import Verdict, reach

# Of what `document` returns. Raise it when that changes;
# tests/formats keeps one of each version.
_FORMAT = 3

_OF_FAILURES = ("what", "error", "tolerance", "diagnosis", "reason", "where")


class View(Protocol):
    """How a report is shown. A record knows no more of it; `conformance` gives it one."""

    def command(self, report: "Report", case: CaseResult, /) -> str:
        """Return how to have one case judged alone."""
        ...

    def why(self, check: Check, /) -> str:
        """Return in words what is wrong with a failed check."""
        ...

    def plain_text(self, report: "Report", /, *, verbose: bool = False) -> str:
        """Return it as a terminal of 80 columns has it."""
        ...


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """Everything about one subject; true if nothing is wrong with it.

    Attributes:
        name, description: the subject's.
        conventions: found before judging.
        cases: in the order of the table of cases.
        seconds: how long it all took.
        taken_as: how the subject was recognized, in words; None where nothing had to be told.
        abilities: what it can be asked; None if that is not known.
        required: what it must take to pass, by words of `limits.WORDS`.
        spec: what the command line calls it; None for an object of Python.
        replicas: how many shared each batch of training.
        view: how all reports are shown.
    """

    view: ClassVar[View]

    name: str
    description: str
    conventions: Conventions
    cases: tuple[CaseResult, ...]
    seconds: float = 0.0
    taken_as: str | None = None
    abilities: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()
    spec: str | None = None
    replicas: int = 1

    @cached_property
    def verdict(self) -> Verdict:
        """What all the cases come to: right or wrong, by which causes, within which limits."""
        return reach(self.cases, self.conventions, self.abilities, self.required)

    @property
    def passed(self) -> bool:
        """Whether no case failed, and nothing that was required is lacking."""
        return self.verdict.right

    def __bool__(self) -> bool:
        return self.passed

    @property
    def summary(self) -> str:
        """What the verdict is, in one line."""
        return f"{self.name}: {self.verdict.sentence}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `bnm conform --json` has it, with nothing in it that JSON lacks.

        Returns:
            `name`, `description`, `replicas`, `taken_as`, `passed`, `seconds`;
            `verdict`, as in `Verdict`;
            `conventions`, as in `Conventions`; `cases`, each as in `CaseResult`, with `checks`, as
            in `Check`; `failures`, one for each failed check, with `case`, `what`, `error`,
            `tolerance`, `diagnosis`, `reason` and `where`. null stands for what there is no number
            for, since nothing could be compared; `reason` then says why.

        Example:
            >>> Report("mine", "", Conventions(), ()).to_dict()["failures"]
            []
        """
        return {
            "name": self.name,
            "description": self.description,
            "replicas": self.replicas,
            "taken_as": self.taken_as,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "verdict": plain(asdict(self.verdict)),
            "conventions": plain(asdict(self.conventions)),
            "cases": [plain(asdict(case)) for case in self.cases],
            "failures": [
                {"case": case.case, **{name: plain(getattr(check, name)) for name in _OF_FAILURES}}
                for case in self.cases
                for check in case.wrong
            ],
        }

    def text(self, *, verbose: bool = False) -> str:
        """Return what `bnm conform` prints.

        Args:
            verbose: whether to have every convention and every case, as with `--verbose`.
        """
        return self.view.plain_text(self, verbose=verbose)

    def __str__(self) -> str:
        return self.text()


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
