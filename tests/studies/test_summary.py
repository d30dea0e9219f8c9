"""What the runs say: every sentence follows from the numbers, and other numbers give another."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import DATA, ENVIRONMENT, made_up, run, runs

from batchnorm_mechanics.studies.conclusion import conclusion
from batchnorm_mechanics.studies.config import Run
from batchnorm_mechanics.studies.misses import misses
from batchnorm_mechanics.studies.registry import BAKED, LAYER, STATISTICS, STEPS, STUDIES, quick
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
        STEPS,
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
    assert (steps["from_value"], steps["to_value"]) == ("10", "91")
    assert (epochs["from_value"], epochs["to_value"]) == ("2", "3")


def test_steps_in_an_epoch_follow_from_rows_and_batch():
    assert steps_per_epoch(STUDIES["keras-916"].settings) == 916
    assert steps_per_epoch(STUDIES["keras-100"].settings) == 100
    assert steps_per_epoch(STUDIES["keras-916"].settings, 6000) == 91


# --- Why the custom runs scored lower -----------------------------------------------------------

PAIRS = {
    STEPS: [(f"{kind}-100", f"{kind}-916") for kind in ("keras", "algorithm2", "reversed")],
    STATISTICS: [("average-100", "algorithm2-100"), ("average-100", "reversed-100")],
    LAYER: [("keras-100", "average-100")],
    BAKED: [("keras-916", "keras-916-baked")],
}
VALUES = {
    STEPS: ("100", "916"),
    STATISTICS: ("moving average", "another"),
    LAYER: ("Keras's", "ours"),
    BAKED: ("no", "2nd and 3rd layer"),
}


def made_up_effects(half=0.1, **differences):
    """Make effects, `to` minus `from`, that are the same in all comparisons of a factor."""
    names = {"steps": STEPS, "statistics": STATISTICS, "layer": LAYER, "baked": BAKED}
    return [
        {
            "factor": names[key],
            "from": one,
            "to": other,
            "from_value": VALUES[names[key]][0],
            "to_value": VALUES[names[key]][1],
            "on": "test accuracy",
            "difference": difference,
            "low": None if half is None else difference - half,
            "high": None if half is None else difference + half,
            "seeds": 1 if half is None else 5,
        }
        for key, difference in differences.items()
        for one, other in PAIRS[names[key]]
    ]


def test_steps_that_make_the_gap_are_the_reason_and_the_rest_is_not():
    text = conclusion(made_up_effects(steps=2.5, statistics=-0.05, layer=0.02, baked=0.0))
    assert text.startswith(
        "On test, the published custom runs scored 2.52 (algorithm2-100) and 3.40 (reversed-100) "
        "points lower than the published Keras run (keras-916-baked)."
    )
    assert (
        "Changed alone: training 100 steps an epoch instead of 916 lowers test accuracy by 2.50 "
        "points (3 comparisons, 95% intervals within 2.40 to 2.60, none with 0 in it): 99% of the "
        "gap of algorithm2-100 and 74% of the gap of reversed-100." in text
    )
    assert text.endswith(
        "The published runs algorithm2-100 and reversed-100 scored lower mainly because of "
        "training on 100 steps an epoch instead of 916, and not because of the running statistics, "
        "the layer or the baked training=True."
    )


def test_the_opposite_effects_give_the_opposite_sentence():
    text = conclusion(made_up_effects(steps=0.05, statistics=-2.5, layer=0.02, baked=0.0))
    assert "Changed alone: taking other running statistics" in text
    assert text.endswith(
        "scored lower mainly because of their running statistics, and not because of the steps an "
        "epoch, the layer or the baked training=True."
    )


@pytest.mark.parametrize(
    ("differences", "because"),
    [
        ({"layer": -2.5}, "because of the layer, and"),
        ({"baked": 2.5}, "because of leaving out the baked training=True, and"),
        ({"layer": -2.0, "steps": 2.0}, "instead of 916 and the layer, and"),
    ],
)
def test_any_factor_can_be_the_reason(differences, because):
    flat_effects = {"steps": 0.0, "statistics": 0.0, "layer": 0.0, "baked": 0.0}
    assert because in conclusion(made_up_effects(**{**flat_effects, **differences}))


def test_a_gain_is_no_reason_for_a_loss():
    text = conclusion(made_up_effects(steps=-2.5, statistics=2.5, layer=2.5, baked=-2.5))
    assert text.endswith(
        "These runs do not show why algorithm2-100 and reversed-100 scored lower: none of the "
        "measured differences makes half of the gap."
    )


def test_an_interval_with_0_in_it_decides_nothing():
    text = conclusion(made_up_effects(2.6, steps=2.5, statistics=0.0, layer=0.0, baked=0.0))
    assert "all with 0 in them" in text
    assert "mainly because" not in text
    assert "do not show why algorithm2-100 and reversed-100 scored lower (not decided: " in text


def test_one_seed_decides_nothing():
    text = conclusion(made_up_effects(None, steps=2.5))
    assert "lowers test accuracy by 2.50 points (3 comparisons, one seed, so no interval)" in text
    assert text.endswith(
        "These runs do not show why algorithm2-100 and reversed-100 scored lower (not decided: the "
        "steps an epoch; not measured: the running statistics, the layer and the baked "
        "training=True)."
    )


def test_what_was_not_measured_is_said():
    text = conclusion(made_up_effects(steps=2.5))
    assert text.endswith(
        "instead of 916 (not measured: the running statistics, the layer and the baked "
        "training=True)."
    )
    assert conclusion([]).endswith("was measured here, so these runs do not say why.")


def test_each_published_run_gets_its_own_reason():
    of = made_up_effects(steps=1.4, layer=0.0, baked=0.0)
    text = conclusion(of + made_up_effects(statistics=0.0))
    assert "The published run algorithm2-100 scored lower mainly because of training on" in text
    assert "do not show why reversed-100 scored lower" in text


def test_runs_that_cannot_be_compared_say_so_and_give_no_reason():
    text = conclusion(made_up_effects(steps=2.5), caveat="a quick run on a tenth of the data")
    assert "Changed alone in a quick run on a tenth of the data: training 100" in text
    assert "of the gap" not in text
    assert text.endswith(
        "A quick run on a tenth of the data cannot say why the published custom runs scored lower."
    )


# --- Published figures outside our range --------------------------------------------------------


def found_misses(of):
    summaries = {
        name: summarize(STUDIES[name], of_study, comparable=True) for name, of_study in of.items()
    }
    return {
        (miss["study"], miss["metric"]): miss
        for miss in misses(summaries, of, STUDIES, margin=MARGIN)
    }


def test_a_miss_says_how_far_it_is():
    of = {"keras-916-baked": [flat(98.0, 1), flat(98.2, 2)]}
    miss = found_misses(of)["keras-916-baked", "test"]
    assert (miss["published"], miss["low"], miss["high"]) == (97.11, 97.5, 98.7)
    assert miss["why"] == (
        "It is 0.89 points below the lowest of our 2 seeds (98.00) and 7.0 of their standard "
        "deviations from their mean. The source gives one run and no spread, and nothing that our "
        "runs vary explains the difference."
    )


def test_a_miss_of_one_seed_has_no_spread():
    why = found_misses({"keras-916-baked": [flat(96.0)]})["keras-916-baked", "test"]["why"]
    assert why.startswith("It is 1.11 points above our only seed (96.00), which has no spread")


def test_no_choice_of_statistics_moves_the_training_accuracy_and_the_runs_show_it():
    of = {
        name: [flat(94.5 + shift, seed, train=94.5 + 0.1 * seed, val=94.6) for seed in range(3)]
        for name, shift in {"algorithm2-100": 0.0, "reversed-100": -0.1}.items()
    }
    found = found_misses(of)
    assert set(found) == {("reversed-100", "train"), ("reversed-100", "test")}
    train = found["reversed-100", "train"]["why"]
    assert (
        "algorithm2-100 differs from it in its running statistics only, and with the same seed has "
        "the same training accuracy (largest difference 0.00 points, 3 seeds)" in train
    )
    assert "the two published runs, one each, differ by 1.08 points in training accuracy" in train
    assert "move ours by less: 0.20 points from the lowest to the highest of 3 seeds" in train
    test = found["reversed-100", "test"]["why"]
    assert "are 1.08 points apart in training accuracy already" in test
    assert test.endswith(
        "On test it scored 0.88 points lower than that one; ours, trained alike, 0.10 points lower."
    )


def test_if_the_training_accuracies_differ_the_argument_is_not_made():
    of = {
        "algorithm2-100": [flat(94.5, 1, train=95.5)],
        "reversed-100": [flat(94.5, 1, train=94.5)],
    }
    why = found_misses(of)["reversed-100", "train"]["why"]
    assert "differ by up to 1.00 points, which they should not" in why
    assert "No choice of statistics" not in why


def test_a_study_that_trains_otherwise_is_no_evidence():
    of = {
        "reversed-100": [flat(94.5, 1, train=94.5)],
        "reversed-916": [flat(94.5, 1, train=94.5)],
        "keras-100": [flat(94.5, 1, train=94.5)],
        "algorithm2-100": [flat(94.5, 2, train=94.5)],
    }
    assert "nothing that our runs vary" in found_misses(of)["reversed-100", "train"]["why"]


def test_nothing_is_missed_where_nothing_is_compared():
    assert made_up()["misses"]
    assert made_up(quick=True)["misses"] == []


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


@pytest.mark.parametrize("module", ["summary", "tables", "report"])
def test_importing_is_light(module):
    heavy = ("tensorflow", "keras", "sklearn", "scipy", "altair", "jinja2", "vl_convert")
    code = (
        f"import sys, batchnorm_mechanics.studies.{module}; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
