"""What explains what among findings, and the order in which a reader wants them."""

from collections.abc import Sequence
from dataclasses import replace

from batchnorm_mechanics.doctor.findings import SEVERITIES, Finding
from batchnorm_mechanics.doctor.known import Known
from batchnorm_mechanics.doctor.rules import RULES


def ordered(findings: Sequence[Finding], order: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Name the root of each finding that another one explains, and sort them.

    Args:
        findings: of the weights, the graph and the data, in any order.
        order: names of the layers in the order in which the model calls them.

    Returns:
        First what explains others, then what stands alone, then what is explained; within each by
        severity, code and the order of layers. Of two with one code and layer, the first. What
        another finding hides, or makes needless by explaining it, is left out.

    Example:
        >>> gap = RULES["BN201"].finding("bn", cause="...", remedy="...", own_gap=2.0)
        >>> never = RULES["BN103"].finding("bn", cause="...", remedy="...")
        >>> [(found.code, found.root) for found in ordered([gap, never])]
        [('BN103', None), ('BN201', 'BN103 bn')]
    """
    hidden = {(code, one.layer) for one in findings for code in RULES[one.code].hides}
    by_key: dict[str, Finding] = {}
    for found in findings:
        if (found.code, found.layer) not in hidden:
            by_key.setdefault(found.key, found)
    known = Known(by_key, order, RULES)
    causes = _causes(known)
    needless = [
        key
        for key, found in by_key.items()
        if RULES[found.code].is_only_unexplained and causes[key] is not None
    ]
    for key in needless:
        del by_key[key]
        # What it explained has the cause of what it was explained by, or another.
        causes = _causes(known)
    roots = {key: _last(key, causes) for key in by_key}
    named = [_with_root(found, by_key.get(roots[key] or "")) for key, found in by_key.items()]
    explains = {found.root for found in named}

    def rank(found: Finding) -> tuple[int, int, str, int]:
        group = 2 if found.root else 0 if found.key in explains else 1
        return group, SEVERITIES.index(found.severity), found.code, known.place.get(found.layer, -1)

    return tuple(sorted(named, key=rank))


def _causes(known: Known) -> dict[str, str | None]:
    """Return by key what explains each finding directly, or None."""
    return {
        key: found.root if found.root in known.findings else RULES[found.code].cause(found, known)
        for key, found in known.findings.items()
    }


def _last(key: str, causes: dict[str, str | None]) -> str | None:
    """Follow causes to the one that has none; None for one that has none itself."""
    seen = {key}
    last = None
    cause = causes[key]
    while cause is not None and cause not in seen:
        seen.add(cause)
        last, cause = cause, causes[cause]
    return last


def _with_root(found: Finding, root: Finding | None) -> Finding:
    if root is None:
        return replace(found, root=None)
    severity = RULES[found.code].severity_under(found, root)
    return replace(found, root=root.key, severity=severity)
