"""What the doctor says, as the page shows it."""

from typing import Any

from batchnorm_mechanics.doctor import wording
from batchnorm_mechanics.doctor.findings import Diagnosis


def told(diagnosis: Diagnosis, *, name: str | None = None) -> dict[str, Any]:
    """Return a diagnosis for the page: its verdict, and a card for each cause.

    Args:
        diagnosis: of a model.
        name: what it is called; its own name unless given.

    Returns:
        "title" and "verdict", sentences; "is_sick"; "groups", each with "code", "name",
        "severity", "where", "why", "seen", "do" and "so", what it explains.

    Example:
        >>> told(Diagnosis("net", ("bn",), ()))["verdict"]
        'Nothing is wrong.'
    """
    groups = wording.grouped(diagnosis)
    return {
        "title": wording.title(diagnosis, name or diagnosis.model),
        "verdict": wording.verdict(diagnosis, groups),
        "is_sick": diagnosis.is_sick,
        "groups": [
            {
                "code": group.code,
                "name": group.first.name,
                "severity": group.severity,
                "where": wording.layers(group.findings),
                "why": group.first.cause,
                "seen": wording.evidence(group.first.evidence) if group.first.evidence else "",
                "do": group.first.remedy,
                "so": list(wording.explained(group.explained)),
            }
            for group in groups
        ],
    }
