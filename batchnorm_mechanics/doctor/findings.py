"""What a diagnosis consists of: frozen records, no arithmetic."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._io.terminal import Shown
from batchnorm_mechanics._io.words import counted

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing, in one layer.

    Attributes:
        code: such as "BN101".
        name: of the rule, such as "non-finite-statistics".
        severity: error, warning or note.
        layer: path of the layer in the model, as in `norms_in`; "" for the model as a whole.
        channels: the channels concerned, in order; empty if it concerns the layer as a whole.
        evidence: what was measured, by name; finite numbers, or words for what is not finite.
        cause: why it is so, in one sentence.
        remedy: what to do, in one sentence.
        root: "CODE layer" of the finding that explains this one, or None.
    """

    code: str
    name: str
    severity: Severity
    layer: str
    channels: tuple[int, ...]
    evidence: Mapping[str, float | int | str]
    cause: str
    remedy: str
    root: str | None = None

    @property
    def key(self) -> str:
        """The name by which another finding's `root` calls this one."""
        return f"{self.code} {self.layer}".strip()

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `bnm doctor --json` prints it."""
        return plain(vars(self))


def milder(one: Severity, other: Severity) -> Severity:
    """Return the milder of two severities."""
    return one if SEVERITIES.index(one) > SEVERITIES.index(other) else other


def worse(one: Severity, other: Severity) -> Severity:
    """Return the worse of two severities."""
    return one if SEVERITIES.index(one) < SEVERITIES.index(other) else other


def by_size(size: float) -> Severity:
    """Return how bad something is, by its size over that which is worth a warning."""
    return "error" if size >= 2 else "warning" if size >= 1 else "note"


class View(Protocol):
    """How results are shown. A record knows no more of it; `doctor` gives it one."""

    def plain_text(self, result: Any, /, **options: Any) -> str:
        """Return a result as its command prints it."""
        ...


class Result(Shown):
    """A result that prints as its command prints it.

    Attributes:
        view: how all results are shown.
    """

    view: ClassVar[View]

    def text(self, *, notes: bool = False) -> str:
        """Return it as `print` shows it.

        Args:
            notes: whether to tell of each finding that is a note, and not of all in one line.
        """
        return self.view.plain_text(self, notes=notes)

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """All findings about a model.

    Attributes:
        model: the model's name.
        norms: paths of the batch norm layers, in the order of the model.
        findings: roots first, then by severity, code and layer.
        samples: how many samples of data were looked at; 0 without data.
        measures: what was measured of the model as a whole, such as "accuracy".
        unseen: by path, the layers of which the data say nothing, or too little, and why; empty
            without data.
    """

    model: str
    norms: tuple[str, ...]
    findings: tuple[Finding, ...]
    samples: int = 0
    measures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    unseen: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_sick(self) -> bool:
        """Whether there is an error or a warning."""
        return any(finding.severity != "note" for finding in self.findings)

    @property
    def counts(self) -> str:
        """How many findings there are of each severity, in words; "" where there are none."""
        found = Counter(finding.severity for finding in self.findings)
        return ", ".join(counted(found[one], one) for one in SEVERITIES if found[one])

    @property
    def summary(self) -> str:
        """How much was found, in one line."""
        return f"{self.model}, {self.counts or 'nothing found'}"

    def of(self, code: str) -> tuple[Finding, ...]:
        """Return the findings with this code."""
        return tuple(finding for finding in self.findings if finding.code == code)

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as `bnm doctor --json` prints it."""
        return {
            "model": self.model,
            "norms": list(self.norms),
            "samples": self.samples,
            "measures": plain(self.measures),
            "unseen": dict(self.unseen),
            "findings": [finding.as_json() for finding in self.findings],
        }
