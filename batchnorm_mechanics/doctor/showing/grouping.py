"""Findings as a reader wants them: of one rule together, below the one that explains them."""

from dataclasses import dataclass

from batchnorm_mechanics.doctor.findings import Diagnosis, Finding, Severity


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
    groups: dict[tuple[str, Severity], tuple[list[Finding], list[Finding]]] = {}
    tops = [(finding, _top(finding, by_key)) for finding in diagnosis.findings]
    for finding, top in tops:
        if finding is top:
            groups.setdefault((finding.code, finding.severity), ([], []))[0].append(finding)
    for finding, top in tops:
        if finding is not top:
            groups[top.code, top.severity][1].append(finding)
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
