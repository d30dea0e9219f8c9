"""A diagnosis as a page of its own, which needs nothing but a browser."""

from pathlib import Path

from batchnorm_mechanics._io.html import templates
from batchnorm_mechanics.doctor.findings import SEVERITIES, Diagnosis
from batchnorm_mechanics.doctor.rules import rule_of
from batchnorm_mechanics.doctor.showing import wording
from batchnorm_mechanics.doctor.showing.grouping import grouped

_TEMPLATES = Path(__file__).parent / "templates"


def page(diagnosis: Diagnosis, *, file: str, next_steps: tuple[str, ...] = ()) -> str:
    """Return a page with all findings, where in the model they are, and the story of each rule.

    Args:
        diagnosis: what to show.
        file: name of what was examined.
        next_steps: sentences for the end, such as the command that repairs.
    """
    groups = grouped(diagnosis)
    codes = sorted({finding.code for finding in diagnosis.findings})
    return (
        templates(_TEMPLATES)
        .get_template("diagnosis.html.jinja")
        .render(
            title=wording.title(diagnosis, file),
            verdict=wording.verdict(diagnosis, groups),
            diagnosis=diagnosis,
            groups=groups,
            codes=codes,
            worst=_worst(diagnosis),
            rules={code: rule_of(code) for code in codes},
            next_steps=next_steps,
            wording=wording,
        )
    )


def _worst(diagnosis: Diagnosis) -> dict[str, dict[str, str]]:
    """Return, for each layer with findings in the order of the model, the severity by code.

    What is about the model as a whole comes last, under "".
    """
    found: dict[str, dict[str, str]] = {name: {} for name in (*diagnosis.norms, "")}
    for finding in diagnosis.findings:
        cells = found.setdefault(finding.layer, {})
        cells[finding.code] = min(
            (finding.severity, cells.get(finding.code, SEVERITIES[-1])), key=SEVERITIES.index
        )
    return {layer: cells for layer, cells in found.items() if cells}
