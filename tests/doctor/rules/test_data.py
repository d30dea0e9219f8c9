"""Each rule that needs data finds what it is for, and is silent next to it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from doctor.cases import case_of, found_by
from doctor.healthy_models import with_statistics_of

import batchnorm_mechanics as bnm
from batchnorm_mechanics.doctor.gaps import change, gaps_of, weighted
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers
NAMES = ("first", "second", "third")


def check(model, x, batch_size=32):
    return found_by(["BN115", "BN2"], case_of(model, x, batch_size=batch_size))


def found(findings, code):
    return {one.layer: one for one in findings if one.code == code}


def numbers(rows=512, seed=0, features=16):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, features)) @ np.random.default_rng(9).normal(size=[features] * 2)
    return (mixed + np.random.default_rng(8).normal(0, 3, features)).astype("float32")


def healthy(**settings):
    """Return three dense layers with batch norm whose statistics are exactly those of the data."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([layers.Input((16,))])
    for name in NAMES:
        model.add(layers.Dense(16, use_bias=False))
        model.add(layers.BatchNormalization(name=name, **settings))
        model.add(layers.ReLU())
    model.add(layers.Dense(4))
    return with_statistics_of(model, numbers())[0]


def single(x, **settings):
    """Return one layer on its own, with the statistics of x."""
    norm = layers.BatchNormalization(name="bn", **settings)
    return with_statistics_of(keras.Sequential([layers.Input(x.shape[1:]), norm]), x)[0]


def wrong_channels(model, name, channels, *, shift=4.0):
    norm = model.get_layer(name)
    mean = norm.moving_mean.numpy()
    mean[channels] += shift * np.sqrt(norm.moving_variance.numpy()[channels])
    norm.moving_mean.assign(mean)


def test_nothing_is_wrong_where_statistics_are_those_of_the_data():
    assert check(healthy(), numbers()) == []


def test_other_data_of_the_same_kind_are_no_gap():
    assert check(healthy(), numbers(seed=5)) == []


def test_a_few_samples_are_no_gap():
    assert check(healthy(), numbers(rows=24, seed=5)) == []


def test_a_gap_is_found_at_its_layer_and_channels():
    model = healthy()
    wrong_channels(model, "second", [2, 7, 11])
    gap = found(check(model, numbers()), "BN201")["second"]
    assert gap.channels == (2, 7, 11)
    assert gap.severity == "error"
    assert gap.evidence["worst_channel"] in {2, 7, 11}
    assert gap.evidence["mean_shift"] == pytest.approx(-4, abs=0.05)
    assert gap.evidence["variance_ratio"] == pytest.approx(1, abs=0.01)
    assert gap.evidence["gap"] == pytest.approx(4 * np.sqrt(3 / 16), abs=0.02)
    assert gap.evidence["own_gap"] == pytest.approx(gap.evidence["gap"], abs=0.15)


def test_a_wrong_variance_is_a_gap_in_its_channels():
    model = healthy()
    norm = model.get_layer("first")
    variance = norm.moving_variance.numpy()
    variance[[1, 4]] /= 100
    norm.moving_variance.assign(variance)
    gap = found(check(model, numbers()), "BN201")["first"]
    assert gap.channels == (1, 4)
    assert gap.evidence["variance_ratio"] == pytest.approx(100, rel=0.05)


def test_later_layers_that_only_pass_a_gap_on_have_none_of_their_own():
    model = healthy()
    wrong_channels(model, "first", range(0, 16, 2), shift=3)
    gaps = found(check(model, numbers()), "BN201")
    assert gaps["first"].evidence["own_gap"] > 1
    assert gaps["second"].evidence["gap"] > 0.25 > gaps["second"].evidence["own_gap"]
    assert "before this one" in gaps["second"].cause


def test_a_gap_that_the_output_does_not_feel_is_a_note():
    model = healthy()
    wrong_channels(model, "third", [3])
    kernel, bias = model.layers[-1].get_weights()
    kernel[3] = 0
    model.layers[-1].set_weights([kernel, bias])
    assert [(one.code, one.severity) for one in check(model, numbers())] == [("BN201", "note")]


def test_channels_that_gamma_takes_away_are_no_gap():
    model = healthy()
    model.get_layer("second").gamma.assign([0.0] * 8 + [1.0] * 8)
    with_statistics_of(model, numbers())
    wrong_channels(model, "second", range(8))
    assert found(check(model, numbers()), "BN201") == {}


def test_a_gap_within_the_noise_of_a_short_moving_average_is_none():
    x = numbers(rows=960)
    steady, short = (healthy(momentum=momentum) for momentum in (0.99, 0.5))
    for model in (steady, short):
        with_statistics_of(model, x)
        wrong_channels(model, "first", range(16), shift=0.3)
    # A batch of 32 knows a mean to 0.18 sigma; a momentum of 0.5 averages three of them.
    assert "first" in found(check(steady, x), "BN201")
    assert "first" not in found(check(short, x), "BN201")


def test_a_frozen_layers_gap_is_a_note_unless_the_whole_model_is_frozen():
    model = healthy()
    wrong_channels(model, "second", range(16))
    model.get_layer("second").trainable = False
    gap = found(check(model, numbers()), "BN201")["second"]
    assert gap.severity == "note"
    assert "frozen" in gap.cause
    model.trainable = False
    assert found(check(model, numbers()), "BN201")["second"].severity == "error"


def test_a_gap_in_one_batch_is_none_since_its_scatter_is_not_known():
    model = healthy()
    wrong_channels(model, "first", range(16), shift=40)
    assert found(check(model, numbers()[:32]), "BN201") == {}
    assert found(check(model, numbers()[:200]), "BN201")["first"].severity == "error"


def test_data_of_another_domain_are_found_at_the_first_layer():
    model = healthy()
    shift = found(check(model, 3 * numbers() + 10), "BN203")
    assert set(shift) == {"first"}
    assert shift["first"].severity == "warning"
    assert shift["first"].evidence["layers_moved"] == 3
    assert shift["first"].evidence["first_own_gap"] > 2 * shift["first"].evidence["later_own_gap"]
    assert len(shift["first"].channels) > 8


def test_a_first_layer_whose_statistics_are_spoilt_is_no_other_domain():
    model, rng = healthy(), np.random.default_rng(0)
    norm = model.get_layer("first")
    norm.moving_variance.assign(norm.moving_variance * rng.uniform(0.02, 0.6, 16))
    findings = check(model, numbers())
    assert set(found(findings, "BN201")) >= {"first", "second"}
    assert found(findings, "BN203") == {}


@pytest.mark.parametrize("bias", [0.0, 4.0])
def test_another_scale_is_another_domain_although_some_channels_are_dead(bias):
    model = healthy()
    kernel = model.layers[0].kernel.numpy()
    kernel[:, :3] = 0
    model.layers[0].kernel.assign(kernel)
    model, x = with_statistics_of(model, numbers())
    assert "first" in found(check(model, 30 * x + bias), "BN203")


def test_data_mixed_in_another_way_are_another_domain_although_variances_scatter():
    model, rng = healthy(), np.random.default_rng(1)
    mixed = numbers() @ rng.normal(0, 1, (16, 16)).astype("float32")
    findings = check(model, mixed + 10)
    assert "first" in found(findings, "BN203")


def test_features_that_each_got_another_scale_are_another_domain_for_a_layer_that_sees_them():
    x = numbers()
    rng = np.random.default_rng(0)
    model = keras.Sequential([layers.Input((16,)), layers.BatchNormalization(name="first")])
    for name in NAMES[1:]:
        model.add(layers.Dense(16))
        model.add(layers.BatchNormalization(name=name))
        model.add(layers.ReLU())
    with_statistics_of(model, x)
    assert "first" in found(check(model, x * rng.uniform(2, 20, 16).astype("float32")), "BN203")


def test_a_layer_that_fits_but_gets_another_input_is_to_be_estimated_layer_by_layer():
    model = healthy()
    norm = model.get_layer("first")
    # Below what is reported, and yet it moves what comes after it.
    norm.moving_mean.assign(norm.moving_mean + 0.24 * np.sqrt(norm.moving_variance))
    gaps = found(check(model, numbers()), "BN201")
    assert "first" not in gaps
    assert gaps["second"].evidence["own_gap"] < 0.25 < gaps["second"].evidence["gap"]
    assert "sequential=True" in gaps["second"].remedy


def test_statistics_that_are_wrong_everywhere_are_no_other_domain():
    model = healthy()
    for name in NAMES:
        wrong_channels(model, name, range(16), shift=2)
    findings = check(model, numbers())
    assert set(found(findings, "BN201")) == set(NAMES)
    assert found(findings, "BN203") == {}


def test_one_later_layer_that_is_wrong_is_no_other_domain():
    model = healthy()
    wrong_channels(model, "second", range(16), shift=2)
    assert found(check(model, numbers()), "BN203") == {}


def test_a_single_layer_cannot_tell_a_domain():
    x = numbers()
    findings = check(single(x), x + 50)
    assert [one.code for one in findings] == ["BN201"]


class Insisting(keras.Model):
    """A model whose code sets the flag itself."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(name="bn")
        self.out = layers.Dense(2)

    def call(self, inputs):
        return self.out(self.norm(inputs, training=True))


def test_a_layer_that_uses_the_batch_at_inference_is_an_error():
    model = Insisting()
    model(numbers())
    batch = found(check(model, numbers()), "BN202")["bn"]
    assert batch.severity == "error"
    assert batch.evidence["output_change"] > 0.5
    assert batch.evidence["layers_by_batch"] == 1


def baked(*, dropout=0.0):
    inputs = layers.Input((16,))
    hidden = layers.BatchNormalization(name="bn")(inputs, training=True)
    if dropout:
        hidden = layers.Dropout(dropout)(hidden, training=True)
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    norm = model.get_layer("bn")
    norm.moving_mean.assign(numbers().mean(0))
    norm.moving_variance.assign(numbers().var(0))
    return model


def test_a_baked_flag_that_a_plain_call_obeys_is_a_warning():
    batch = found(check(baked(), numbers()), "BN202")["bn"]
    assert batch.severity == "warning"
    assert "model(x)" in batch.cause


def test_an_output_that_is_random_is_compared_with_the_same_dropout():
    batch = found(check(baked(dropout=0.5), numbers()), "BN202")["bn"]
    assert batch.severity == "warning"
    alone = baked(dropout=0.5)
    alone.get_layer("bn").trainable = False
    assert found(check(alone, numbers()), "BN202") == {}


def test_a_mixture_that_is_not_of_batch_norm_is_not_blamed_on_it():
    inputs = layers.Input((16,))
    hidden = layers.Lambda(lambda x: x - tf.reduce_mean(x, 0))(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(name="bn")(hidden))
    model.get_layer("bn").moving_variance.assign(numbers().var(0))
    (batch,) = found(check(model, numbers()), "BN202").values()
    assert (batch.layer, batch.severity) == ("", "error")
    assert "other than batch norm" in batch.cause


def large_mean(ratio):
    x = np.random.default_rng(0).normal(0, 1, (512, 4))
    x[:, 1] += ratio
    return x.astype("float32")


def test_a_mean_far_above_the_deviation_is_found_in_its_channel():
    x = large_mean(10_000)
    loss = found(check(single(x), x), "BN204")["bn"]
    assert (loss.channels, loss.severity) == ((1,), "warning")
    assert loss.evidence["mean_over_deviation"] == pytest.approx(10_000, rel=0.1)
    assert loss.evidence["error"] == pytest.approx(1e4 * 8 * 2**-23, rel=0.1)
    assert "accelerate" in loss.remedy


@pytest.mark.parametrize("ratio", [0, 100, 3000])
def test_a_mean_that_float32_bears_is_no_loss(ratio):
    x = large_mean(ratio)
    assert found(check(single(x), x), "BN204") == {}


def test_kernels_that_subtract_the_mean_first_lose_nothing():
    x = large_mean(10_000)
    model = single(x)
    bnm.accelerate(model)
    assert found(check(model, x), "BN204") == {}
    ours = keras.Sequential([layers.Input((4,)), bnm.BatchNormalization()])
    assert found(check(ours, x), "BN204") == {}


@pytest.mark.parametrize(
    ("dtype", "ratio", "wrong"),
    [
        ("mixed_float16", 600, True),
        ("mixed_float16", 60, False),
        ("mixed_bfloat16", 60, True),
        ("mixed_bfloat16", 6, False),
    ],
)
def test_an_input_too_coarse_for_its_deviation_is_found(dtype, ratio, wrong):
    x = large_mean(ratio)
    loss = found(check(single(x, dtype=dtype), x), "BN204")
    assert [one.channels for one in loss.values()] == ([(1,)] if wrong else [])
    if wrong:
        assert "float16" in loss["bn"].cause


def test_the_first_layer_that_gets_nan_is_named():
    model = healthy()
    gamma = model.get_layer("first").gamma.numpy()
    gamma[5] = np.nan
    model.get_layer("first").gamma.assign(gamma)
    findings = check(model, numbers())
    (bad,) = found(findings, "BN205").values()
    assert (bad.layer, bad.severity, len(bad.channels)) == ("second", "error", 16)
    assert bad.evidence["values"] == 512 * 16
    assert bad.evidence["layers_after"] == 1
    assert bad.evidence["non_finite_outputs"] == 512 * 4
    assert found(findings, "BN202") == {}  # nothing can be compared


def test_infinite_values_are_found_in_their_channels():
    x = np.ones((64, 3), "float32")
    x[7, 2] = 1e30
    model = keras.Sequential(
        [
            layers.Input((3,)),
            layers.Lambda(lambda x: x * 1e20),
            layers.BatchNormalization(name="bn"),
        ]
    )
    bad = found(check(model, x), "BN205")["bn"]
    assert bad.channels == (2,)
    assert (bad.evidence["values"], bad.evidence["of_values"]) == (1, 192)


def test_an_output_that_is_not_finite_after_finite_layers_is_found():
    x = numbers()
    model = single(x)
    model.add(layers.Lambda(lambda x: x * np.inf))
    (bad,) = found(check(model, x), "BN205").values()
    assert (bad.layer, bad.evidence["non_finite_outputs"]) == ("", 512 * 16)


@pytest.mark.parametrize(("largest", "severities"), [(40_000, ["warning"]), (30_000, [])])
def test_float16_inputs_near_overflow_are_a_warning(largest, severities):
    x = np.random.default_rng(0).normal(0, largest / 6, (256, 2)).astype("float32")
    x[:, 0] = np.clip(x[:, 0], -largest / 2, largest / 2)
    x[3, 1] = largest
    findings = found(check(single(x, dtype="mixed_float16"), x), "BN205")
    assert [one.severity for one in findings.values()] == severities


@pytest.mark.parametrize(
    ("batch_size", "severity"), [(1, "error"), (2, "warning"), (8, "warning"), (9, None)]
)
def test_too_few_samples_behind_each_statistic_are_found(batch_size, severity):
    x = numbers(rows=72)
    few = found(check(single(x), x, batch_size), "BN206")
    assert [one.severity for one in few.values()] == ([severity] if severity else [])
    if severity == "warning":
        assert few["bn"].evidence["samples_behind_statistic"] == batch_size
        noise = np.sqrt(2 / (batch_size - 1))
        assert few["bn"].evidence["variance_noise"] == pytest.approx(noise)


def test_positions_of_images_are_samples():
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 2)).astype("float32")
    assert found(check(single(x), x, 1), "BN206") == {}


def test_a_last_batch_of_one_is_a_note():
    x = numbers(rows=65)
    few = found(check(single(x), x), "BN206")["bn"]
    assert (few.severity, few.evidence["fewest"]) == ("note", 1)


def test_few_data_say_nothing_of_the_batches_in_training():
    x = numbers(rows=5)
    assert found(check(single(x), x), "BN206") == {}


def test_a_frozen_layer_needs_no_samples():
    x = numbers(rows=64)
    model = single(x)
    model.add(layers.Dense(2))
    model.get_layer("bn").trainable = False
    assert found(check(model, x, 1), "BN206") == {}


def swap(model, names):
    for name in names:
        norm = model.get_layer(name)
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        norm.moving_mean.assign(variance)
        norm.moving_variance.assign(mean)


def positive():
    """Return a model whose layers' inputs have means above 0, so that a swap shows nowhere else."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([layers.Input((16,))])
    for name in NAMES:
        model.add(layers.Dense(16, bias_initializer=keras.initializers.RandomUniform(6, 12)))
        model.add(layers.BatchNormalization(name=name))
        model.add(layers.Activation("tanh"))
    x = np.abs(numbers()) / 4
    return with_statistics_of(model, x)


def test_means_and_variances_that_changed_places_are_found_where_all_are_positive():
    model, x = positive()
    swap(model, ["first", "third"])
    findings = check(model, x)
    assert set(found(findings, "BN115")) == {"first", "third"}
    assert found(findings, "BN115")["third"].channels == tuple(range(16))
    assert found(findings, "BN115")["third"].evidence["gap_if_swapped"] < 0.25


def test_wrong_statistics_that_a_swap_does_not_mend_are_no_swap():
    model, x = positive()
    model.get_layer("first").moving_mean.assign(np.full(16, 100.0))
    assert found(check(model, x), "BN115") == {}


def test_a_gap_is_the_rms_change_of_the_normalized_value(rng):
    x = rng.normal(3, 2, 200_000)
    moving_mean, moving_variance, epsilon = 1.5, 9.0, 0.1
    by_data = (x - x.mean()) / np.sqrt(x.var() + epsilon)
    by_moving = (x - moving_mean) / np.sqrt(moving_variance + epsilon)
    expected = np.sqrt(np.mean((by_data - by_moving) ** 2))
    data, moving = ([x.mean()], [x.var()]), ([moving_mean], [moving_variance])
    pairs = [tuple(map(np.asarray, pair)) for pair in (data, moving)]
    assert change(*pairs, epsilon).item() == pytest.approx(expected)


def test_a_layers_gap_weighs_channels_by_their_share_of_the_outputs_power():
    gaps = np.array([1.0, 3.0, np.nan])
    assert weighted(gaps, np.array([2.0, -1.0, 5.0])) == pytest.approx(np.sqrt((4 + 9) / 5))
    assert weighted(gaps, None) == pytest.approx(np.sqrt(5))
    assert weighted(gaps, np.zeros(3)) == 0


def test_an_own_gap_is_what_the_noise_of_few_samples_leaves():
    model = single(numbers(rows=4000))
    norms = norms_in(model)
    owns = []
    for seed in range(6):
        x = numbers(rows=40, seed=seed + 20)
        owns.append(gaps_of(norms, measure(model, norms, Data(x)))["bn"].own)
    # 40 samples alone make 0.19.
    assert np.mean(owns) < 0.1
