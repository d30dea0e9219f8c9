"""The terminal table: 80 columns, and every number in it."""

import io
from pathlib import Path

import pytest
from made_up_runs import DATA, ENVIRONMENT, made_up
from rich.console import Console

from batchnorm_mechanics.studies.registry import STUDIES
from batchnorm_mechanics.studies.summary import results
from batchnorm_mechanics.studies.terminal import print_results


def printed(found, *, width=80, report=None, **console) -> str:
    out = io.StringIO()
    print_results(found, Console(file=out, width=width, **console), report=report)
    return out.getvalue()


@pytest.fixture(scope="module")
def found():
    return made_up()


def test_it_fits_80_columns_and_cuts_nothing_off(found):
    text = printed(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_it_has_each_study_with_mean_deviation_ends_and_published(found):
    lines = printed(found).splitlines()
    for study in found["studies"]:
        at = next(i for i, line in enumerate(lines) if line.split()[:1] == [study["name"]])
        for figures in study["summary"].values():
            assert f"{figures['mean']:.2f} ± {figures['std']:.2f}" in lines[at]
            assert f"{figures['min']:.2f} to {figures['max']:.2f}" in lines[at + 1]
            if figures["published"] is not None:
                mark = "✓" if figures["within"] else "✗"
                assert f"{figures['published']:.2f} {mark}" in lines[at + 2]


def test_it_has_each_effect_with_its_interval(found):
    text = printed(found)
    for effect in found["effects"]:
        line = next(
            line for line in text.splitlines() if f"{effect['from']} → {effect['to']} " in line
        )
        assert line.split()[3].strip("+-") == f"{abs(effect['difference']):.2f}"
        assert line.split()[-1] == str(effect["seeds"])
    assert "batches an epoch: 100 of 916 → all 916" in text


def test_misses_conclusion_and_the_report_close_it(found):
    text = printed(found, report=Path("results/report.html"))
    words = " ".join(text.replace("│", " ").split())
    for miss in found["misses"]:
        assert f"{miss['study']}, {miss['metric']}: published {miss['published']:.2f}" in words
        assert " ".join(miss["why"].split()) in words
    assert " ".join(found["conclusion"].split()) in words
    assert text.splitlines()[-1] == "Report with curves: results/report.html"
    assert "11 of 13 published figures within our seeds' range widened by 0.5 points" in words


def test_a_long_path_of_the_report_stays_in_one_piece(found):
    report = Path("a" * 60) / ("b" * 60) / "[red]report.html"
    assert printed(found, report=report).splitlines()[-1] == f"Report with curves: {report}"


def test_a_quick_run_has_no_marks_and_says_why(found):
    text = printed(made_up(("keras-916-baked",), quick=True))
    assert text.startswith("A quick run on a tenth of the data.")
    assert "✓" not in text
    assert "✗" not in text
    assert "97.11" in text


def test_one_seed_has_no_deviation_and_no_interval():
    text = printed(made_up(("keras-100", "keras-916"), (1,), planned_runs=4))
    assert "Not finished: 2 of 4 runs." in text
    assert "±" not in text.splitlines()[3]
    assert "lowest to highest" not in text
    assert "keras-100 → keras-916" in text


def test_nothing_at_all_is_printed_too():
    text = printed(results(ENVIRONMENT, DATA, STUDIES, {}, planned_runs=4))
    assert "Not finished: 0 of 4 runs." in text


def test_colours_are_for_terminals_alone(found):
    assert "\x1b[" not in printed(found)
    assert "\x1b[" in printed(found, force_terminal=True, color_system="standard")


def test_no_color_is_obeyed(found, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(found, force_terminal=True, color_system="standard")
    assert "\x1b[31" not in text
    assert "\x1b[1;31" not in text
