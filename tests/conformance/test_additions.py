"""A mistake and a subject are added in the few places that CONTRIBUTING names."""

import sys
from types import ModuleType

import keras
import pytest
from numpy_subjects import Right
from typer.testing import CliRunner

from batchnorm_mechanics.cli import app
from batchnorm_mechanics.conformance import diagnosis, subjects
from batchnorm_mechanics.conformance.cases import select
from batchnorm_mechanics.conformance.judge import conform
from batchnorm_mechanics.conformance.mistakes import Mistake

STEPS = select("one step")


class OutputTooLarge(keras.layers.BatchNormalization):
    """The broken layer that goes with the mistake."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) * 1.5


TOO_LARGE = Mistake.of(
    "forward",
    "output half as large again",
    affine=lambda x, gamma, beta, _: 1.5 * (gamma * x + beta),
)


def test_a_mistake_that_is_added_to_its_table_is_found_under_its_name(monkeypatch):
    def diagnoses():
        report = conform(OutputTooLarge, cases=STEPS)
        wrong = [check for case in report.cases for check in case.checks if not check.passed]
        return {check.diagnosis for check in wrong if check.what.endswith("output")}

    assert diagnoses() == {None}
    monkeypatch.setattr(diagnosis, "CATALOGUE", (*diagnosis.CATALOGUE, TOO_LARGE))
    assert diagnoses() == {"output half as large again"}


@pytest.fixture
def made_up(monkeypatch):
    """A subject's module, and its line among the built-in ones."""
    module = ModuleType(f"{subjects.__name__}.made_up")
    module.MadeUp = lambda: Right("made up")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = subjects._BuiltIn("made_up", "MadeUp", "a library that nobody has")
    monkeypatch.setitem(subjects._BUILT_IN, "made up", line)


def test_a_subject_that_is_added_is_listed_judged_and_on_the_page(made_up):
    listed = CliRunner().invoke(app, ["conform", "--list"])
    assert "  made up" in listed.output.splitlines()
    assert conform("made up", cases=STEPS).passed
    assert subjects.libraries()["made up"] == "a library that nobody has"
