"""What training left undone is found, and models trained, fresh or fine-tuned are left alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from doctor.cases import case_of, found_by

import batchnorm_mechanics as bnm
from batchnorm_mechanics.doctor.past import past_of
from batchnorm_mechanics.doctor.rules.bn106_unconverged_average import weight_of_start
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers
FEATURES = 6
# Of all that training leaves.
CODES = ["BN103", "BN105", "BN106", "BN110", "BN114"]
KINDS = [layers.BatchNormalization, bnm.BatchNormalization]


def model_with(kind=layers.BatchNormalization, **settings):
    return keras.Sequential(
        [
            layers.Input((FEATURES,)),
            kind(name="first", **settings),
            layers.Dense(4, name="dense"),
            kind(name="second", **settings),
            layers.Dense(1, name="out"),
        ]
    )


def fit(model, *, steps, optimizer="adam"):
    """Train for some steps on inputs whose statistics are far from 0 and 1."""
    rng = np.random.default_rng(0)
    x = (rng.normal(3, 1, (16 * steps, FEATURES)) * [0.1, 0.3, 1, 2, 4, 8]).astype("float32")
    # Tracing takes as long as fifty steps.
    model.compile(optimizer, "mse", run_eagerly=steps < 20)
    model.fit(x, x[:, :1], batch_size=16, verbose=0)
    return model


def trained(model, *, steps=1000, mean=3.0, variance=4.0):
    """Put a model where training by batches of one mean and variance would have left it."""
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(steps)
    for norm in norms_in(model):
        layer, momentum = norm.layer, norm.momentum
        weight = 0.0 if momentum is None or not layer.trainable else momentum**steps
        if layer.trainable:
            layer.moving_mean.assign(weight * norm.mean + (1 - weight) * mean)
            layer.moving_variance.assign(weight * norm.variance + (1 - weight) * variance)
            layer.beta.assign(np.linspace(-0.1, 0.1, norm.channels))
    return model


def found(model, code=None):
    findings = found_by(CODES, case_of(model))
    return [one for one in findings if one.code == code] if code else findings


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def summary(findings):
    return [(one.code, one.layer, one.severity) for one in findings]


# BN103


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_without_the_training_flag_leaves_statistics_never_updated(kind):
    model = model_with(kind)
    optimizer = keras.optimizers.Adam(0.01)
    x = np.random.default_rng(0).normal(size=(8, FEATURES)).astype("float32")
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
    findings = found(model)
    assert summary(findings) == [("BN103", "first", "error"), ("BN103", "second", "error")]
    assert [one.channels for one in findings] == [tuple(range(6)), tuple(range(4))]
    assert findings[0].evidence == {
        "moving_mean": 0,
        "moving_variance": 1,
        "optimizer_steps": 0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_was_never_trained_gets_one_note(kind):
    finding = only(found(model_with(kind)))
    assert (finding.code, finding.layer, finding.severity) == ("BN103", "", "note")
    assert finding.evidence == {"layers": 2}


def test_statistics_that_a_port_left_out_are_an_error_though_no_optimizer_is_known():
    model = model_with()
    model.get_layer("second").gamma.assign([1.5, 0.5, 0.8, 1.1])
    model.get_layer("first").moving_mean.assign(np.arange(FEATURES))
    model.get_layer("first").moving_variance.assign(np.arange(FEATURES) + 2.0)
    assert summary(found(model)) == [("BN103", "second", "error")]


def test_a_new_layer_on_a_trained_model_is_a_note():
    model = trained(model_with())
    extended = keras.Sequential([model, layers.BatchNormalization(name="new")])
    extended.build((None, FEATURES))
    assert summary(found(extended)) == [("BN103", "new", "note")]


def test_a_layer_without_gamma_and_beta_is_judged_by_the_rest_of_the_model():
    model = model_with(center=False, scale=False)
    assert summary(found(model)) == [("BN103", "", "note")]
    model.get_layer("dense").bias.assign([0.1, 0.0, 0.0, 0.0])
    assert summary(found(model)) == [("BN103", "first", "error"), ("BN103", "second", "error")]


def test_a_layer_frozen_before_it_saw_a_batch_is_a_warning():
    model = model_with()
    model.get_layer("first").trainable = False
    finding = only(found(trained(model), "BN103"))
    assert (finding.layer, finding.severity) == ("first", "warning")
    assert finding.channels == tuple(range(FEATURES))
    assert finding.evidence["optimizer_steps"] == 1000


def test_a_variance_that_alone_never_moved_is_a_warning():
    model = model_with(
        bnm.BatchNormalization, statistics=bnm.ExponentialMovingAverage(0.9, unbiased=True)
    )
    # One sample has no unbiased variance, and the policy keeps what it had.
    for _ in range(3):
        model(np.random.default_rng(0).normal(2, 1, (1, FEATURES)), training=True)
    finding = only(found(model, "BN103")[:1])
    assert (finding.layer, finding.severity) == ("first", "warning")
    assert finding.evidence["largest_mean"] > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_of_ones_own_is_known_as_one(kind):
    model = trained(model_with(kind, moving_mean_initializer=keras.initializers.Constant(0.1)))
    assert found(model, "BN103") == []
    model.get_layer("second").moving_mean.assign(np.full(4, 0.1))
    model.get_layer("second").moving_variance.assign(np.ones(4))
    assert summary(found(model, "BN103")) == [("BN103", "second", "error")]


# BN105


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.1, 0.49])
def test_a_momentum_of_pytorchs_kind_is_a_warning(kind, momentum):
    model = trained(model_with(kind, momentum=momentum))
    findings = found(model)
    assert summary(findings) == [("BN105", "first", "warning"), ("BN105", "second", "warning")]
    assert findings[0].evidence == pytest.approx(
        {
            "momentum": momentum,
            "complement": 1 - momentum,
            "batches_averaged": (1 + momentum) / (1 - momentum),
        }
    )


def test_a_momentum_that_is_its_own_complement_is_a_note():
    findings = found(trained(model_with(momentum=0.5)))
    assert summary(findings) == [("BN105", "first", "note"), ("BN105", "second", "note")]
    assert findings[0].evidence == {"momentum": 0.5, "complement": 0.5, "batches_averaged": 3.0}
    assert "0.5 as" not in findings[0].remedy


@pytest.mark.parametrize("momentum", [0.51, 0.8, 0.9])
def test_a_usual_momentum_is_left_alone(momentum):
    assert found(trained(model_with(momentum=momentum))) == []


@pytest.mark.parametrize("policy", [bnm.ExponentialMovingAverage, bnm.DebiasedMovingAverage])
def test_a_reversed_decay_of_our_policies_is_found(policy):
    model = trained(model_with(bnm.BatchNormalization, statistics=policy(decay=0.01)))
    assert summary(found(model)) == [("BN105", "first", "warning"), ("BN105", "second", "warning")]


def test_a_momentum_of_one_is_found_before_training_too():
    model = model_with(momentum=1.0)
    assert [one.code for one in found(model)] == ["BN105", "BN105", "BN103"]
    assert "for ever" in found(model, "BN105")[0].cause


def test_the_momentum_of_a_frozen_layer_is_a_note():
    model = trained(model_with(momentum=0.1))
    model.get_layer("first").trainable = False
    assert [(one.layer, one.severity) for one in found(model, "BN105")] == [
        ("second", "warning"),
        ("first", "note"),
    ]


def test_a_policy_that_does_not_forget_has_no_momentum_to_judge():
    model = trained(model_with(bnm.BatchNormalization, statistics=bnm.PooledPopulation()))
    assert found(model) == []


# BN106


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_steps_for_the_momentum_are_a_warning(kind):
    model = fit(model_with(kind), steps=50)
    findings = found(model)
    assert summary(findings)[0] == ("BN106", "first", "warning")
    finding = findings[0]
    assert finding.evidence["weight_of_start"] == pytest.approx(0.99**50)
    assert finding.evidence["optimizer_steps"] == 50
    assert finding.evidence["steps_needed"] == 459
    assert finding.evidence["momentum"] == pytest.approx(0.99)
    # Of the inputs' variances, 0.01 to 64, the start of 1 hides the small ones, and of the means
    # that of the channels that vary least.
    assert {0, 1, 2} <= set(finding.channels)


def test_the_evidence_says_how_far_the_start_draws_mean_and_variance():
    evidence = found(trained(model_with(), steps=50, mean=2, variance=4))[0].evidence
    weight = 0.99**50
    assert evidence["largest_share_of_variance"] == pytest.approx(
        weight / (weight + (1 - weight) * 4), rel=1e-5
    )
    # From 2 the mean is drawn by 2 * weight towards 0, in standard deviations of 2.
    assert evidence["largest_shift_of_mean"] == pytest.approx(weight * 2 / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "variance", "channels"),
    [
        pytest.param([0, 0, 0, 0], [60, 60, 60, 60], None, id="neither"),
        pytest.param([0, 9, 0, -9], [60, 60, 60, 60], (1, 3), id="means"),
        pytest.param([0, 0, 0, 0], [60, 0.5, 60, 60], (1,), id="variances"),
    ],
)
def test_the_channels_named_are_those_that_the_start_has_changed(mean, variance, channels):
    """It weighs 36 %, which harms neither a mean of 0 nor a variance of 60."""
    model = keras.Sequential([layers.Input((4,)), layers.BatchNormalization(momentum=0.98)])
    trained(model, steps=50, mean=np.array(mean), variance=np.array(variance))
    findings = found(model)
    assert [one.channels for one in findings] == ([] if channels is None else [channels])


@pytest.mark.parametrize(("steps", "is_enough"), [(43, False), (44, True)])
def test_a_start_that_weighs_a_hundredth_is_forgotten(steps, is_enough):
    model = trained(model_with(momentum=0.9), steps=steps, mean=3, variance=1e-3)
    assert (found(model) == []) == is_enough


def test_a_model_trained_before_is_left_alone_when_fine_tuned_briefly():
    """A variance below the weight of its start cannot have begun there."""
    model = trained(model_with(), variance=np.array(0.5))
    model.get_layer("second").moving_variance.assign(np.full(4, 9.0))
    trained(model, steps=10, variance=0.5)
    norms = norms_in(model)
    assert weight_of_start(norms[0], past_of(model, norms)) == pytest.approx(0.99**10)
    assert found(model) == []


@pytest.mark.parametrize("moved", [0.5, 0.01])
def test_how_far_gamma_and_beta_went_says_nothing_of_the_start(moved):
    model = trained(model_with(scale=False), steps=29, variance=16.0)
    for name, channels in (("first", 6), ("second", 4)):
        model.get_layer(name).beta.assign(np.linspace(0, moved, channels))
    findings = found(model)
    assert summary(findings) == [("BN106", "first", "warning"), ("BN106", "second", "warning")]
    assert findings[0].cause == (
        "After 29 steps with momentum 0.99 the start value still makes 75% of the moving "
        "statistics, unless the layer was trained before these steps."
    )


def test_a_channel_that_never_varied_is_at_the_weight_of_its_start_and_refutes_nothing():
    model = keras.Sequential([layers.Input((3,)), layers.BatchNormalization()])
    trained(model, steps=50, mean=0, variance=np.array([9.0, 0, 9]))
    assert only(found(model, "BN106")).channels == (1,)


@pytest.mark.parametrize(("weighs", "severity"), [(False, "note"), (True, "warning")])
def test_a_start_that_does_nothing_to_the_output_is_a_note(weighs, severity):
    """It makes five sixths of the variance of a channel that the next layer may or may not use."""
    model = keras.Sequential(
        [layers.Input((3,)), layers.BatchNormalization(name="bn"), layers.Dense(1, name="out")]
    )
    deviations = np.array([0.1, 8.0, 8.0])
    trained(model, steps=300, mean=0.0, variance=deviations**2)
    model.get_layer("out").kernel.assign([[float(weighs)], [1.0], [-1.0]])
    x = np.random.default_rng(0).normal(0, deviations, (2000, 3)).astype("float32")
    (one,) = found_by(["BN106"], case_of(model, x))
    assert (one.severity, one.channels) == (severity, (0,))
    assert ("output_change" in one.evidence) == (not weighs)
    assert only(found(model, "BN106")).severity == "warning"


def test_statistics_that_are_exact_after_one_batch_are_not_unconverged():
    model = model_with(bnm.BatchNormalization, statistics=bnm.DebiasedMovingAverage())
    model.get_layer("first").moving_variance.assign(np.full(6, 1e-3))
    assert found(trained(model, steps=10, variance=1e-3), "BN106") == []


def test_a_layer_that_is_called_twice_a_step_converges_twice_as_fast():
    shared = layers.BatchNormalization(momentum=0.9)
    inputs = layers.Input((FEATURES,))
    hidden = layers.Dense(FEATURES)(shared(inputs))
    model = keras.Model(inputs, layers.Dense(1)(shared(hidden)))
    norms = norms_in(trained(model, steps=10))
    assert weight_of_start(norms[0], past_of(model, norms)) == pytest.approx(0.9**20)


def test_batches_that_added_no_variance_are_not_too_few():
    assert found(trained(model_with(), steps=50, mean=1.0, variance=0.0), "BN106") == []


def test_a_frozen_layer_averages_nothing_in_these_steps():
    model = model_with()
    model.get_layer("first").trainable = False
    model.get_layer("first").moving_mean.assign(np.full(6, 9.0))
    assert [one.layer for one in found(trained(model, steps=50), "BN106")] == ["second"]


def test_the_steps_of_a_model_made_under_a_strategy_are_counted():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = fit(model_with(), steps=12)
    assert past_of(model, norms_in(model)).steps == 12
    assert summary(found(model))[0] == ("BN106", "first", "warning")


def test_gathered_gradients_leave_each_batch_counted():
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    model = fit(model_with(), steps=12, optimizer=optimizer)
    assert past_of(model, norms_in(model)).steps == 12


def test_the_steps_of_a_loss_scaling_optimizer_are_those_within():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-4))
    model = fit(model_with(), steps=12, optimizer=optimizer)
    assert past_of(model, norms_in(model)).steps == 12


# BN110


@pytest.fixture(scope="module")
def averaged_file(tmp_path_factory):
    """A model whose optimizer has put averages into the weights' place, as saved."""
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    model = fit(model_with(momentum=0.8), steps=60, optimizer=optimizer)
    assert [one.code for one in found(model)] == ["BN110"]
    path = tmp_path_factory.mktemp("averaged") / "model.keras"
    model.save(path)
    return path


@pytest.fixture
def averaged(averaged_file):
    return keras.models.load_model(averaged_file)


def test_averaged_weights_with_the_statistics_of_the_last_are_a_warning(averaged):
    finding = only(found(averaged))
    # The statistics of "first" are of the data, which no weight has touched.
    assert (finding.code, finding.layer, finding.severity) == ("BN110", "second", "warning")
    assert finding.channels == ()
    assert finding.evidence == {"ema_momentum": 0.9, "optimizer_steps": 60}


def test_weights_that_are_not_the_averages_are_left_alone(averaged):
    kernel = averaged.get_layer("dense").kernel
    kernel.assign(kernel + 1e-3)
    assert found(averaged) == []


def test_an_average_that_keeps_nothing_is_the_last_weights(averaged):
    averaged.optimizer.ema_momentum = 0.0
    assert found(averaged) == []


def test_a_frozen_layer_has_statistics_of_other_weights_anyway(averaged):
    averaged.get_layer("second").trainable = False
    assert found(averaged, "BN110") == []


def test_averages_before_the_first_step_say_nothing():
    model = trained(model_with())
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    for weight, average in zip(
        model.trainable_variables, model.optimizer._model_variables_moving_average, strict=True
    ):
        average.assign(weight)
    assert found(model) == []
    model.optimizer.iterations.assign(1000)
    assert [one.code for one in found(model)] == ["BN110"]


# BN114


def test_a_layer_that_trains_behind_a_frozen_one_is_a_note():
    model = trained(model_with())
    model.get_layer("dense").trainable = False
    finding = only(found(model))
    assert (finding.code, finding.layer, finding.severity) == ("BN114", "second", "note")
    assert finding.evidence == {
        "layer_before": "dense",
        "trainable": "True",
        "layer_before_trainable": "False",
    }


def test_a_frozen_layer_behind_one_that_trains_is_a_note():
    model = trained(model_with())
    model.get_layer("second").trainable = False
    findings = found(model)
    assert summary(findings) == [("BN114", "", "note"), ("BN114", "second", "note")]
    assert findings[1].evidence["trainable"] == "False"
    assert findings[0].evidence == {"frozen": 1, "trainable": 1, "first_frozen": "second"}


def test_a_model_that_is_frozen_as_a_whole_is_not_partly_so():
    model = trained(model_with())
    model.trainable = False
    assert found(model) == []


def test_a_model_without_batch_norm_has_nothing_to_find():
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    assert found(model) == []
