"""Sick weights are found, with layer and channels, and near misses are not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from doctor.cases import case_of, found_by

import batchnorm_mechanics as bnm
from batchnorm_mechanics.doctor.rules.bn104_collapsed_variance import steps_of_decay
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers
# Of all that the weights tell.
CODES = [
    "BN101",
    "BN102",
    "BN103",
    "BN104",
    "BN105",
    "BN106",
    "BN110",
    "BN111",
    "BN112",
    "BN114",
    "BN115",
]
CHANNELS = 12
MEAN = np.linspace(-3, 4, CHANNELS)
VARIANCE = np.geomspace(0.2, 9, CHANNELS)


def model_with(kind=layers.BatchNormalization, *, channels=CHANNELS, dtype=None, **settings):
    """Return a model of two layers with statistics of real training, "first" and "second"."""
    model = keras.Sequential(
        [
            layers.Input((channels,)),
            kind(name="first", dtype=dtype, **settings),
            layers.Dense(channels, use_bias=False),
            kind(name="second", dtype=dtype, **settings),
        ]
    )
    for layer in (model.get_layer("first"), model.get_layer("second")):
        layer.moving_mean.assign(MEAN[:channels])
        layer.moving_variance.assign(VARIANCE[:channels])
    return model


def put(weight, values):
    """Change some channels of a weight."""
    array = keras.ops.convert_to_numpy(weight).copy()
    for channel, value in values.items():
        array[channel] = value
    weight.assign(array)


def found(model, code=None):
    findings = found_by(CODES, case_of(model))
    return [one for one in findings if one.code == code] if code else findings


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.parametrize("kind", [layers.BatchNormalization, bnm.BatchNormalization])
def test_nothing_is_found_in_sound_weights(kind):
    assert found(model_with(kind)) == []


# BN101


@pytest.mark.parametrize("kind", [layers.BatchNormalization, bnm.BatchNormalization])
@pytest.mark.parametrize("weight", ["gamma", "beta", "moving_mean", "moving_variance"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_an_error_in_its_channels(kind, weight, value):
    model = model_with(kind)
    put(getattr(model.get_layer("second"), weight), {2: value, 7: value})
    finding = only(found(model, "BN101"))
    assert (finding.layer, finding.channels, finding.severity) == ("second", (2, 7), "error")
    assert finding.evidence == {f"non_finite_{weight}": 2}
    assert weight in finding.cause


def test_weights_that_are_not_finite_in_different_channels_are_one_finding():
    model = model_with()
    put(model.get_layer("first").gamma, {1: np.nan})
    put(model.get_layer("first").moving_mean, {4: np.inf, 1: np.nan})
    finding = only(found(model))
    assert finding.channels == (1, 4)
    assert finding.evidence == {"non_finite_gamma": 1, "non_finite_moving_mean": 2}


def test_what_renormalization_keeps_besides_is_looked_at_too():
    model = model_with(renorm=True)
    put(model.get_layer("first").renorm_stddev, {5: np.nan})
    assert only(found(model)).evidence == {"non_finite_renorm_stddev": 1}


def test_one_bad_batch_in_training_is_found_in_its_channel(rng):
    model = keras.Sequential([layers.Input((3,)), layers.BatchNormalization(name="bn")])
    x = rng.normal(size=(8, 3)).astype("float32")
    for batch in (np.where([False, True, False], np.float32(np.nan), x), *[x] * 5):
        model(batch, training=True)
    finding = only(found(model, "BN101"))
    assert (finding.layer, finding.channels) == ("bn", (1,))


# BN102


@pytest.mark.parametrize("kind", [layers.BatchNormalization, bnm.BatchNormalization])
def test_a_variance_below_zero_is_an_error_in_its_channel(kind):
    model = model_with(kind)
    put(model.get_layer("second").moving_variance, {3: -0.5, 9: -1e-5})
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.channels) == ("BN102", "second", (3, 9))
    assert finding.severity == "error"
    assert finding.root is None
    assert finding.evidence == {
        "lowest_variance": pytest.approx(-0.5),
        "epsilon": pytest.approx(1e-3),
        "channels_with_undefined_output": 1,
    }


def test_a_variance_of_minus_infinity_is_left_to_the_rule_for_what_is_not_finite():
    model = model_with()
    put(model.get_layer("first").moving_variance, {0: -np.inf})
    assert [one.code for one in found(model)] == ["BN101"]


# BN115


@pytest.mark.parametrize("kind", [layers.BatchNormalization, bnm.BatchNormalization])
def test_swapped_statistics_are_found_as_the_root_of_negative_variances(kind):
    model = model_with(kind)
    layer = model.get_layer("second")
    layer.moving_mean.assign(VARIANCE)
    layer.moving_variance.assign(MEAN)
    swapped = only(found(model, "BN115"))
    assert (swapped.layer, swapped.channels) == ("second", tuple(range(CHANNELS)))
    assert swapped.severity == "error"
    assert swapped.evidence["negative_variances"] == (MEAN < 0).sum()
    assert swapped.evidence["lowest_variance"] == pytest.approx(-3)
    assert swapped.evidence["lowest_mean"] == pytest.approx(0.2)
    assert swapped.evidence["chance"] == pytest.approx(2**-12)
    negative = only(found(model, "BN102"))
    assert negative.root == swapped.key == "BN115 second"
    assert len(found(model)) == 2


def test_swapped_statistics_are_not_judged_as_variances():
    model = model_with()
    layer = model.get_layer("second")
    layer.moving_mean.assign(VARIANCE)
    layer.moving_variance.assign(np.where(MEAN > 0, 0, MEAN))
    assert {one.code for one in found(model)} == {"BN102", "BN115"}


@pytest.mark.parametrize(
    ("mean", "variance"),
    [
        pytest.param(VARIANCE, np.where(np.arange(CHANNELS) == 3, -1, VARIANCE), id="one spoilt"),
        pytest.param(MEAN, MEAN, id="means of both signs"),
        pytest.param(np.zeros(CHANNELS), MEAN, id="means of zero"),
        pytest.param(VARIANCE, VARIANCE, id="variances all above zero"),
    ],
)
def test_statistics_that_may_be_in_place_are_not_called_swapped(mean, variance):
    model = model_with()
    model.get_layer("second").moving_mean.assign(mean)
    model.get_layer("second").moving_variance.assign(variance)
    assert found(model, "BN115") == []


def test_few_channels_are_never_called_swapped():
    model = model_with(channels=7)
    model.get_layer("second").moving_mean.assign(VARIANCE[:7])
    model.get_layer("second").moving_variance.assign(MEAN[:7])
    assert {one.code for one in found(model)} == {"BN102"}


# BN104


@pytest.mark.parametrize("kind", [layers.BatchNormalization, bnm.BatchNormalization])
@pytest.mark.parametrize(("momentum", "steps"), [(0.99, 1), (0.99, 300), (0.9, 40), (0.999, 2000)])
def test_batches_of_one_leave_the_same_decay_in_all_channels(rng, kind, momentum, steps):
    layer = kind(momentum=momentum, name="bn")
    model = keras.Sequential([layers.Input((5,)), layer])
    x = rng.normal(size=(steps, 1, 5)).astype("float32")

    @tf.function
    def train():
        for batch in tf.constant(x):
            model(batch, training=True)

    train()
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.severity) == ("BN104", "bn", "warning")
    assert finding.channels == tuple(range(5))
    assert finding.evidence["steps_of_decay"] == steps
    assert finding.evidence["variance"] == pytest.approx(momentum**steps, rel=1e-3)
    assert finding.evidence["momentum"] == pytest.approx(momentum)


def test_equal_channels_are_not_taken_for_batches_of_one(rng):
    """A grey image in three channels has one variance three times, but no power of the momentum."""
    layer = layers.BatchNormalization(name="bn")
    model = keras.Sequential([layers.Input((4, 4, 3)), layer])
    for _ in range(400):
        grey = rng.uniform(size=(4, 4, 4, 1)).astype("float32")
        model(np.repeat(grey, 3, axis=-1), training=True)
    assert np.ptp(layer.moving_variance.numpy()) < 1e-6
    assert found(model) == []


@pytest.mark.parametrize("steps", [-3.0, 0.3, 10.5])
def test_equal_variances_that_are_no_whole_power_are_no_decay(steps):
    model = model_with()
    model.get_layer("first").moving_variance.assign(np.full(CHANNELS, 0.99**steps))
    assert steps_of_decay(norms_in(model)[0]) is None
    assert found(model) == []


def test_one_channel_that_differs_refutes_the_decay():
    model = model_with()
    model.get_layer("first").moving_variance.assign(np.full(CHANNELS, 0.99**100))
    assert steps_of_decay(norms_in(model)[0]) == 100
    put(model.get_layer("first").moving_variance, {4: 0.99**100 * 1.001})
    assert found(model) == []


def test_a_decay_from_another_start_is_told_by_its_ratio():
    model = model_with(moving_variance_initializer=keras.initializers.Constant(4.0))
    model.get_layer("first").moving_variance.assign(np.full(CHANNELS, 4 * 0.99**25))
    assert only(found(model)).evidence["steps_of_decay"] == 25


def test_a_few_channels_whose_input_never_varied_are_a_note():
    model = model_with(epsilon=1e-3)
    put(model.get_layer("second").moving_variance, {0: 0.0, 6: 9e-4, 7: 1.1e-3})
    put(model.get_layer("second").gamma, {6: 3.0})
    finding = only(found(model))
    assert (finding.code, finding.severity) == ("BN104", "note")
    assert (finding.layer, finding.channels) == ("second", (0, 6))
    assert finding.evidence["lowest_variance"] == 0
    assert finding.evidence["largest_gain"] == pytest.approx(3 / np.sqrt(1.9e-3), rel=1e-5)


@pytest.mark.parametrize(
    ("largest", "severity"), [(9.9e-5, "warning"), (1.1e-4, "note"), (9e-3, "note"), (1.2e-2, None)]
)
def test_variances_far_below_epsilon_in_all_channels_are_a_warning(largest, severity):
    """A depthwise layer of small weights has them all below epsilon and is well; not far below."""
    model = model_with(epsilon=1e-2)
    variance = np.geomspace(largest, largest * 0.9, CHANNELS)
    model.get_layer("first").moving_variance.assign(variance)
    findings = found(model)
    assert [one.severity for one in findings] == ([] if severity is None else [severity])
    for finding in findings:
        assert (finding.code, finding.layer) == ("BN104", "first")
        assert finding.channels == tuple(range(CHANNELS))
        assert finding.evidence["largest_variance"] == pytest.approx(largest)


def test_a_debiased_average_of_batches_of_one_collapses_to_zero(rng):
    policy = bnm.DebiasedMovingAverage()
    layer = bnm.BatchNormalization(statistics=policy, name="bn")
    model = keras.Sequential([layers.Input((4,)), layer])
    model(rng.normal(size=(1, 4)).astype("float32"), training=True)
    finding = only(found(model))
    assert (finding.code, finding.severity) == ("BN104", "warning")


# BN111


def test_a_variance_below_the_rounding_of_the_input_is_a_warning():
    model = model_with(epsilon=1e-7, dtype="mixed_float16")
    put(model.get_layer("second").moving_mean, {3: 100.0, 4: 100.0})
    put(model.get_layer("second").moving_variance, {3: 1e-5, 4: 1e-2})
    finding = only([one for one in found(model, "BN111") if one.severity == "warning"])
    assert (finding.layer, finding.severity, finding.channels) == ("second", "warning", (3,))
    assert finding.evidence["channels_of_rounding"] == 1
    assert finding.evidence["channels_of_overflow"] == 0
    # float16 has 10 bits after the point: it rounds 100 by 100 * 2**-11 at most.
    assert finding.evidence["rounding_variance"] == pytest.approx((100 * 2**-11) ** 2 / 3)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_same_in_another_precision_is_judged_by_its_own_rounding(dtype):
    model = model_with(epsilon=1e-7, dtype=dtype)
    put(model.get_layer("second").moving_mean, {3: 100.0})
    put(model.get_layer("second").moving_variance, {3: 1e-5})
    expected = {"float32": [], "mixed_bfloat16": [("second", (3,))]}[dtype]
    assert [(one.layer, one.channels) for one in found(model, "BN111")] == expected


def test_a_gain_that_overflows_float16_is_a_warning():
    model = model_with(epsilon=1e-9, dtype="mixed_float16")
    put(model.get_layer("first").moving_mean, {1: 0.0})
    put(model.get_layer("first").moving_variance, {1: 0.0})
    finding = only([one for one in found(model, "BN111") if one.severity == "warning"])
    assert (finding.layer, finding.channels) == ("first", (1,))
    assert finding.evidence["channels_of_overflow"] == 1


@pytest.mark.parametrize("channels", [(1,), tuple(range(CHANNELS))])
def test_an_epsilon_of_zero_with_a_variance_of_zero_is_a_warning(channels):
    model = model_with(epsilon=0.0)
    put(model.get_layer("first").moving_mean, dict.fromkeys(channels, 0.0))
    put(model.get_layer("first").moving_variance, dict.fromkeys(channels, 0.0))
    assert only(found(model, "BN111")).channels == channels


def test_an_epsilon_that_float16_cannot_hold_is_a_note_where_nothing_comes_of_it():
    model = model_with(epsilon=1e-5, dtype="mixed_float16")
    assert [(one.code, one.layer, one.severity, one.channels) for one in found(model)] == [
        ("BN111", "first", "note", ()),
        ("BN111", "second", "note", ()),
    ]


@pytest.mark.parametrize(
    ("epsilon", "dtype"), [(1e-5, "float32"), (1e-12, "mixed_bfloat16"), (1e-3, "mixed_float16")]
)
def test_an_epsilon_that_the_precision_holds_is_not_named(epsilon, dtype):
    assert found(model_with(epsilon=epsilon, dtype=dtype), "BN111") == []


# BN112


def test_a_gamma_of_zero_or_next_to_nothing_is_a_note():
    model = model_with()
    put(model.get_layer("second").gamma, {2: 0.0, 5: -9e-4, 6: 1.1e-3})
    finding = only(found(model))
    assert (finding.code, finding.severity) == ("BN112", "note")
    assert (finding.layer, finding.channels) == ("second", (2, 5))
    assert finding.evidence == {
        "exactly_zero": 1,
        "median_gamma": 1.0,
        "largest_dead": pytest.approx(9e-4),
    }


def test_a_branch_that_begins_with_gamma_zero_is_not_dead():
    assert found(model_with(gamma_initializer="zeros")) == []


def test_a_branch_that_training_has_left_at_gamma_zero_is_dead(rng):
    model = model_with(gamma_initializer="zeros", momentum=0.5001)
    model.compile("sgd", "mse")
    x = rng.normal(size=(64, CHANNELS)).astype("float32")
    model.get_layer("second").trainable = False
    model.compile("sgd", "mse")
    model.fit(x, np.zeros_like(x), batch_size=4, verbose=0)
    assert [one.layer for one in found(model, "BN112")] == ["first"]


def test_a_layer_without_gamma_and_beta_has_none_that_is_wrong():
    assert found(model_with(scale=False, center=False)) == []
