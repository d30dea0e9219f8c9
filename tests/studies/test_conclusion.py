"""What the runs mean: every sentence follows from the numbers, and other numbers give another."""

import pytest
from made_up_runs import made_up

from batchnorm_mechanics.studies.conclusion import conclusion, misses
from batchnorm_mechanics.studies.registry import BAKED, BATCHES, LAYER, STATISTICS, STUDIES, Run
from batchnorm_mechanics.studies.summary import MARGIN, summarize

PAIRS = {
    BATCHES: [(f"{kind}-100", f"{kind}-916") for kind in ("keras", "algorithm2", "reversed")],
    STATISTICS: [("average-100", "algorithm2-100"), ("average-100", "reversed-100")],
    LAYER: [("keras-100", "average-100")],
    BAKED: [("keras-916", "keras-916-baked")],
}
VALUES = {
    BATCHES: ("100 of 916", "all 916"),
    STATISTICS: ("moving average", "another"),
    LAYER: ("Keras's", "ours"),
    BAKED: ("no", "2nd and 3rd layer"),
}
NAMES = {"batches": BATCHES, "statistics": STATISTICS, "layer": LAYER, "baked": BAKED}


def made_up_effects(half=0.1, **differences):
    """Make effects, `to` minus `from`, that are the same in all comparisons of a factor."""
    return [
        {
            "factor": NAMES[key],
            "from": one,
            "to": other,
            "from_value": VALUES[NAMES[key]][0],
            "to_value": VALUES[NAMES[key]][1],
            "on": "test accuracy",
            "difference": difference,
            "low": None if half is None else difference - half,
            "high": None if half is None else difference + half,
            "seeds": 1 if half is None else 5,
        }
        for key, difference in differences.items()
        for one, other in PAIRS[NAMES[key]]
    ]


# --- Why the custom runs scored lower -----------------------------------------------------------


def test_batches_that_make_the_gap_are_the_reason_and_the_rest_is_not():
    assert conclusion(made_up_effects(batches=2.5, statistics=-0.05, layer=0.02, baked=0.0)) == (
        "On test, algorithm2-100 (Algorithm 2, 100 of 916 batches an epoch) was published 2.52 "
        "points below keras-916-baked (Keras's layer, all 916 batches an epoch, two layers with "
        "training=True baked in). Changed alone, batches an epoch (100 of 916 instead of all 916) "
        "costs 2.50 points, 99% of that. Not the reason, with intervals below half of it: "
        "statistics, layer and baked training=True. On test, reversed-100 (reversed momentum, 100 "
        "of 916 batches an epoch) was published 3.40 points below keras-916-baked. Changed alone, "
        "batches an epoch (100 of 916 instead of all 916) costs 2.50 points, 74% of that. Not the "
        "reason, with intervals below half of it: statistics, layer and baked training=True."
    )


def test_the_opposite_effects_give_the_opposite_sentence():
    text = conclusion(made_up_effects(batches=0.05, statistics=-2.5, layer=0.02, baked=0.0))
    assert (
        "2.52 points below keras-916-baked (Keras's layer, all 916 batches an epoch, two layers "
        "with training=True baked in). Changed alone, statistics (another instead of moving "
        "average) costs 2.50 points, 99% of that. Not the reason, with intervals below half of "
        "it: batches an epoch, layer and baked training=True." in text
    )


@pytest.mark.parametrize(
    ("differences", "costs"),
    [
        ({"layer": -2.5}, "alone, layer (ours instead of Keras's) costs 2.50 points, 99% of that."),
        ({"baked": 2.5}, "alone, baked training=True (no instead of 2nd and 3rd layer) costs 2.50"),
        (
            {"layer": -2.0, "batches": 2.1},
            "batches an epoch (100 of 916 instead of all 916) costs 2.10 points, 83% of that and "
            "layer (ours instead of Keras's) costs 2.00 points, 79% of that.",
        ),
    ],
)
def test_any_factor_can_be_the_reason_and_the_largest_comes_first(differences, costs):
    nothing = {"batches": 0.0, "statistics": 0.0, "layer": 0.0, "baked": 0.0}
    assert costs in conclusion(made_up_effects(**{**nothing, **differences}))


def test_a_gain_is_no_reason_for_a_loss():
    text = conclusion(made_up_effects(batches=-2.5, statistics=2.5, layer=2.5, baked=-2.5))
    assert "costs" not in text
    assert text.endswith(
        "Nothing that was changed alone is shown to cost any of that. Not the reason, with "
        "intervals below half of it: batches an epoch, statistics, layer and baked training=True."
    )


def test_an_interval_with_0_in_it_decides_nothing():
    text = conclusion(made_up_effects(2.6, batches=2.5, statistics=0.0, layer=0.0, baked=0.0))
    assert "costs" not in text
    assert "Not the reason" not in text
    assert text.endswith(
        "Cannot be told: batches an epoch, statistics, layer and baked training=True."
    )


def test_a_factor_counts_only_if_all_its_comparisons_agree():
    effects = made_up_effects(batches=2.5)
    effects[1]["low"] = -0.1
    assert "Cannot be told: batches an epoch," in conclusion(effects)


def test_one_seed_decides_nothing():
    text = conclusion(made_up_effects(None, batches=2.5))
    assert "costs" not in text
    assert "Cannot be told: batches an epoch, statistics (not measured)" in text


def test_what_was_not_measured_is_said():
    text = conclusion(made_up_effects(batches=2.5))
    assert text.endswith(
        "74% of that. Cannot be told: statistics (not measured), layer (not measured) and baked "
        "training=True (not measured)."
    )
    assert "Nothing that was changed alone is shown" in conclusion([])


def test_each_published_run_is_judged_by_its_own_statistics():
    effects = made_up_effects(statistics=-2.5)
    effects[0].update(difference=0.0, low=-0.1, high=0.1)
    one, other = conclusion(effects).split("On test, reversed-100")
    assert "Not the reason, with intervals below half of it: statistics." in one
    assert "statistics (another instead of moving average) costs 2.50 points, 74%" in other


def test_what_does_not_differ_between_the_runs_is_left_out():
    effects = [{**made_up_effects(batches=2.5)[0], "from": "algorithm2-100-short"}]
    effects[0].update({"factor": "epochs", "to": "algorithm2-100"})
    assert "epochs" not in conclusion(effects)


def test_runs_that_cannot_be_compared_say_so_and_give_no_reason():
    text = conclusion(made_up_effects(batches=2.5), caveat="a quick run on a tenth of the data")
    assert "costs" not in text
    assert text.endswith(
        "3.40 points below keras-916-baked. A quick run on a tenth of the data cannot say why."
    )


# --- Published figures outside our range --------------------------------------------------------


def flat(test, seed=1, train=98.84, val=97.02) -> Run:
    return Run(seed, train, val, test, 1.0, {})


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


def test_seeds_that_gave_the_same_have_no_deviation():
    of = {"keras-916-baked": [flat(96.0, 1), flat(96.0, 2)]}
    why = found_misses(of)["keras-916-baked", "test"]["why"]
    assert why.startswith("It is 1.11 points above the highest of our 2 seeds (96.00), which all")


def test_no_choice_of_statistics_moves_the_training_accuracy_and_the_runs_show_it():
    of = {
        name: [flat(94.5 + shift, seed, train=94.5 + 0.1 * seed, val=94.6) for seed in range(3)]
        for name, shift in {"algorithm2-100": 0.0, "reversed-100": -0.1}.items()
    }
    found = found_misses(of)
    assert set(found) == {("reversed-100", "train"), ("reversed-100", "test")}
    reason = (
        " algorithm2-100 (Algorithm 2, 100 of 916 batches an epoch) differs from it in its "
        "running statistics only, which training never reads, and with the same seed has the "
        "same training accuracy (largest difference 0.00 points, seeds: 3). The two published "
        "runs are 1.08 points apart in training accuracy: something else than the statistics "
        "was not the same in them, such as the random start."
    )
    assert found["reversed-100", "train"]["why"].endswith(reason)
    assert found["reversed-100", "test"]["why"].endswith(
        f"{reason} On test they are -0.88 points apart, ours -0.10."
    )


def test_if_the_training_accuracies_differ_the_argument_is_not_made():
    of = {
        "algorithm2-100": [flat(94.5, 1, train=95.5)],
        "reversed-100": [flat(94.5, 1, train=94.5)],
    }
    why = found_misses(of)["reversed-100", "train"]["why"]
    assert "differ by up to 1.00 points, which they should not" in why
    assert "random start" not in why


def test_a_study_that_trains_otherwise_is_no_evidence():
    of = {
        "reversed-100": [flat(94.5, 1, train=94.5)],
        "reversed-916": [flat(94.5, 1, train=94.5)],
        "keras-100": [flat(94.5, 1, train=94.5)],
        "algorithm2-100": [flat(94.5, 2, train=94.5)],
    }
    assert "nothing that our runs vary" in found_misses(of)["reversed-100", "train"]["why"]


def test_a_twin_without_a_published_training_accuracy_proves_less():
    of = {name: [flat(94.5, 1, train=94.5)] for name in ("reversed-100", "average-100")}
    why = found_misses(of)["reversed-100", "train"]["why"]
    assert why.endswith(
        "has the same training accuracy (largest difference 0.00 points, seeds: 1)."
    )


def test_nothing_is_missed_where_nothing_is_compared():
    assert made_up()["misses"]
    assert made_up(quick=True)["misses"] == []
