"""What the terminal and the page share: findings in groups below their causes, and words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from batchnorm_mechanics._io.words import NAMED, counted, named, together
from batchnorm_mechanics.doctor.findings import SEVERITIES, Diagnosis, Finding, Severity

T = TypeVar("T")

# Of layers or channels that are named; the JSON output holds all.
_WHOLE = "the model"
# Measures whose names say too little.
_MEASURES = {
    "gap": "largest gap",
    "output_change": "outputs of both modes apart",
    "predictions_changed": "predictions changed",
    "loss_by_batch": "loss in training mode",
    "accuracy_by_batch": "accuracy in training mode",
}
# Evidence likewise; {} is the number. What is not here goes by its name.
_PHRASES: Mapping[str, str] = MappingProxyType(
    {
        "by_chance": "{} by chance",
        "calls": "{} calls in one pass",
        "channels_of": "{} channels in all",
        "error": "error {} standard deviations",
        "first_own_gap": "first gap of its own {}",
        "gap_of_the_mixture": "gap {} by the best mixture",
        "gap_with_noise": "gap {} with it at work",
        "gap_if_swapped": "gap {} if the two are swapped",
        "inputs": "{} inputs",
        "later_own_gap": "later gaps of their own {}",
        "layers": "{} layers in all",
        "layers_after": "so are the inputs of {} layers after it",
        "layers_by_batch": "{} layers use the batch",
        "layers_moved": "{} layers moved",
        "norms_that_inherit_it": "{} batch norm layers inherit it",
        "of_values": "of {} in all",
        "output_change": "output changed by {} of its spread",
        "own_gap": "gap of its own {}",
        "predictions_changed": "{} of the predictions changed",
        "rounding": "rounding explains {}",
        "stale_gap": "gap {} of all calls together",
        "times_the_usual": "the moving variance is {} times that of the others",
        "values": "{} values not finite",
        "weight_of_start": "the start weighs {}",
    }
)
_SHARES = frozenset({"predictions_changed", "weight_of_start"})
_NON_FINITE = "non_finite_"


@dataclass(frozen=True)
class Group:
    """Findings of one rule that have no other for their cause, and what they explain.

    Attributes:
        findings: at least one, of one code and severity, in the order of the model.
        explained: the findings, of other rules or layers, whose cause these are.
    """

    findings: tuple[Finding, ...]
    explained: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The finding whose words stand for the group."""
        return self.findings[0]

    @property
    def code(self) -> str:
        """Of the rule."""
        return self.first.code

    @property
    def severity(self) -> Severity:
        """Of all findings in it."""
        return self.first.severity

    @property
    def is_note(self) -> bool:
        """Whether there is nothing louder in it, what it explains included."""
        return all(one.severity == "note" for one in (*self.findings, *self.explained))


def grouped(diagnosis: Diagnosis) -> tuple[Group, ...]:
    """Return the findings in groups, in the order in which the diagnosis names their first ones.

    Example:
        >>> def finding(code, layer, root=None):
        ...     return Finding(code, "name", "error", layer, (), {}, "cause", "remedy", root)
        >>> found = (finding("BN101", "a"), finding("BN101", "b"), finding("BN201", "c", "BN101 a"))
        >>> [
        ...     (group.code, len(group.findings), len(group.explained))
        ...     for group in grouped(Diagnosis("model", ("a", "b", "c"), found))
        ... ]
        [('BN101', 2, 1)]
    """
    by_key = {finding.key: finding for finding in diagnosis.findings}
    tops = [(finding, _top(finding, by_key)) for finding in diagnosis.findings]
    groups = {(top.code, top.severity): ([], []) for finding, top in tops if finding is top}
    for finding, top in tops:
        groups[top.code, top.severity][finding is not top].append(finding)
    place = {name: number for number, name in enumerate(diagnosis.norms)}

    def by_layer(findings: list[Finding]) -> tuple[Finding, ...]:
        # What is about the model as a whole comes first.
        return tuple(sorted(findings, key=lambda finding: place.get(finding.layer, -1)))

    return tuple(Group(by_layer(own), by_layer(rest)) for own, rest in groups.values())


def _top(finding: Finding, by_key: dict[str, Finding]) -> Finding:
    """Follow roots to the finding that has none.

    A root that is not in the diagnosis is none, and a finding that explains itself has none.
    """
    top, seen = finding, {finding.key}
    while top.root is not None and top.root in by_key:
        if top.root in seen:
            return finding
        seen.add(top.root)
        top = by_key[top.root]
    return top


def title(diagnosis: Diagnosis, file: str) -> str:
    """Return what was examined, in one line.

    Example:
        >>> found = Diagnosis("net", ("bn",), (), samples=1000, measures={"accuracy": 0.97})
        >>> title(found, "a.keras")
        'a.keras: 1 batch norm layer, 1,000 samples, accuracy 0.97'
    """
    parts = [counted(len(diagnosis.norms), "batch norm layer")]
    if diagnosis.norms:
        parts.append(counted(diagnosis.samples, "sample") if diagnosis.samples else "no data")
    parts += [f"{measure(name)} {value:.4g}" for name, value in diagnosis.measures.items()]
    return f"{file}: {', '.join(parts)}"


def measure(name: str) -> str:
    """Return what a reader calls a measure of the whole model."""
    return _MEASURES.get(name, name)


def verdict(diagnosis: Diagnosis, groups: Sequence[Group]) -> str:
    """Return the result in one sentence.

    Example:
        >>> verdict(Diagnosis("net", ("bn",), ()), ())
        'Nothing is wrong.'
        >>> verdict(Diagnosis("net", (), ()), ())
        'It has no batch norm layer: there is nothing to examine.'
    """
    if not diagnosis.norms:
        return "It has no batch norm layer: there is nothing to examine."
    if not diagnosis.findings:
        return "Nothing is wrong."
    if not diagnosis.is_sick:
        return f"Nothing is wrong; {diagnosis.counts}."
    causes = [group for group in groups if not group.is_note]
    first = f"{causes[0].code} {causes[0].first.name}"
    several = "" if len(causes) == 1 else f"{len(causes)} causes, the first "
    return f"{diagnosis.counts}: {several}{first}."


def notes(groups: Iterable[Group]) -> str:
    """Return in one line what groups of notes are about.

    Example:
        >>> one = Finding("BN109", "redundant-bias", "note", "bn", (), {}, "cause", "remedy")
        >>> notes([Group((one,) * 16, ()), Group((one,), ())])
        '16 layers with redundant-bias (BN109), 1 layer with redundant-bias (BN109)'
    """
    return ", ".join(
        f"{counted(len(one.findings), 'layer')} with {one.first.name} ({one.code})"
        for one in groups
    )


def findings(keys: Sequence[str]) -> str:
    """Return the keys of findings, those of one code together.

    Example:
        >>> findings(["BN201 a", "BN201 b", "BN205"])
        'BN201 a, b; BN205 the model'
    """
    pairs = (
        (code, layer or "the model") for code, _, layer in (key.partition(" ") for key in keys)
    )
    return "; ".join(f"{code} {named(of)}" for code, of in together(pairs))


def layers(findings: Sequence[Finding]) -> str:
    """Return the layers of findings, the first ones by name.

    Example:
        >>> one = Finding("BN101", "name", "error", "bn", (0, 3), {}, "cause", "remedy")
        >>> layers([one]), layers([one] * 6)
        ('bn, channels 0, 3', 'bn, bn, bn, bn and 2 more layers')
    """
    if len(findings) == 1:
        (finding,) = findings
        return ", ".join(filter(None, [finding.layer or _WHOLE, channels(finding.channels)]))
    return named([finding.layer or _WHOLE for finding in findings])


def channels(numbers: Sequence[int]) -> str:
    """Return channels, the first ones by number; "" where a finding is about a whole layer.

    Example:
        >>> channels([]), channels([3]), channels(range(64))
        ('', 'channel 3', '64 channels')
    """
    if not numbers:
        return ""
    if len(numbers) > 2 * NAMED:
        return f"{len(numbers)} channels"
    return f"channel{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def ranges(numbers: Iterable[int]) -> str:
    """Return all numbers, in their order, neighbours together.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for one in numbers:
        if runs and one == runs[-1][-1] + 1:
            runs[-1][1:] = [one]
        else:
            runs.append([one])
    return ", ".join("-".join(map(str, run)) for run in runs)


def evidence(measured: Mapping[str, float | int | str]) -> str:
    """Return what was measured.

    Example:
        >>> evidence({"largest gap": 12.3456, "samples": 1000, "first": "nan"})
        'largest gap 12.35, samples 1,000, first nan'
        >>> evidence({"non_finite_moving_mean": 2, "predictions_changed": 0.125})
        '2 values of moving_mean not finite, 12.5% of the predictions changed'
    """
    return ", ".join(_phrase(name, value) for name, value in measured.items())


def _phrase(name: str, value: float | str) -> str:
    if name.startswith(_NON_FINITE) and name.removeprefix(_NON_FINITE) != "outputs":
        plural = "" if value == 1 else "s"
        return f"{number(value)} value{plural} of {name.removeprefix(_NON_FINITE)} not finite"
    share = name in _SHARES and not isinstance(value, str)
    shown = f"{value:.1%}" if share else number(value)
    return _PHRASES.get(name, f"{name.replace('_', ' ')} {{}}").format(shown)


def number(value: float | str) -> str:
    """Return a number with four digits, an integer with all, and a word as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def explained(findings: Sequence[Finding]) -> list[str]:
    """Return, for each rule among findings that another one explains, how bad it is and where.

    Example:
        >>> one = Finding("BN201", "train-inference-gap", "error", "bn", (), {}, "cause", "remedy")
        >>> explained([one])
        ['error BN201 train-inference-gap in bn']
    """
    worst_first = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    by_rule = together((f"{one.severity} {one.code} {one.name}", one) for one in worst_first)
    return [f"{rule} in {layers(found)}" for rule, found in by_rule]


def unseen(diagnosis: Diagnosis) -> list[str]:
    """Return the layers of which the data say nothing, together where the reason is the same.

    Example:
        >>> unseen(Diagnosis("net", ("a", "b"), (), unseen={"a": "it is away", "b": "it is away"}))
        ['a, b: it is away']
    """
    by_reason = together((reason, name) for name, reason in diagnosis.unseen.items())
    return [f"{named(names)}: {reason}" for reason, names in by_reason]
