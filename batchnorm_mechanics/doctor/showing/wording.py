"""The words that the terminal and the page share."""

from collections.abc import Mapping, Sequence

from batchnorm_mechanics.doctor.findings import SEVERITIES, Diagnosis, Finding
from batchnorm_mechanics.doctor.showing.grouping import Group

# Of layers or channels that are named; the JSON output holds all.
_NAMED = 4
# Measures whose names say too little.
_MEASURES = {"gap": "largest gap"}


def title(diagnosis: Diagnosis, file: str) -> str:
    """Return what was examined, in one line.

    Example:
        >>> found = Diagnosis("net", ("bn",), (), samples=1000, measures={"accuracy": 0.97})
        >>> title(found, "a.keras")
        'a.keras: 1 batch norm layer, 1,000 samples, accuracy 0.97'
    """
    parts = [_count(len(diagnosis.norms), "batch norm layer")]
    if diagnosis.norms:
        parts.append(_count(diagnosis.samples, "sample") if diagnosis.samples else "no data")
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
    counts = [
        _count(sum(finding.severity == severity for finding in diagnosis.findings), severity)
        for severity in SEVERITIES
        if any(finding.severity == severity for finding in diagnosis.findings)
    ]
    found = ", ".join(counts)
    if not diagnosis.is_sick:
        return f"Nothing is wrong; {found}."
    explained = sum(len(group.explained) for group in groups)
    causes = sum(group.severity != "note" for group in groups)
    if not explained:
        return f"{found[0].upper()}{found[1:]}."
    return f"{found}: {_count(causes, 'cause')}, the first {groups[0].code}."


def named(names: Sequence[str]) -> str:
    """Return names, the first ones in full.

    Example:
        >>> named(["a", "b"]), named(["bn"] * 6)
        ('a, b', 'bn, bn, bn, bn and 2 more layers')
    """
    more = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {_count(more, 'more layer')}" if more > 0 else shown


def layers(findings: Sequence[Finding]) -> str:
    """Return the layers of findings, the first ones by name.

    Example:
        >>> one = Finding("BN101", "name", "error", "bn", (0, 3), {}, "cause", "remedy")
        >>> layers([one]), layers([one] * 6)
        ('bn, channels 0, 3', 'bn, bn, bn, bn and 2 more layers')
    """
    if len(findings) == 1:
        (finding,) = findings
        return ", ".join(filter(None, [finding.layer or "the model", channels(finding.channels)]))
    return named([finding.layer or "the model" for finding in findings])


def channels(numbers: Sequence[int]) -> str:
    """Return channels, the first ones by number; "" where a finding is about a whole layer.

    Example:
        >>> channels([]), channels([3]), channels(range(64))
        ('', 'channel 3', '64 channels')
    """
    if not numbers:
        return ""
    if len(numbers) > 2 * _NAMED:
        return f"{len(numbers)} channels"
    return f"channel{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def evidence(measured: Mapping[str, float | int | str]) -> str:
    """Return what was measured.

    Example:
        >>> evidence({"largest gap": 12.3456, "samples": 1000, "first": "nan"})
        'largest gap 12.35, samples 1,000, first nan'
    """
    return ", ".join(
        f"{name.replace('_', ' ')} {number(value)}" for name, value in measured.items()
    )


def number(value: float | str) -> str:
    """Return a number with four digits, an integer with all, and a word as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def explained(findings: Sequence[Finding]) -> list[str]:
    """Return, for each rule among findings that another one explains, where it fired.

    Example:
        >>> one = Finding("BN201", "train-inference-gap", "error", "bn", (), {}, "cause", "remedy")
        >>> explained([one])
        ['BN201 train-inference-gap in bn']
    """
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(f"{finding.code} {finding.name}", []).append(finding)
    return [f"{rule} in {layers(found)}" for rule, found in by_rule.items()]


def _count(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"
