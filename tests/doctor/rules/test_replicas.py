"""What many replicas, many batches a step and recomputation leave of statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from doctor.cases import case_of, found_by
from two_replicas import on_replicas, strategy

import batchnorm_mechanics as bnm

layers = keras.layers
ACCUMULATING = keras.optimizers.SGD(0.01, gradient_accumulation_steps=8)


def mirrored(kind, offset, **settings):
    """Return a model after some steps on two replicas, whose means are so far apart."""
    with strategy().scope():
        bn = kind(momentum=0.5, name="bn", **settings)
        model = keras.Sequential([layers.Input((3,)), bn])
    rng = np.random.default_rng(0)
    for _ in range(5):
        parts = [rng.normal(at, 1, (128, 3)).astype("float32") for at in (0, offset)]
        on_replicas(lambda part: model(part, training=True), parts)
    return model


# BN117


def test_statistics_that_differ_between_replicas_are_found_and_channels_named():
    model = mirrored(layers.BatchNormalization, np.array([0, 4, 0]))
    (finding,) = found_by(["BN117"], case_of(model))
    assert (finding.layer, finding.severity, finding.channels) == ("bn", "warning", (1,))
    assert finding.evidence["replicas"] == 2
    # From a variance of 1 + 2^2, around a mean of 2, to one of 1 around 0.
    assert finding.evidence["gap"] == pytest.approx(np.sqrt((4 + 5 * (1 - 5**-0.5) ** 2) / 3), 0.2)


def test_statistics_that_are_estimated_anew_are_alike_on_all_replicas():
    model = mirrored(layers.BatchNormalization, 8)
    x = np.random.default_rng(1).normal(4, 3, (256, 3)).astype("float32")
    bnm.recalibrate(model, x)
    assert found_by(["BN117"], case_of(model)) == []
    np.testing.assert_allclose(model.get_layer("bn").moving_mean.value, x.mean(0), rtol=1e-5)


def test_copies_that_are_no_numbers_are_found_whatever_the_first_holds():
    model = mirrored(layers.BatchNormalization, 0)
    second = strategy().experimental_local_results(model.get_layer("bn").moving_variance.value)[1]
    second.assign([1.0, np.nan, 1.0])
    (finding,) = found_by(["BN117"], case_of(model))
    assert (finding.channels, finding.evidence["gap"]) == ((1,), "nan")


@pytest.mark.parametrize(
    ("kind", "offset", "settings"),
    [
        (layers.BatchNormalization, 0, {}),
        (layers.BatchNormalization, 10, {"synchronized": True}),
        (bnm.BatchNormalization, 10, {}),
    ],
)
def test_shuffled_parts_synchronized_layers_and_ours_are_left_alone(kind, offset, settings):
    assert found_by(["BN117"], case_of(mirrored(kind, offset, **settings))) == []


# BN118


def compiled(bn, optimizer=ACCUMULATING):
    model = keras.Sequential([layers.Input((3,)), bn, layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def test_a_momentum_of_which_little_is_left_in_a_step_is_a_warning_and_says_so_truly():
    bn = layers.BatchNormalization(momentum=0.9, name="bn")
    (finding,) = found_by(["BN118"], case_of(compiled(bn)))
    assert (finding.layer, finding.severity) == ("bn", "warning")
    # Eight batches of one mean, in a step: what is left of the old mean is the momentum of a step.
    for _ in range(8):
        bn(np.full((4, 3), 1.0, "float32"), training=True)
    left = finding.evidence["momentum_by_step"]
    np.testing.assert_allclose(1 - bn.moving_mean, left, rtol=1e-5)
    assert "momentum=0.9869" in finding.remedy


def test_a_usual_momentum_is_one_note_for_the_model():
    (finding,) = found_by(["BN118"], case_of(compiled(layers.BatchNormalization())))
    assert (finding.layer, finding.severity) == ("", "note")
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(gradient_accumulation_steps=8)
    )
    assert found_by(["BN118"], case_of(compiled(layers.BatchNormalization(), scaled)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.BatchNormalization(momentum=0.9, trainable=False),
        lambda: bnm.BatchNormalization(statistics=bnm.PooledPopulation()),
        lambda: bnm.BatchNormalization(
            statistics=bnm.VirtualBatches(bnm.ExponentialMovingAverage(0.9), batches=8)
        ),
    ],
)
def test_what_no_batch_moves_alone_is_left_alone(make):
    assert found_by(["BN118"], case_of(compiled(make()))) == []


def test_an_optimizer_that_gathers_nothing_is_left_alone():
    bn = layers.BatchNormalization(momentum=0.9)
    assert found_by(["BN118"], case_of(compiled(bn, "sgd"))) == []


# BN119


def made_in(mode, kind=layers.BatchNormalization, **settings):
    with keras.RematScope(mode=mode, **settings):
        bn = kind(momentum=0.9, name="bn")
    return keras.Sequential([layers.Input((3,)), bn, layers.Dense(1)])


@pytest.mark.parametrize(
    ("mode", "settings", "finds"),
    [
        ("full", {}, True),
        ("list_of_layers", {"layer_names": ["bn"]}, True),
        ("list_of_layers", {"layer_names": ["another"]}, False),
        ("larger_than", {"output_size_threshold": 2}, True),
        ("larger_than", {"output_size_threshold": 3}, False),
        ("activations", {}, False),
    ],
)
def test_a_layer_that_its_scope_computes_again_is_found(mode, settings, finds):
    found = found_by(["BN119"], case_of(made_in(mode, **settings)))
    assert [one.layer for one in found] == ["bn"] * finds


def test_ours_accelerated_and_frozen_layers_are_left_alone():
    assert found_by(["BN119"], case_of(made_in("full", bnm.BatchNormalization))) == []
    accelerated, frozen = made_in("full"), made_in("full")
    bnm.accelerate(accelerated)
    frozen.get_layer("bn").trainable = False
    for model in (accelerated, frozen):
        assert found_by(["BN119"], case_of(model)) == []


def test_a_step_does_to_such_a_layer_what_the_rule_says():
    x, moved = np.ones((8, 3), "float32"), []
    model = made_in("full")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="keywords arguments only when eager execution is enabled"):
        model.fit(x, x[:, :1], verbose=0)
    with keras.RematScope(mode="full"):
        whole = made_in("full")
    accelerated = made_in("full")
    bnm.accelerate(accelerated)
    for model in (made_in("full"), whole, accelerated):
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(x, x[:, :1], verbose=0)
        moved.append(float(tf.reduce_mean(model.get_layer("bn").moving_mean.value)))
    np.testing.assert_allclose(moved, [1 - 0.9**2, 1 - 0.9**3, 0.1], rtol=1e-5)
