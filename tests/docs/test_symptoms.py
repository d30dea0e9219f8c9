"""The pages about symptoms are true: their steps, followed as they stand, end as they promise."""

import re
from pathlib import Path

import pytest
from docs.followed_pages import agrees, follow, steps_of

from batchnorm_mechanics.doctor.rules import RULES
from docs import symptom_models

WRONG = Path(__file__).parents[2] / "docs" / "wrong"
INDEX = (WRONG / "index.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted(WRONG.glob("*.md"))}
del PAGES["index"]
# Devices have to be set before TensorFlow starts.
PROGRAMS = {"several-devices"}
# What these take is seconds of training or compiling each; the others stand for them in the check.
LONG = {
    "averaged-weights",
    "batch-of-one",
    "compiled-differs-from-eager",
    "gradient-accumulation-and-remat",
    "nan-in-half-precision",
    "one-layer-for-two-inputs",
    "quantization",
    "renorm-or-group-norm",
    "several-devices",
}
# What makes its own data on the page.
NO_MODEL = {"several-devices", "gradient-accumulation-and-remat"}
SECTIONS = ("Symptom", "Is it yours?", "Cause", "Repair", "Verify", "What else it may be")


def section(page, name):
    return page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_there_are_fifteen_symptoms_and_the_index_leads_to_each():
    assert len(PAGES) == 15
    listed = re.findall(r"\]\(([a-z-]+)\.md\)", INDEX)
    assert sorted(listed) == sorted(PAGES)
    tree = re.search(r"```\{toctree\}\n(?::.*\n)*\n(.*?)```", INDEX, flags=re.S)[1].split()
    assert tree == listed


def test_the_index_begins_with_the_command_that_tells_most():
    assert steps_of(INDEX)[0].code == "bnm doctor model.keras --data x.npz\n"
    assert INDEX.index("bnm doctor") < INDEX.index(".md)")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_sections_in_order_and_ends_in_a_figure(name):
    page = PAGES[name]
    headings = re.findall(r"^## (.+)$", page, flags=re.M)
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    promised = [step.shown for step in steps_of(section(page, "Verify") + "\n") if step.shown]
    assert promised
    assert re.search(r"\d", promised[-1])


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name):
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[name]):
        if target.startswith("../rules/"):
            assert Path(target).stem in RULES
        else:
            assert (WRONG / target).exists(), target


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.thorough] * (name in LONG)) for name in PAGES],
)
def test_its_steps_end_in_the_figures_that_it_promises(name, tmp_path):
    if name not in NO_MODEL:
        getattr(symptom_models, name.replace("-", "_"))(tmp_path)
    follow(steps_of(PAGES[name]), tmp_path, programs=name in PROGRAMS)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("loss 0.35", "loss 0.3508"),
        ("loss 0.3..0.4, ok", "loss 0.3508,\n  ok"),
        ("... of 2 ... merged", "model: 2 of 2 batch norm layers merged"),
        ("off by 0..1e-5", "off by 3.2e-07"),
        ("2 errors\n...\n", "2 errors"),
        ("1,200 samples", "1,200 samples"),
    ],
)
def test_an_output_agrees_with_what_is_shown(shown, printed):
    assert agrees(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("loss 0.35", "loss 0.3702"),
        ("loss 0.3..0.4", "loss 0.41"),
        ("loss 0.3..0.4", "loss nan"),
        ("2 errors", "3 errors"),
        ("2 errors", "2 errors, 1 warning"),
        ("Nothing is wrong", "2 errors"),
        ("... first ... second", "second, and first"),
        ("first ... last", "first"),
        ("a ... a", "a"),
    ],
)
def test_an_output_that_is_another_does_not(shown, printed):
    assert not agrees(shown, printed)
