"""Which findings are explained by others, and the order in which a reader wants them."""

from collections.abc import Sequence
from dataclasses import replace

from batchnorm_mechanics.doctor.checks.gaps import FLOOR
from batchnorm_mechanics.doctor.findings import SEVERITIES, Finding

# Statistics that are not those of the layer's input in training, by what the weights tell.
_WRONG_STATISTICS = ("BN101", "BN115", "BN102", "BN103", "BN106", "BN110")
# Statistics that may be off for these reasons, and are by no means off by any amount.
_DOUBTFUL_STATISTICS = ("BN104", "BN105", "BN113")
# code: codes that explain it, the likeliest first, found at the same layer or of the whole model.
_EXPLAINED_BY = {
    "BN201": _WRONG_STATISTICS,
    "BN202": ("BN107",),
    "BN203": _WRONG_STATISTICS,
    "BN104": ("BN206",),
    "BN102": ("BN115",),
}
# What reaches a layer is what all layers before it passed on.
_PASSED_ON = ("BN101", "BN102")


def ordered(findings: Sequence[Finding], order: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Name the root of each finding that another one explains, and sort them.

    A gap from the first layer on is no other domain (BN203) where that layer's own weights explain
    it; that finding is then left out. A gap that is explained by a note is a note: a model that was
    never trained has one at every layer.

    Args:
        findings: of the weights, the graph and the data, in any order.
        order: names of the layers in the order in which the model calls them.

    Returns:
        First what explains others, then what stands alone, then what is explained; within each by
        severity, code and the order of layers. Of two with one code and layer, the first.

    Example:
        >>> from batchnorm_mechanics.doctor.making import finding
        >>> gap = finding("BN201", "bn", cause="...", remedy="...", own_gap=2.0)
        >>> never = finding("BN103", "bn", cause="...", remedy="...")
        >>> [(found.code, found.root) for found in ordered([gap, never])]
        [('BN103', None), ('BN201', 'BN103 bn')]
    """
    place = {name: number for number, name in enumerate(order)}
    known: dict[str, Finding] = {}
    for found in findings:
        known.setdefault(found.key, found)
    causes = {key: _cause(found, known, place) for key, found in known.items()}
    for key in [key for key in known if key.startswith("BN203") and causes[key] is not None]:
        del known[key], causes[key]
        # What it explained has the cause of what it was explained by, or another.
        causes = {one: _cause(found, known, place) for one, found in known.items()}
    roots = {key: _last(key, causes) for key in known}
    named = [_with_root(found, roots[key], known) for key, found in known.items()]
    explains = {found.root for found in named}

    def rank(found: Finding) -> tuple[int, int, str, int]:
        group = 2 if found.root else 0 if found.key in explains else 1
        severity = SEVERITIES.index(found.severity)
        return group, severity, found.code, place.get(found.layer, -1)

    return tuple(sorted(named, key=rank))


def _cause(found: Finding, known: dict[str, Finding], place: dict[str, int]) -> str | None:
    """Return the key of what explains a finding directly, or None."""
    if found.root in known:
        return found.root
    here = _here(found, _EXPLAINED_BY.get(found.code, ()), known)
    if here is not None:
        return here
    if found.code == "BN205":
        return _before(found, _PASSED_ON, known, place)
    if found.code == "BN201":
        shift = next((one for one in known.values() if one.code == "BN203"), None)
        if shift is not None and found.severity != "note":
            return shift.key
        doubtful = _here(found, _DOUBTFUL_STATISTICS, known)
        own = found.evidence.get("own_gap")
        if doubtful is None and isinstance(own, int | float) and own < FLOOR:
            # Right by itself: whatever is wrong came from before.
            return _before(found, ("BN201",), known, place)
        return doubtful
    return None


def _here(found: Finding, codes: Sequence[str], known: dict[str, Finding]) -> str | None:
    """Return the first of these codes that was found at the same layer or of the whole model."""
    keys = [f"{code} {layer}".strip() for code in codes for layer in (found.layer, "")]
    return next((key for key in keys if key in known), None)


def _before(
    found: Finding, codes: tuple[str, ...], known: dict[str, Finding], place: dict[str, int]
) -> str | None:
    """Return the first finding with one of these codes at a layer that is called before."""
    here = place.get(found.layer, len(place))
    before = [
        one
        for one in known.values()
        if one.code in codes and one.layer in place and place[one.layer] < here
    ]
    return min(before, key=lambda one: place[one.layer]).key if before else None


def _last(key: str, causes: dict[str, str | None]) -> str | None:
    """Follow causes to the one that has none; None for one that has none itself."""
    seen = {key}
    last = None
    cause = causes[key]
    while cause is not None and cause not in seen:
        seen.add(cause)
        last, cause = cause, causes[cause]
    return last


def _with_root(found: Finding, root: str | None, known: dict[str, Finding]) -> Finding:
    if root is None:
        return replace(found, root=None)
    severity = found.severity
    if found.code == "BN201" and known[root].code == "BN103" and known[root].severity == "note":
        severity = "note"
    return replace(found, root=root, severity=severity)
