"""How a rule's finding is put together."""

import math
from typing import Any

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding, Severity
from batchnorm_mechanics.doctor.rules import RULES


def finding(
    code: str,
    layer: str,
    *,
    cause: str,
    remedy: str,
    channels: Any = (),
    severity: Severity | None = None,
    root: str | None = None,
    **evidence: Any,
) -> Finding:
    """Return a finding with its rule's name, and its severity where none is given.

    Args:
        code: such as "BN101".
        layer: path of the layer, "" for the model as a whole.
        cause: in one sentence.
        remedy: in one sentence.
        channels: numbers, or a boolean vector that is true at them.
        severity: where the rule's own does not hold.
        root: key of the finding that explains this one.
        **evidence: numbers or words; a number that is not finite becomes a word.

    Example:
        >>> made = finding("BN102", "bn", cause="...", remedy="...", channels=np.array([0, 1]) < 0)
        >>> made.name, made.severity, made.channels
        ('negative-variance', 'error', ())
        >>> finding("BN102", "bn", cause="...", remedy="...", lowest=-math.inf).evidence
        {'lowest': '-inf'}
    """
    channels = np.asarray(channels)
    if channels.dtype == bool:
        channels = np.flatnonzero(channels)
    rule = RULES[code]
    return Finding(
        code=code,
        name=rule.name,
        severity=severity or rule.severity,
        layer=layer,
        channels=tuple(int(channel) for channel in channels),
        evidence={name: _plain(value) for name, value in evidence.items()},
        cause=cause,
        remedy=remedy,
        root=root,
    )


def _plain(value: Any) -> float | int | str:
    """Return a value that JSON can hold."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    value = float(value)
    return value if math.isfinite(value) else str(value)
