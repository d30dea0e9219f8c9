"""Diagnoses made by hand, for what shows them."""

from batchnorm_mechanics.doctor.findings import Diagnosis, Finding
from batchnorm_mechanics.doctor.rules import RULES


def finding(code, layer="bn_1", *, channels=(), root=None, severity=None, **words):
    rule = RULES[code]
    return Finding(
        code=code,
        name=rule.name,
        severity=severity or rule.severity,
        layer=layer,
        channels=channels,
        evidence=words.get("evidence", {"largest_gap": 12.3456, "samples": 1000}),
        cause=words.get("cause", f"the cause of {code} in {layer}."),
        remedy=words.get("remedy", f"the remedy of {code}."),
        root=root,
    )


def diagnosis(*findings, norms=("bn_1", "bn_2", "bn_3"), **options):
    return Diagnosis("net", norms, findings, **options)


SICK = diagnosis(
    finding("BN101", "bn_1", channels=(0, 3)),
    finding("BN201", "bn_3", root="BN205 bn_2"),
    finding("BN205", "bn_2", root="BN101 bn_1"),
    finding("BN105", "bn_2", channels=tuple(range(64))),
    finding("BN105", "bn_1"),
    finding("BN109", "bn_1"),
    samples=1000,
    measures={"gap": 3.0, "loss": float("nan"), "accuracy": 0.098},
)
