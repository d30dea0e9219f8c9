"""Room 4: batches that come in time, beside `statistics` and the copied Python."""

import ast

import numpy as np
import pytest
import rooms

import batchnorm_mechanics as bnm

STATES = {
    "as it begins": {},
    "rests and single samples": {"sizes": [32, 5, 1], "momentum": 0.9, "at": 130},
    "far from zero": {"source": [[1e4, 1], [-1e4, 0.5]], "at": 160, "jump": 150, "sizes": [7]},
    "before the first batch": {"at": 0},
    "one sample each": {"sizes": [1], "at": 40, "seed": 99},
}
POLICIES = {
    "keras": lambda momentum: bnm.ExponentialMovingAverage(decay=momentum),
    "reversed": lambda momentum: bnm.ExponentialMovingAverage(decay=1 - momentum),
    "debiased": lambda momentum: bnm.DebiasedMovingAverage(decay=momentum),
    "average": lambda _: bnm.AverageOfBatches(),
    "pooled": lambda _: bnm.PooledPopulation(),
}
SCRIPT = """(() => {
  const fields = Object.fromEntries(
    Object.entries(time_model.fields).map(([name, field]) => [name, field.initial]));
  const state = time_model.mend({...fields, ...changes});
  const found = time_model.followed(state, own ?? undefined);
  const each = (what) => time_model.POLICIES.map((_, which) => what(which, state, found));
  return {
    state, ...found, code: time_words.code(state, own ?? undefined),
    names: time_model.POLICIES.map(({line}) => line),
    madeOf: each(time_model.madeOf), trusted: each(time_model.trusted),
    remarks: time_words.remarks(state),
  };
})()"""


def room(own=None, **changes):
    return rooms.evaluated(SCRIPT, changes=changes, own=own)


@pytest.mark.parametrize("changes", STATES.values(), ids=STATES)
def test_every_policy_is_followed_as_ours_does_it(changes):
    found = room(**changes)
    assert found["names"] == list(POLICIES)
    for name, path in zip(found["names"], found["paths"], strict=True):
        policy = POLICIES[name](found["state"]["momentum"])
        state = policy.init([1])
        for time, batch in enumerate([None, *found["batches"]]):
            if batch is not None:
                given = np.float32([[batch["mean"]], [batch["variance"]]])
                state = policy.update(state, *given, batch["count"])
            for what in ("mean", "variance"):
                wanted = getattr(state, what).numpy()[0]
                # TensorFlow takes what is below the smallest normal number for 0.
                is_tiny = abs(path[time][what]) < np.finfo(np.float32).tiny
                assert path[time][what] == wanted or (is_tiny and wanted == 0), (name, time, what)


@pytest.mark.parametrize("changes", STATES.values(), ids=STATES)
def test_the_copied_python_prints_what_the_page_shows(changes):
    found = room(**changes)
    at = found["state"]["at"]
    lines = [line.split(" ") for line in rooms.printed(found["code"])]
    assert [line[0] for line in lines] == found["names"]
    for (_, _, mean, _, variance), path in zip(lines, found["paths"], strict=True):
        shown = [path[at]["mean"], path[at]["variance"]]
        # A sum of floats goes by vectors in TensorFlow; the numbers drawn are the same.
        np.testing.assert_allclose(
            [ast.literal_eval(mean)[0], ast.literal_eval(variance)[0]], shown, rtol=2e-6
        )


def test_the_distribution_is_the_one_that_is_set():
    found = room(sizes=[100], batches=200, jump=100)
    means = np.array([batch["mean"] for batch in found["batches"]])
    variances = np.array([batch["variance"] for batch in found["batches"]])
    np.testing.assert_allclose([means[:100].mean(), means[100:].mean()], [5, 8], atol=0.1)
    np.testing.assert_allclose([variances[:100].mean(), variances[100:].mean()], [4, 9], rtol=0.05)


def test_after_50_batches_keras_s_average_is_still_60_percent_start():
    policy = bnm.ExponentialMovingAverage(decay=0.99)
    keras, backwards, *others = room(at=50)["madeOf"]
    assert keras["start"] == pytest.approx(policy.weight_of_start(50), rel=1e-12)
    assert round(keras["start"], 3) == 0.605
    assert [one["start"] for one in others] == [0, 0, 0]
    assert backwards["start"] < 1e-90


def test_what_a_mean_is_made_of_are_the_weights_that_it_has():
    """A batch of ones before the jump, or after it, alone: the mean is then that part's weight."""
    at, jump = 150, 120
    shares = room(at=at, jump=jump)["madeOf"]
    for name, share in zip(POLICIES, shares, strict=True):
        policy = POLICIES[name](0.99)
        for part, ones in {"before": range(jump), "after": range(jump, at)}.items():
            state = policy.init([1])
            for time in range(at):
                state = policy.update(state, [float(time in ones)], [1.0], 16)
            assert share[part] == pytest.approx(state.mean.numpy()[0], abs=2e-6), (name, part)
        assert sum(share.values()) == pytest.approx(1)


def test_marks_say_from_when_each_can_be_trusted():
    keras, backwards, debiased, average, pooled = room()["trusted"]
    policy = bnm.ExponentialMovingAverage(decay=0.99)
    assert policy.weight_of_start(keras["from"]) <= 0.5 < policy.weight_of_start(keras["from"] - 1)
    assert (keras["from"], keras["again"]) == (69, 120 + 69)
    assert [one["from"] for one in (backwards, debiased, average, pooled)] == [1, 1, 1, 1]
    assert backwards["again"] == 121
    # As many samples must come as there were.
    assert pooled["again"] == "Infinity"
    assert room(jump=100)["trusted"][4]["again"] == 200


def test_algorithm_2_waits_for_a_batch_that_has_a_variance():
    assert room(sizes=[1, 1, 8])["trusted"][3]["from"] == 3
    assert room(sizes=[1])["trusted"][3]["from"] == "Infinity"
    (remark,) = room(sizes=[1])["remarks"]
    assert "pooling alone is right" in remark


def test_no_address_breaks_it():
    found = room(sizes=[0, 3.5, 1000], source=[[1], [2, -1], [3]], jump=900, at=1e9, batches=10)
    assert found["state"]["sizes"] == [16]
    assert found["state"]["source"] == [[5, 2], [8, 3]]
    assert (found["state"]["jump"], found["state"]["at"]) == (10, 10)


LAYER = {
    "name": "bn",
    "channels": 2,
    "batches": [
        {"count": 32, "mean": [1.5, -2.0], "variance": [4.0, 1.0]},
        {"count": 32, "mean": [2.5, -1.0], "variance": [5.0, 2.0]},
        {"count": 7, "mean": [0.5, 0.0], "variance": [6.0, 3.0]},
    ],
}


def test_the_batches_of_a_model_s_layer_are_followed_too():
    found = room(LAYER, layer=0, channel=1, batches=3, at=3)
    policy = bnm.PooledPopulation()
    state = policy.init([1])
    for batch in LAYER["batches"]:
        state = policy.update(state, batch["mean"][1:], batch["variance"][1:], batch["count"])
    assert found["paths"][4][-1] == pytest.approx(
        {"mean": state.mean.numpy()[0], "variance": state.variance.numpy()[0], "count": 71}
    )
    assert found["truth"][0] == found["paths"][4][-1]
    lines = rooms.printed(found["code"])
    assert f"variance [{state.variance.numpy()[0]}" in lines[-1]
