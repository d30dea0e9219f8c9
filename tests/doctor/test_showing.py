"""A diagnosis and a repair in a terminal, and the words and groups behind them."""

import io
import types
from pathlib import Path

import pytest
from doctor.made_up_diagnoses import SICK, diagnosis, finding
from rich.cells import cell_len
from rich.console import Console

from batchnorm_mechanics.doctor import rules, wording
from batchnorm_mechanics.doctor.rule import RE_ESTIMATE, Step
from batchnorm_mechanics.doctor.rules.bn105_suspicious_momentum import CORRECT
from batchnorm_mechanics.doctor.showing import (
    print_demo,
    print_diagnosis,
    print_repair,
    print_rules,
    print_story,
)
from batchnorm_mechanics.doctor.wording import grouped


def printed(show, *arguments, width=80, terminal=False, **options):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, highlight=False)
    show(*arguments, console, **options)
    return out.getvalue()


def text(found, **options):
    return printed(print_diagnosis, found, file="model.keras", **options)


# --- Groups -------------------------------------------------------------------------------------


def summary(found):
    return [
        (group.code, [one.layer for one in group.findings], [one.key for one in group.explained])
        for group in grouped(found)
    ]


def test_findings_of_a_rule_come_together_and_effects_below_the_first_cause():
    assert summary(SICK) == [
        ("BN101", ["bn_1"], ["BN205 bn_2", "BN201 bn_3"]),
        ("BN105", ["bn_1", "bn_2"], []),
        ("BN109", ["bn_1"], []),
    ]


def test_severities_of_one_rule_are_kept_apart():
    found = diagnosis(finding("BN101"), finding("BN101", "bn_2", severity="warning"))
    assert summary(found) == [("BN101", ["bn_1"], []), ("BN101", ["bn_2"], [])]


def test_a_root_that_is_not_in_the_diagnosis_hides_nothing():
    assert summary(diagnosis(finding("BN201", root="BN103 bn_1"))) == [("BN201", ["bn_1"], [])]


def test_roots_in_a_circle_end():
    found = diagnosis(finding("BN201", root="BN203 bn_1"), finding("BN203", root="BN201 bn_1"))
    assert sum(len(group.findings) + len(group.explained) for group in grouped(found)) == 2


# --- Notes ----


def test_notes_are_one_line_unless_asked_for():
    many = [finding("BN109", f"bn_{number}") for number in range(16)]
    found = diagnosis(*many, finding("BN106", "bn_1", severity="note"))
    line = (
        "Notes    16 layers with redundant-bias (BN109), 1 layer with unconverged-average\n"
        "         (BN106); --notes lists them\n"
    )
    assert text(found).endswith(f"\n\n{line}")
    assert "the cause of BN109" not in text(found)
    listed = text(found, notes=True)
    assert line not in listed
    assert "the cause of BN109 in bn_0." in listed


def test_a_note_that_explains_something_louder_is_told():
    found = diagnosis(
        finding("BN104", "bn_1", severity="note"), finding("BN201", "bn_2", root="BN104 bn_1")
    )
    assert "the cause of BN104 in bn_1." in text(found)
    assert "--notes" not in text(found)


def test_a_repair_tells_of_notes_in_one_line_too():
    note = diagnosis(finding("BN109"))
    shown = printed(print_repair, repair(after=note), file="model.keras")
    assert "Notes    1 layer with redundant-bias (BN109); --notes lists them\n" in shown
    assert "the cause of BN109" in printed(
        print_repair, repair(after=note), file="model.keras", notes=True
    )


# --- In Python ----


@pytest.fixture
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("columns")
def test_a_diagnosis_prints_as_its_command_does():
    assert str(SICK) == "\n".join(
        line.rstrip()
        for line in printed(print_diagnosis, SICK, file="net")
        .replace("--notes", "`text(notes=True)`")
        .splitlines()
    )
    assert "the cause of BN109 in bn_1." in SICK.text(notes=True)


@pytest.mark.usefixtures("columns")
def test_a_diagnosis_is_one_line_at_a_prompt():
    assert repr(SICK) == "<Diagnosis: net, 3 errors, 2 warnings, 1 note>"
    assert repr(diagnosis()) == "<Diagnosis: net, nothing found>"


def test_a_notebook_shows_a_diagnosis_as_text_that_is_no_code():
    html = diagnosis(finding("BN101", "<script>a</script>"))._repr_html_()
    assert "&lt;script&gt;a&lt;/script&gt;" in html
    assert "<script" not in html
    assert html.startswith("<pre")


# --- A diagnosis --------------------------------------------------------------------------------


def test_the_result_stands_in_the_first_lines():
    title, verdict = text(SICK).splitlines()[:2]
    assert title == ("model.keras: 3 batch norm layers, 1,000 samples, largest gap 3, loss nan,")
    assert verdict == "accuracy 0.098"
    assert text(SICK).splitlines()[2] == (
        "3 errors, 2 warnings, 1 note: 2 causes, the first BN101 non-finite-statistics."
    )


def test_a_group_says_where_why_what_was_seen_and_what_to_do():
    block = text(SICK).split("\n\n")[1]
    assert block.splitlines() == [
        "error    BN101 non-finite-statistics",
        "Where    bn_1, channels 0, 3",
        "Why      the cause of BN101 in bn_1.",
        "Seen     largest gap 12.35, samples 1,000",
        "Do       the remedy of BN101.",
        "So       error BN205 non-finite-activations in bn_2",
        "         error BN201 train-inference-gap in bn_3",
    ]


def test_layers_that_were_not_seen_are_named_with_the_reason():
    found = diagnosis(
        samples=10, unseen={"cell/bn": "it runs in a loop", "bn_3": "nobody calls it"}
    )
    assert text(found).splitlines()[1] == "Nothing is wrong."
    assert "Unseen   cell/bn: it runs in a loop" in text(found).splitlines()
    assert "Unseen   bn_3: nobody calls it" in text(found).splitlines()


def test_of_several_layers_the_first_stands_for_all():
    block = text(SICK).split("\n\n")[2]
    assert "Where    bn_1, bn_2" in block
    assert "Seen     bn_1: largest gap 12.35" in block
    assert "bn_2." not in block


def test_a_cause_that_was_not_asked_for_is_named():
    assert "From     BN103 bn_1" in text(diagnosis(finding("BN201", root="BN103 bn_1")))
    assert "From" not in text(SICK)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (diagnosis(), "Nothing is wrong."),
        (diagnosis(finding("BN109")), "Nothing is wrong; 1 note."),
        (diagnosis(finding("BN105")), "1 warning: BN105 suspicious-momentum."),
        (
            diagnosis(finding("BN104", severity="note"), finding("BN201", root="BN104 bn_1")),
            "1 error, 1 note: BN104 collapsed-variance.",
        ),
        (diagnosis(norms=()), "It has no batch norm layer: there is nothing to examine."),
    ],
)
def test_the_verdict_is_one_sentence(found, verdict):
    assert text(found).splitlines()[1] == verdict


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal_or_80_columns_and_none_ends_in_space(width):
    long = " ".join(["a rather long sentence about moving statistics"] * 9)
    names = tuple(f"stage_{number}/block/batch_normalization" for number in range(9))
    found = diagnosis(
        *(finding("BN201", name, cause=long, remedy=long) for name in names), norms=names
    )
    lines = text(found, width=width).splitlines()
    assert max(map(cell_len, lines)) <= min(width, 80)
    assert [line for line in lines if line != line.rstrip()] == []
    assert "and 5 more layers" in " ".join(line.strip() for line in lines[1:])


def test_a_name_that_is_longer_than_a_line_is_cut_behind_a_slash_or_a_low_line():
    name = "stage_1/a_block_with_a_rather_long_name/batch_normalization_1"
    found = diagnosis(finding("BN101", name), norms=(name,))
    assert "  stage_1/a_block_with_a_rather_long_\n  name/" in text(found, width=40)
    assert f"{name}\n" in text(found)


def test_a_measure_and_its_number_are_on_one_line():
    for width in range(30, 90):
        lines = text(SICK, width=width).splitlines()
        assert any("accuracy 0.098" in line for line in lines), width
        assert any("1,000 samples" in line for line in lines), width


def test_a_hint_is_wrapped_where_a_command_is_not():
    hint = " ".join(["the data are whole numbers"] * 9)
    assert len(text(SICK, next_steps=(hint,)).splitlines()[-1]) <= 80
    assert text(SICK, next_steps=(f"Repair: bnm {hint}",)).splitlines()[-1].endswith(hint)


def test_next_steps_are_whole_lines_even_if_long():
    command = "Repair: bnm repair " + "folder/" * 20 + "model.keras"
    assert text(SICK, next_steps=(command,)).splitlines()[-1] == command


def test_markup_in_a_name_stays_text_and_a_terminal_has_colour():
    found = diagnosis(finding("BN101", "[red]bn[/red]"), norms=("[red]bn[/red]",))
    assert "[red]bn[/red]" in text(found)
    assert "\x1b[" not in text(SICK)
    assert "\x1b[1;31merror" in text(SICK, terminal=True)


def test_channels_are_counted_where_they_are_many():
    assert wording.channels(range(8)) == "channels 0, 1, 2, 3, 4, 5, 6, 7"
    assert wording.channels(range(9)) == "9 channels"


# --- Rules --------------------------------------------------------------------------------------


def test_every_rule_is_listed():
    shown = printed(print_rules)
    for rule in rules.RULES.values():
        (line,) = (line for line in shown.splitlines() if line.startswith(rule.code))
        assert line.split()[1:3] == [rule.name, rule.severity]
        assert line.endswith("data") == rule.needs_data


def test_a_story_is_markdown_for_a_file_and_rendered_for_a_terminal():
    rule = rules.RULES["BN101"]
    assert printed(print_story, rule).rstrip() == rule.story.rstrip()
    shown = printed(print_story, rule, terminal=True)
    assert "\x1b[" in shown
    assert "##" not in shown


# --- A repair -----------------------------------------------------------------------------------


def repair(**changes):
    parts = {
        "before": SICK,
        "after": diagnosis(samples=1000, measures={"gap": 0.01, "accuracy": 0.97}),
        "steps": (
            Step(RE_ESTIMATE, "bn_1", (0,), ("BN101 bn_1", "BN201 bn_1")),
            Step(RE_ESTIMATE, "bn_2", (), ("BN101 bn_2", "BN201 bn_2")),
            Step(CORRECT, "bn_1", (), ("BN105 bn_1",)),
        ),
        "refused": {"BN108 bn_3": "build it anew"},
        "notes": ("the optimizer is new",),
    }
    return types.SimpleNamespace(**parts | changes)


def test_a_repair_tells_what_was_done_what_not_and_what_came_of_it():
    shown = printed(print_repair, repair(), file="model.keras", out=Path("fixed.keras"))
    assert shown.splitlines()[2:] == [
        "Before   3 errors, 2 warnings, 1 note: 2 causes, the first BN101",
        "         non-finite-statistics.",
        "Done     re-estimate the statistics (BN101, BN201): bn_1, bn_2",
        "Done     correct the momentum (BN105): bn_1",
        "Left     BN108 bn_3: build it anew",
        "Note     the optimizer is new",
        "Now      Nothing is wrong.",
        "         largest gap 3 before, 0.01 after",
        "         loss nan before, unknown after",
        "         accuracy 0.098 before, 0.97 after",
        "Written: fixed.keras",
    ]


def test_a_dry_run_tells_what_it_would_do_and_no_after():
    shown = printed(print_repair, repair(after=None), file="model.keras")
    assert "Planned  re-estimate the statistics" in shown
    assert shown.endswith("No file was written.\n")
    assert "Now" not in shown
    assert "after" not in shown


def test_a_repair_of_nothing_says_so():
    shown = printed(print_repair, repair(steps=(), refused={}, notes=()), file="model.keras")
    assert "Done     nothing" in shown
    assert shown.endswith("No file was written: there was nothing that could be repaired.\n")


def test_refusals_for_one_reason_are_one_line():
    left = {f"BN201 bn_{number}": "it is frozen" for number in range(7)} | {"BN205": "it is frozen"}
    shown = printed(print_repair, repair(refused=left), file="model.keras")
    assert (
        "Left     BN201 bn_0, bn_1, bn_2, bn_3 and 3 more layers; BN205 the model: it is\n" in shown
    )


def test_the_demonstration_shows_the_accuracy_going_and_coming_back(tmp_path):
    demo = types.SimpleNamespace(
        diagnosis=SICK,
        repair=repair(),
        healthy=0.951,
        sick=0.098,
        repaired=0.962,
        seconds=21.4,
        KEPT=("sick.keras",),
    )
    shown = printed(print_demo, demo, out=tmp_path)
    lines = [line.split() for line in shown.splitlines()]
    assert ["trained", "95.1%"] in lines
    assert ["sick", "9.8%"] in lines
    assert ["repaired", "96.2%"] in lines
    assert "It took 21 s." in shown
    assert f"Kept in {tmp_path}: sick.keras" in shown
    bare = printed(print_demo, demo, out=None)
    assert "Kept" not in bare
    assert "Page" not in bare
    assert "Page: d.html" in printed(print_demo, demo, out=None, page=Path("d.html"))
