"""A rule is one room: its module and its story hold all that is known of it."""

import ast
import io
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from doctor.cases import case_of, found_by
from doctor.rules.test_stories import example_in
from rich.console import Console

from batchnorm_mechanics import doctor
from batchnorm_mechanics.doctor import rules
from batchnorm_mechanics.doctor.decisions import decide
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.repair import repair
from batchnorm_mechanics.doctor.rule import Circumstances
from batchnorm_mechanics.doctor.rules import RULES
from batchnorm_mechanics.doctor.showing import print_diagnosis, print_rules, print_story
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers
FOLDER = Path(rules.__path__[0])


def code_strings(source):
    """Return the strings with a rule's code in it, but for docstrings."""
    tree = ast.parse(source)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documented
        and re.search(r"BN\d", node.value)
    ]


def test_no_module_but_the_rules_knows_a_rule_by_its_code():
    modules = list(Path(doctor.__path__[0]).glob("*.py"))
    assert len(modules) > 20
    assert {path.name: found for path in modules if (found := code_strings(path.read_text()))} == {}


def test_a_code_in_a_module_is_seen():
    assert code_strings('"""BN101 is fine here."""\nx = "BN201"\n') == ["BN201"]


def test_each_rule_has_a_module_and_a_story_of_its_name():
    stems = [f"{rule.code} {rule.name}".lower().replace("-", "_") for rule in RULES.values()]
    expected = sorted(stem.replace(" ", "_") for stem in stems)
    assert len(expected) == 27
    for suffix in ("py", "md"):
        assert sorted(path.stem for path in FOLDER.glob(f"bn*.{suffix}")) == expected


def test_a_rule_names_only_rules_that_there_are():
    for rule in RULES.values():
        named = (
            *rule.explains,
            *rule.may_explain,
            *rule.explains_everywhere,
            *rule.explains_later,
            *rule.hides,
        )
        assert set(named) <= set(RULES), rule.code


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES.values() if not rule.needs_data], ids=lambda rule: rule.code
)
def test_a_remedy_that_names_repair_is_what_repair_does(rule):
    names = {}
    exec(example_in(rule.story), names)
    (finding,) = found_by([rule.code], case_of(names["model"]))
    norms = {norm.name: norm for norm in norms_in(names["model"])}
    given = Circumstances(norms, frozenset({rule.code}), has_data=True, obstacle=lambda *_: None)
    decided = decide([finding], given)
    if "`bnm repair`" in finding.remedy:
        assert decided.steps
        assert not decided.refused


@pytest.mark.parametrize(("momentum", "better"), [(0.0, 0.99), (0.1, 0.9), (1.0, 0.99)])
def test_the_momentum_that_is_proposed_is_the_one_that_repair_sets(momentum, better):
    norm = layers.BatchNormalization(momentum=momentum, name="bn")
    model = keras.Sequential([layers.Input((3,)), norm])
    (finding,) = diagnose(model).of("BN105")
    assert f"Set the momentum to {better:g}, as `bnm repair` does" in finding.remedy
    repair(model, only=["BN105"])
    assert norm.momentum == pytest.approx(better)


# A rule that is added: one module, one story.

MODULE = '''
"""BN901: a layer that is called odd."""

import numpy as np

from batchnorm_mechanics.doctor.rule import Action, NewValues, Stage, Step
from batchnorm_mechanics.doctor.rule import Rule


def _zero_mean(norm):
    yield NewValues(norm.name, norm.layer, {"moving_mean": np.zeros(norm.channels)})


STRAIGHTEN = Action(
    name="straighten",
    words="take the oddness out",
    stage=Stage.WEIGHTS,
    new_values=_zero_mean,
)


class OddName(Rule):
    code = "BN901"
    name = "odd-name"
    severity = "warning"
    explains = ("BN201",)
    actions = (STRAIGHTEN,)

    def check(self, case):
        for norm in case.norms:
            if norm.name == "odd" and norm.mean.any():
                yield self.finding(
                    norm.name, cause="It is odd.", remedy="Rename it.", oddness=norm.mean.max()
                )

    def steps(self, finding, norm, circumstances):
        return [Step(STRAIGHTEN, norm.name, (), (finding.key,))]
'''


@pytest.fixture
def odd_rule(tmp_path, monkeypatch):
    (tmp_path / "bn901_odd_name.py").write_text(MODULE)
    (tmp_path / "bn901_odd_name.md").write_text("# BN901 odd-name\n\n## Symptom\n\nOddness.\n")
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    rule = rules.found_here()["BN901"]
    monkeypatch.setitem(RULES, "BN901", rule)
    yield rule
    sys.modules.pop(f"{rules.__name__}.bn901_odd_name")


def odd_model():
    """A layer off by its mean alone, on data of mean 0."""
    x = np.random.default_rng(0).normal(0, 1, (512, 3)).astype("float32")
    norm = layers.BatchNormalization(name="odd")
    model = keras.Sequential([layers.Input((3,)), norm])
    norm.moving_mean.assign([3.0, 3.0, 3.0])
    norm.moving_variance.assign(x.var(0))
    norm.beta.assign([0.1, 0.2, 0.3])
    return model, x


def printed(show, *arguments, **options):
    out = io.StringIO()
    show(*arguments, Console(file=out, width=80, highlight=False), **options)
    return out.getvalue()


def test_a_new_rule_is_diagnosed_and_explains_others(odd_rule):
    diagnosis = diagnose(*odd_model())
    (odd,) = diagnosis.of("BN901")
    assert (odd.severity, odd.layer, odd.evidence) == ("warning", "odd", {"oddness": 3.0})
    assert [one.root for one in diagnosis.of("BN201")] == ["BN901 odd"]


def test_a_new_rule_is_repaired_and_its_effects_go_with_it(odd_rule):
    model, x = odd_model()
    done = repair(model, x)
    assert [str(step) for step in done.steps] == ["odd: take the oddness out (BN901 odd)"]
    assert not model.layers[0].moving_mean.numpy().any()
    assert not done.after.is_sick
    done.undo()
    assert model.layers[0].moving_mean.numpy().all()


def test_a_new_rule_is_printed_listed_and_told(odd_rule):
    shown = printed(print_diagnosis, diagnose(*odd_model()), file="odd.keras")
    assert "warning  BN901 odd-name" in shown
    assert "It is odd." in shown
    assert "oddness 3" in shown
    assert "BN901  odd-name" in printed(print_rules)
    assert printed(print_story, odd_rule).startswith("# BN901 odd-name")


def test_a_new_rule_can_be_chosen(odd_rule):
    assert {one.code for one in diagnose(*odd_model(), select=("BN9",)).findings} == {"BN901"}
