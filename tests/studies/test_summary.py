"""What the runs gave, and what each factor alone changes."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import DATA, ENVIRONMENT, made_up, run, runs

from batchnorm_mechanics.studies.registry import BATCHES, STUDIES, Run, quick
from batchnorm_mechanics.studies.summary import (
    MARGIN,
    caveats,
    effects,
    mean_interval,
    results,
    steps_per_epoch,
    summarize,
)

PUBLISHED = STUDIES["keras-916-baked"]


def flat(test, seed=1, train=98.84, val=97.02) -> Run:
    return Run(seed, train, val, test, 1.0, {})


def summary_of(*tests, comparable=True):
    of = [flat(test, seed) for seed, test in enumerate(tests)]
    return summarize(PUBLISHED, of, comparable=comparable)["test"]


def test_a_summary_is_mean_sample_deviation_and_ends():
    found = summary_of(97.0, 97.1, 97.5)
    assert found["mean"] == pytest.approx(97.2)
    assert found["std"] == pytest.approx(np.std([97.0, 97.1, 97.5], ddof=1))
    assert (found["min"], found["max"], found["published"]) == (97.0, 97.5, 97.11)


def test_one_seed_has_no_deviation():
    assert summary_of(97.0)["std"] is None


@pytest.mark.parametrize(
    ("lowest", "highest", "within"),
    [
        (97.0, 97.2, True),
        (97.11 + MARGIN, 98.0, True),
        (97.11 + MARGIN + 0.01, 98.0, False),
        (96.0, 97.11 - MARGIN, True),
        (96.0, 97.11 - MARGIN - 0.01, False),
    ],
)
def test_a_published_figure_is_judged_by_the_range_widened_by_the_margin(lowest, highest, within):
    assert summary_of(lowest, highest)["within"] is within


def test_there_is_no_verdict_where_nothing_can_be_compared():
    assert summary_of(97.1, comparable=False)["within"] is None
    short = STUDIES["reversed-100-short"]
    found = summarize(short, [flat(91.0)], comparable=True)["test"]
    assert (found["published"], found["within"]) == (None, None)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_interval_is_that_of_a_paired_t_test(rng, n):
    from scipy.stats import ttest_rel

    before, after = rng.normal(94.5, 0.1, n), rng.normal(97.0, 0.2, n)
    names = ("keras-100", "keras-916")
    of = {
        name: [flat(float(test), seed) for seed, test in enumerate(tests)]
        for name, tests in zip(names, (before, after), strict=True)
    }
    [found] = effects(of)
    expected = ttest_rel(after, before).confidence_interval(0.95)
    assert found["difference"] == pytest.approx(np.mean(after - before))
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert (found["factor"], found["from"], found["to"], found["on"], found["seeds"]) == (
        BATCHES,
        *names,
        "test accuracy",
        n,
    )


def test_pairs_are_made_by_seed_and_not_by_place():
    of = {
        "keras-100": [flat(94.0, 3), flat(95.0, 1), flat(90.0, 9)],
        "keras-916": [flat(97.0, 1), flat(96.0, 3), flat(80.0, 7)],
    }
    [found] = effects(of)
    assert (found["difference"], found["low"], found["high"], found["seeds"]) == (2.0, 2.0, 2.0, 2)


def test_equal_differences_have_an_interval_without_width():
    assert mean_interval([0.0] * 5) == (0.0, 0.0, 0.0)


def test_one_pair_has_no_interval_and_none_no_effect():
    [found] = effects({"keras-100": [flat(94.0)], "keras-916": [flat(97.0)]})
    assert (found["low"], found["high"], found["seeds"]) == (None, None, 1)
    assert effects({"keras-100": [flat(94.0, 1)], "keras-916": [flat(97.0, 2)]}) == []
    assert effects({"keras-100": [flat(94.0)]}) == []


def test_a_quick_run_names_the_steps_and_epochs_that_it_had():
    studies = {name: quick(study) for name, study in STUDIES.items()}
    names = ("keras-100", "keras-916", "reversed-100-short", "reversed-100")
    steps, epochs = effects(
        {name: [flat(90.0)] for name in names}, studies=studies, train_rows=60_000
    )
    assert (steps["from_value"], steps["to_value"]) == ("10 of 91", "all 91")
    assert (epochs["from_value"], epochs["to_value"]) == ("2", "3")


def test_steps_in_an_epoch_follow_from_rows_and_batch():
    assert steps_per_epoch(STUDIES["keras-916"].settings) == 916
    assert steps_per_epoch(STUDIES["keras-100"].settings) == 100
    assert steps_per_epoch(STUDIES["keras-916"].settings, 6000) == 91


# --- The whole ----------------------------------------------------------------------------------


def test_results_hold_the_promised_names_and_survive_json():
    found = made_up()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {"environment", "data", "studies", "effects", "conclusion", "misses"} <= found.keys()
    assert [study["name"] for study in found["studies"]] == list(STUDIES)
    names = {"name", "source", "settings", "published", "runs", "summary"}
    assert names <= found["studies"][0].keys()
    first = found["studies"][0]["runs"][0]
    assert first.keys() == {"seed", "train", "val", "test", "seconds", "history"}
    expected = {"factor", "from", "to", "on", "difference", "low", "high", "seeds"}
    assert expected <= found["effects"][0].keys()
    assert (found["finished"], found["planned_runs"]) == (True, 3 * len(STUDIES))
    assert found["studies"][0]["settings"]["baked_training"] == [False, True, True]


def test_results_are_in_the_order_of_registry_and_seeds_whatever_comes_in():
    of = runs(("reversed-100", "keras-916-baked"), (3, 1, 2))
    found = results(ENVIRONMENT, DATA, STUDIES, of)
    assert [study["name"] for study in found["studies"]] == ["keras-916-baked", "reversed-100"]
    assert [each["seed"] for each in found["studies"][0]["runs"]] == [1, 2, 3]


def test_a_number_that_is_not_finite_is_a_word():
    broken = replace(run("keras-916", 1), history={"loss": [float("nan"), 0.123456789]})
    found = results(ENVIRONMENT, DATA, STUDIES, {"keras-916": [broken]})
    assert found["studies"][0]["runs"][0]["history"]["loss"] == ["NaN", 0.123457]


def test_caveats_name_quick_other_data_and_missing_runs():
    assert caveats(made_up()) == []
    assert caveats(made_up(("keras-100",), planned_runs=5)) == ["Not finished: 3 of 5 runs."]
    [text] = caveats(made_up(("keras-100",), name="my.npz"))
    assert text.startswith("Runs on other data than MNIST (my.npz). They are not comparable")
    [text] = caveats(made_up(("keras-100",), quick=True))
    assert text.startswith("A quick run on a tenth of the data. It is not comparable")


def test_no_results_at_all_are_results_too():
    found = results(ENVIRONMENT, DATA, STUDIES, {}, planned_runs=4)
    assert (found["studies"], found["effects"], found["finished"]) == ([], [], False)


@pytest.mark.parametrize("module", ["summary", "terminal", "report"])
def test_importing_is_light(module):
    heavy = ("tensorflow", "keras", "sklearn", "scipy", "altair", "jinja2", "vl_convert")
    code = (
        f"import sys, batchnorm_mechanics.studies.{module}; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
