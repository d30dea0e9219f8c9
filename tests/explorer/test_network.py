"""The run of the network that is stored with the page, and the script that makes it."""

from dataclasses import replace

import numpy as np
import pytest

from batchnorm_mechanics.explorer import recorded
from batchnorm_mechanics.explorer.network import PATH, stored_run
from batchnorm_mechanics.studies import dataset

CODES = {"reversed": "BN105", "never": "BN103", "baked": "BN107", "nan": "BN101", "domain": "BN203"}
# In these the network does no better than chance until it is repaired.
RUINED = ("baked", "nan", "domain")
QUICK = recorded.Plan(
    steps=(0, 1, 3), rows=600, shown=120, tested=90, asked=4, failures=("nan", "domain")
)


@pytest.fixture(scope="module")
def run():
    return stored_run()


def test_it_is_small_and_as_the_script_writes_it(run):
    assert PATH.stat().st_size < 300_000
    assert recorded.text(run) == PATH.read_text(encoding="utf-8")


def test_every_step_was_looked_at(run):
    assert run["steps"] == list(recorded.Plan().steps)
    for seen in run["training"].values():
        assert len(seen) == len(run["steps"])
        for look in seen:
            assert 0 <= look["inference"] <= 100
            assert len(look["layers"]) == 3
            for layer in look["layers"]:
                assert abs(sum(layer["density"]) - 1000) < 30


def test_the_moving_statistics_come_nearer_as_training_goes_on(run):
    first, last = run["training"]["with"][0], run["training"]["with"][-1]

    def distance(layer):
        return np.mean(np.abs(np.log(layer["ratio"])))

    for before, after in zip(first["layers"], last["layers"], strict=True):
        assert distance(after) < 0.3 * distance(before)
    assert last["training"] > 90
    assert abs(last["training"] - last["inference"]) < 1.5


def test_the_doctor_names_each_failure_and_repair_heals_it(run):
    assert {one["name"] for one in run["failures"]} == set(CODES)
    whole = run["whole"]["accuracy"]
    assert whole > 90
    for failure in run["failures"]:
        name = failure["name"]
        assert CODES[name] in failure["broken"]["text"]
        assert CODES[name] in {group["code"] for group in failure["broken"]["told"]["groups"]}
        assert any(CODES[name] in step for step in failure["steps"])
        assert not failure["repaired"]["told"]["is_sick"]
        assert failure["repaired"]["accuracy"] > whole - 2
        assert (failure["broken"]["accuracy"] < 20) == (name in RUINED)


def test_what_is_lost_is_no_number_in_the_file(run):
    (nan,) = (one for one in run["failures"] if one["name"] == "nan")
    assert nan["broken"]["layers"][1]["shift"].count(None) == 1
    assert nan["repaired"]["layers"][1]["shift"].count(None) == 0


def form(value):
    """The names in a document, and the types of what they stand for."""
    if isinstance(value, dict):
        return {name: form(part) for name, part in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value and isinstance(value[0], dict) else []
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.fixture(scope="module")
def quick():
    return recorded.record(QUICK)


@pytest.mark.thorough
def test_a_quick_run_has_the_form_of_the_stored_one(run, quick):
    assert form(quick) == form(run)
    assert [one["name"] for one in quick["failures"]] == list(QUICK.failures)
    nan, _ = quick["failures"]
    assert "BN101" in nan["broken"]["text"]
    assert nan["broken"]["layers"][2]["density"].count(0) == 32
    assert nan["repaired"]["layers"][1]["shift"].count(None) == 0


@pytest.mark.thorough
def test_it_is_the_same_with_the_same_seed(quick):
    settings = replace(recorded._SETTINGS, rows=QUICK.rows)
    digits = dataset.load(minimum_rows=600)
    arrays = dataset.prepare(digits, settings)
    again = recorded.trained(recorded.network(settings, QUICK.seed), arrays, QUICK)
    for look, other in zip(quick["training"]["with"], again, strict=True):
        assert look["inference"] == pytest.approx(other["inference"], abs=2.5)
        np.testing.assert_allclose(
            look["layers"][0]["shift"], other["layers"][0]["shift"], rtol=0.02, atol=0.02
        )


@pytest.mark.thorough
def test_the_stored_run_comes_out_again():
    """Its beginning: chaos makes two machines' digits drift apart along the way."""
    plan = recorded.Plan(steps=(0, 1, 2, 5, 10, 20))
    digits = dataset.load(minimum_rows=60_000)
    arrays = dataset.prepare(digits, recorded._SETTINGS)
    again = recorded.trained(recorded.network(recorded._SETTINGS, plan.seed), arrays, plan)
    for look, stored in zip(again, stored_run()["training"]["with"], strict=False):
        assert look["inference"] == pytest.approx(stored["inference"], abs=1)
        assert look["training"] == pytest.approx(stored["training"], abs=1)
