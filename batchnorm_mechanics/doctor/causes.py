"""What explains what among findings, and the order in which a reader wants them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from batchnorm_mechanics.doctor.findings import SEVERITIES, Finding
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
    place = {name: number for number, name in enumerate(order)}
    causes = _causes(by_key, place)
    needless = [
        key
        for key, found in by_key.items()
        if RULES[found.code].is_only_unexplained and causes[key] is not None
    ]
    for key in needless:
        del by_key[key]
        # What it explained has the cause of what it was explained by, or another.
        causes = _causes(by_key, place)
    roots = {key: _last(key, causes) for key in by_key}
    named = [_with_root(found, by_key.get(roots[key] or "")) for key, found in by_key.items()]
    explains = {found.root for found in named}

    def rank(found: Finding) -> tuple[int, int, str, int]:
        group = 2 if found.root else 0 if found.key in explains else 1
        return group, SEVERITIES.index(found.severity), found.code, place.get(found.layer, -1)

    return tuple(sorted(named, key=rank))


def _causes(by_key: Mapping[str, Finding], place: Mapping[str, int]) -> dict[str, str | None]:
    """Return by key what explains each finding directly, or None."""
    return {
        key: found.root if found.root in by_key else _cause(found, by_key.values(), place)
        for key, found in by_key.items()
    }


def _cause(found: Finding, others: Iterable[Finding], place: Mapping[str, int]) -> str | None:
    """Return the key of what explains a finding, by the first way in which anything does.

    Of several, that is the worst at its layer or of the model as a whole, the first before it, or
    the first anywhere.
    """
    here = place.get(found.layer, len(place))
    for way in RULES[found.code].explained_by(found):
        named = [one for one in others if found.code in getattr(RULES[one.code], way)]
        if way == "explains_later":
            before = [one for one in named if place.get(one.layer, here) < here]
            named = sorted(before, key=lambda one: place[one.layer])
        elif way != "explains_everywhere":
            at_it = [
                one
                for one in named
                if one.layer == "" or (one.layer == found.layer and _can_explain(one, found))
            ]
            named = sorted(at_it, key=lambda one: (SEVERITIES.index(one.severity), one.code))
        if named:
            return named[0].key
    return None


def _can_explain(one: Finding, other: Finding) -> bool:
    """Whether a finding is loud enough for another at its layer, and has a channel of it."""
    is_loud = one.severity != "note" or other.severity == "note"
    channels = set(one.channels), set(other.channels)
    return is_loud and (not all(channels) or not channels[0].isdisjoint(channels[1]))


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
