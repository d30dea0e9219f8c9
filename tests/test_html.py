"""All pages of ours look alike, because the look stands in one place."""

from doctor.made_up_diagnoses import SICK
from made_up_runs import made_up

from batchnorm_mechanics import tracing
from batchnorm_mechanics._io.html import family_elements, family_style
from batchnorm_mechanics.doctor.showing import page
from batchnorm_mechanics.explorer.page import render, style
from batchnorm_mechanics.studies import report


def the_report(monkeypatch):
    monkeypatch.setattr(report, "_bundle", lambda: "")
    return report.render(made_up(("keras-100",), (1,)))


def the_trace():
    return tracing.trace([[1.0, 2.0], [3.0, 5.0]], axes=[0]).to_html()


def test_the_report_the_trace_and_the_diagnosis_have_the_same_sheet(monkeypatch):
    pages = (the_report(monkeypatch), the_trace(), page(SICK, file="model.keras"))
    heads = [html.partition("<style>")[2].partition("</style>")[0] for html in pages]
    for head in heads:
        assert head.strip().startswith(family_style())
        assert family_elements() in head
        assert "@media print" in head


def test_the_explorer_has_it_within_its_own_element():
    scoped = family_elements(".bnm-explorer")
    assert scoped in style()
    assert family_style() in render()
    selectors = [
        line.partition("{")[0]
        for line in scoped.splitlines()
        if "{" in line and "}" not in line[:1]
    ]
    assert selectors
    assert all(part.strip().startswith(".bnm-explorer") for part in ",".join(selectors).split(","))
