"""Trouble that lives in calls: what data say of each, and what the doctor makes of it."""

from functools import cache
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import batchnorm_mechanics as bnm
from batchnorm_mechanics.doctor.outputs import Effects
from batchnorm_mechanics.doctor.past import past_of
from batchnorm_mechanics.doctor.rules import RULES
from batchnorm_mechanics.doctor.rules.bn106_unconverged_average import weight_of_start
from batchnorm_mechanics.layers.intercept import intercepted
from batchnorm_mechanics.models.norms import norms_in

layers = keras.layers


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype("float32")


def settled(model, x, batch=50):
    """Have Keras average the statistics of all batches, in training mode, with equal weights."""
    norms = [norm.layer for norm in norms_in(model)]
    for number, start in enumerate(range(0, len(x), batch)):
        for norm in norms:
            norm.momentum = number / (number + 1)
        model(x[start : start + batch], training=True)
    for norm in norms:
        norm.momentum = 0.99
    return model


def keys(diagnosis):
    return [one.key for one in diagnosis.findings if one.severity != "note"]


# Flags that wander.


def monte_carlo():
    inputs = layers.Input((4,))
    hidden = layers.Dropout(0.3, name="mc")(layers.Dense(8)(inputs), training=True)
    norm = layers.BatchNormalization(name="bn")
    return keras.Model(inputs, layers.Dense(2)(norm(hidden)))


def test_dropout_in_inference_is_named_as_what_the_flag_comes_from():
    model, x = settled(monte_carlo(), numbers(400, 4)), numbers(400, 4)
    for data in (None, x):
        (finding,) = bnm.diagnose(model, data).of("BN107")
        assert (finding.layer, finding.severity) == ("bn", "warning")
        assert finding.evidence["flag_on"] == "mc"


def test_the_repair_keeps_the_dropout_and_pins_the_batch_norm():
    model, x = settled(monte_carlo(), numbers(400, 4)), numbers(400, 4)
    done = bnm.repair(model, x, only=["BN107"])
    assert [step.action for step in done.steps] == ["pin"]
    norm = done.model.get_layer("bn")
    before = norm.moving_mean.numpy()
    once, again = (done.model(x[:32]).numpy() for _ in range(2))
    assert np.array_equal(norm.moving_mean, before)
    assert abs(once - again).max() > 0.1, "dropout is still on"
    assert not bnm.diagnose(done.model, x).of("BN107")
    done.model.compile("sgd", "mse")
    done.model.fit(x, x[:, :2], verbose=0)
    assert not np.array_equal(norm.moving_mean, before), "and it still trains"


class Sampling(keras.Model):
    """Leaves dropout on, as a network that is asked for its uncertainty."""

    def __init__(self):
        super().__init__()
        self.dense, self.drop = layers.Dense(8), layers.Dropout(0.3, name="mc")
        self.norm, self.last = layers.BatchNormalization(name="bn"), layers.Dense(2)

    def call(self, inputs):
        return self.last(self.norm(self.drop(self.dense(inputs), training=True)))


def test_batch_norm_in_a_sequence_is_pinned_by_its_call():
    inner = keras.Sequential(
        [layers.Input((8,)), layers.Dense(8), layers.BatchNormalization(name="bn")], name="inner"
    )
    inputs = layers.Input((4,))
    hidden = layers.Dropout(0.3, name="mc")(layers.Dense(8)(inputs), training=True)
    model, x = keras.Model(inputs, inner(hidden)), numbers(400, 4)
    done = bnm.repair(settled(model, x), x, only=["BN107"])
    assert [step.action for step in done.steps] == ["pin"]
    assert not bnm.diagnose(done.model, x).of("BN107")


def test_a_flag_that_wanders_in_code_of_ones_own_is_heard():
    x, model = numbers(400, 4), Sampling()
    model(x[:2])
    (finding,) = bnm.diagnose(settled(model, x), x).of("BN107")
    assert (finding.layer, finding.evidence["flag_on"]) == ("bn", "mc")
    done = bnm.repair(model, x, only=["BN107"])
    assert "the model's own code" in done.refused["BN107 bn"]
    assert "training=False" in finding.remedy


# Dropout before batch norm.


def dropped():
    """Return a regression with dropout before batch norm, trained, and its data."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(1).uniform(-1, 1, (2000, 2)).astype("float32")
    y = ((x[:, :1] + 2) ** 2 * (x[:, 1:] + 2)).astype("float32")
    inputs = layers.Input((2,))
    hidden = layers.Dropout(0.5, name="drop")(layers.Dense(64, activation="relu")(inputs))
    hidden = layers.BatchNormalization(momentum=0.9, name="bn1")(hidden)
    hidden = layers.Dense(32, activation="relu")(layers.Dense(64, activation="relu")(hidden))
    hidden = layers.BatchNormalization(momentum=0.9, name="bn2")(hidden)
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(x, y, batch_size=50, epochs=6, verbose=0)
    return model, x, y


def test_dropout_before_batch_norm_is_named_and_labels_say_what_mends_it():
    model, x, y = dropped()
    found = {one.layer: one for one in bnm.diagnose(model, x, labels=y).of("BN201")}
    assert found["bn1"].evidence["behind"] == "drop"
    assert "dropout" in found["bn1"].remedy
    assert found["bn1"].root is None, "no channel of it is another finding's"
    loss = model.evaluate(x, y, verbose=0)
    done = bnm.repair(model, x, labels=y)
    assert {step.layer for step in done.steps} == {"bn1", "bn2"}
    assert model.evaluate(x, y, verbose=0) < loss / 1.5


# One sample that is odd.


def test_the_sample_that_makes_most_of_the_variance_is_named():
    x = numbers(1000, 6)
    x[777] *= 300
    model = keras.Sequential([layers.Input((6,)), layers.BatchNormalization(name="bn")])
    settled(model, x)
    diagnosis = bnm.diagnose(model, x, batch_size=50)
    (finding,) = diagnosis.of("BN207")
    assert (finding.severity, finding.evidence["sample"]) == ("error", 777)
    assert finding.evidence["batches"] == "15"
    assert [one.root for one in diagnosis.of("BN201")] == ["BN207 bn"]


def test_repair_leaves_the_odd_batch_out_and_recalibrate_says_that_it_is_in():
    x = numbers(1000, 6)
    x[777] *= 300
    model = keras.Sequential([layers.Input((6,)), layers.BatchNormalization(name="bn")])
    (note,) = bnm.recalibrate(model, x, batch_size=50).notes
    assert note.startswith("bn: batch 15 makes more than half of the variance")
    assert model.layers[0].moving_variance.numpy().min() > 40
    done = bnm.repair(model, x, batch_size=50)
    rest = np.delete(x, np.s_[750:800], 0).astype(np.float64)
    np.testing.assert_allclose(model.layers[0].moving_variance, rest.var(0), rtol=1e-5)
    assert any("were left out" in note for note in done.notes)


def test_one_value_that_is_odd_is_enough_and_a_batch_may_be_odd_as_a_whole():
    x = numbers(1000, 6)
    x[777, 2] = 3e4
    x[300:350] *= 100
    model = keras.Sequential([layers.Input((6,)), layers.BatchNormalization(name="bn")])
    settled(model, x)
    (finding,) = bnm.diagnose(model, x, batch_size=50).of("BN207")
    assert (finding.severity, finding.evidence["batches"]) == ("error", "6, 15")
    bnm.repair(model, x, batch_size=50)
    rest = np.delete(x, np.r_[300:350, 750:800], 0).astype(np.float64)
    np.testing.assert_allclose(model.layers[0].moving_variance, rest.var(0), rtol=1e-5)


def test_features_that_are_rare_are_nothing_odd():
    x = np.random.default_rng(0).poisson(0.003, (4000, 40)).astype("float32")
    model = keras.Sequential([layers.Input((40,)), layers.BatchNormalization(), layers.Dense(2)])
    assert not bnm.diagnose(settled(model, x), x, batch_size=50).of("BN207")


# Weights of a layer with another epsilon.


def two_layers(epsilon):
    keras.utils.set_random_seed(1)
    parts = []
    for name in ("first", "second"):
        parts += [layers.Dense(8), layers.BatchNormalization(epsilon=epsilon, name=name)]
        parts += [layers.ReLU()]
    return keras.Sequential([layers.Input((8,)), *parts, layers.Dense(2)])


@pytest.mark.parametrize("trained", [1e-5, 1e-6])
def test_the_epsilon_of_the_training_is_named_where_another_one_is_in_force(trained):
    x = 0.001 * numbers(400, 8)
    right, model = settled(two_layers(trained), x), two_layers(1e-3)
    model.set_weights(right.get_weights())
    diagnosis = bnm.diagnose(model, x)
    (finding,) = diagnosis.of("BN116")
    assert (finding.layer, finding.evidence["epsilon_that_fits"]) == ("first", trained)
    assert [one.root for one in diagnosis.of("BN201")] == ["BN116 first"]
    assert diagnosis.findings[0] == finding
    done = bnm.repair(model, x)
    assert done.steps[0].action == "epsilon"
    # The second layer's variances are so large that its epsilon is let be.
    np.testing.assert_allclose(
        done.model.predict(x, verbose=0), right.predict(x, verbose=0), rtol=0, atol=0.05
    )
    assert not keys(done.after)


def test_small_variances_under_the_right_epsilon_are_none_of_another():
    x = 0.001 * numbers(400, 8)
    model = settled(two_layers(1e-3), x)
    model.get_layer("second").moving_mean.assign(np.full(8, 3.0))
    diagnosis = bnm.diagnose(model, x)
    assert not diagnosis.of("BN116")
    assert diagnosis.findings[0].key == "BN201 second"


# What no rule knows.


def test_a_distance_that_no_rule_explains_is_told_where_it_comes_from_and_repaired():
    x = numbers(100, 8)
    model = settled(two_layers(1e-3), x)
    norm = model.get_layer("second")
    deviation = np.sqrt(norm.moving_variance.numpy())
    norm.moving_mean.assign(norm.moving_mean.numpy() + 2 * deviation)
    # Two batches are too few for a t-test, and enough to see what it does.
    diagnosis = bnm.diagnose(model, x, batch_size=50)
    assert keys(diagnosis) == ["BN200 second"]
    assert diagnosis.of("BN200")[0].evidence["comes_from"] == "second"
    done = bnm.repair(model, x, batch_size=50)
    assert done.after.measures["output_change"] < 0.1 < diagnosis.measures["output_change"]
    assert not keys(done.after)


def test_where_outputs_do_not_change_nothing_is_louder_than_a_note():
    model, x = settled(two_layers(1e-3), numbers(1000, 8)), numbers(1000, 8)
    # Whatever the layer gives, the last one does not look at it.
    model.layers[-1].kernel.assign(0 * model.layers[-1].kernel)
    model.layers[-1].bias.assign([1.0, 2.0])
    model.get_layer("first").moving_mean.assign(np.full(8, 30.0))
    diagnosis = bnm.diagnose(model, x)
    assert [one.severity for one in diagnosis.of("BN201")].count("note") == len(
        diagnosis.of("BN201")
    )
    assert not keys(diagnosis)


# Steps and calls.


def test_a_recurrent_cell_is_measured_at_all_of_its_steps():
    @keras.saving.register_keras_serializable("test_calls")
    class Cell(layers.SimpleRNNCell):
        def build(self, shape):
            self.norm = layers.BatchNormalization(name="bn")
            self.norm.build(shape)
            super().build(shape)

        def call(self, inputs, states, training=False):
            return super().call(self.norm(inputs, training=training), states, training=training)

    x = numbers(150, 6, 4) + 6 * np.arange(6, dtype="float32")[:, None]
    inputs = layers.Input((6, 4))
    model = settled(keras.Model(inputs, layers.Dense(2)(layers.RNN(Cell(5))(inputs))), x)
    before = model.get_weights()
    diagnosis = bnm.diagnose(model, x)
    (finding,) = diagnosis.of("BN113")
    assert (finding.severity, finding.evidence["calls"]) == ("error", 6)
    assert dict(diagnosis.unseen) == {}
    done = bnm.repair(model, x)
    assert "one cell" in done.refused[finding.key]
    assert "Nothing is left to repair" not in str(done)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@keras.saving.register_keras_serializable("test_calls")
class NormalizedCell(layers.SimpleRNNCell):
    """Normalizes what each step gives."""

    def build(self, shape):
        self.norm = layers.BatchNormalization(momentum=0.9, name="bn")
        self.norm.build((shape[0], self.units))
        super().build(shape)

    def call(self, inputs, states, training=False):
        outputs, states = super().call(inputs, states, training=training)
        return self.norm(outputs, training=training), states


def test_both_directions_are_measured_and_counted_at_all_steps():
    x = numbers(150, 6, 4) + 6 * np.arange(6, dtype="float32")[:, None]
    inputs = layers.Input((6, 4))
    both = layers.Bidirectional(layers.RNN(NormalizedCell(5)))
    model = settled(keras.Model(inputs, layers.Dense(2)(both(inputs))), x)
    assert [norm.per_pass for norm in norms_in(model)] == [6, 6]
    diagnosis = bnm.diagnose(model, x)
    assert [one.evidence["calls"] for one in diagnosis.of("BN113")] == [6, 6]
    assert dict(diagnosis.unseen) == {}


def test_recurrent_layers_without_batch_norm_are_left_to_their_loop():
    unrolled = []
    lstm = layers.LSTM(3)

    def noting(call, *args, **kwargs):
        unrolled.append(lstm.unroll)
        return call(*args, **kwargs)

    model = keras.Sequential([layers.Input((6, 4)), lstm, layers.BatchNormalization()])
    with intercepted(lstm, noting):
        bnm.diagnose(model, numbers(100, 6, 4))
    assert unrolled
    assert not any(unrolled)


def test_steps_with_a_mask_are_not_taken_apart():
    x = numbers(150, 5, 3) + 6 * np.arange(5, dtype="float32")[:, None]
    inputs = layers.Input((5, 3))
    masked = layers.Masking()(inputs)
    norm = layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="td")
    model = settled(keras.Model(inputs, layers.GlobalAveragePooling1D()(norm(masked))), x)
    done = bnm.repair(model, x)
    assert "goes by a mask" in done.refused["BN113 td/bn"]


def encoder():
    return keras.Sequential(
        [layers.Input((3,)), layers.BatchNormalization(momentum=0.9, name="bn")], name="encoder"
    )


def called_thrice():
    one, inputs = encoder(), [layers.Input((3,)) for _ in range(3)]
    return keras.Model(inputs, layers.Add()([one(each) for each in inputs])), 3


def over_five_steps():
    inputs = layers.Input((5, 3))
    return keras.Model(inputs, layers.TimeDistributed(encoder())(inputs)), 5


@pytest.mark.parametrize("make", [called_thrice, over_five_steps])
def test_updates_are_counted_by_calls(make):
    model, calls = make()
    model.compile("sgd", "mse")
    x = [numbers(8, *one.shape[1:]) for one in model.inputs]
    y = numbers(8, *model.output_shape[1:])
    model.fit(x if len(x) > 1 else x[0], y, batch_size=2, verbose=0)
    norms = norms_in(model)
    assert norms[0].per_pass == calls
    expected = 0.9 ** (4 * calls)
    assert weight_of_start(norms[0], past_of(model, norms)) == pytest.approx(expected)


# Models that are not called with a batch alone.


class Gan(keras.Model):
    """Has no `call` of a batch alone."""

    def __init__(self):
        super().__init__()
        parts = [layers.Input((3,)), layers.Dense(4), layers.BatchNormalization(name="bn")]
        self.generator = keras.Sequential([*parts, layers.Dense(2)], name="generator")

    def call(self, inputs, condition):
        return self.generator(inputs) + condition


def test_a_model_is_run_as_it_is_told():
    gan, x = Gan(), numbers(400, 3)

    def generated(model, z):
        return model.generator(z)

    expected = gan.generator.layers[0](x).numpy().astype(np.float64)
    change = bnm.recalibrate(gan, x, call=generated, samples=200, only=["generator/bn"])
    assert change.samples == 200
    norm = gan.generator.get_layer("bn")
    np.testing.assert_allclose(norm.moving_mean, expected[:200].mean(0), rtol=1e-4)
    norm.moving_mean.assign(norm.moving_mean.numpy() + 20)
    diagnosis = bnm.diagnose(gan, x, call=generated)
    assert keys(diagnosis) == ["BN201 generator/bn"]
    assert not keys(bnm.repair(gan, x, call=generated).after)
    np.testing.assert_allclose(norm.moving_mean, expected.mean(0), rtol=1e-4)


def test_what_is_no_way_to_run_a_model_is_refused():
    with pytest.raises(ValueError, match="`call` must be a function"):
        bnm.diagnose(Gan(), numbers(4, 3), call="generator")
    with pytest.raises(ValueError, match="`samples` must be an integer of 1 or more"):
        bnm.recalibrate(monte_carlo(), numbers(4, 4), samples=0)


# Repair.


def classifier():
    parts = []
    for number in range(3):
        norm = layers.BatchNormalization(momentum=0.9, name=f"bn{number}")
        parts += [layers.Dense(16), norm, layers.ReLU()]
    last = layers.Dense(4, activation="softmax")
    model = keras.Sequential([layers.Input((12,)), *parts, last])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    return model


@cache
def trained_and_stale():
    """Return weights that moved on after their statistics, and the data."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    centres = rng.normal(0, 1, (4, 12))
    y = rng.integers(0, 4, 600)
    x = (centres[y] + rng.normal(0, 0.7, (600, 12))).astype("float32")
    model = classifier()
    model.fit(x, y, batch_size=60, epochs=6, verbose=0)
    for norm in norms_in(model):
        norm.layer.moving_mean.assign(norm.mean + 0.8 * np.sqrt(norm.variance))
        norm.layer.moving_variance.assign(3 * norm.variance)
    return model.get_weights(), x, y


def all_stale():
    """Return a classifier whose weights moved on after its statistics, and its data."""
    weights, x, y = trained_and_stale()
    model = classifier()
    model.set_weights(weights)
    return model, x, y


@pytest.mark.thorough
@pytest.mark.parametrize("sequential", [False, True])
def test_a_repair_is_as_good_as_the_best_estimation_it_could_have_made(sequential):
    model, x, y = all_stale()
    stale = model.get_weights()
    reached = []
    for each in (False, True):
        model.set_weights(stale)
        bnm.recalibrate(model, x, sequential=each)
        reached.append(model.evaluate(x, y, verbose=0))
    model.set_weights(stale)
    bnm.repair(model, x, labels=y, sequential=sequential)
    assert model.evaluate(x, y, verbose=0) < 1.05 * reached[sequential] + 1e-3


def test_what_makes_the_outputs_differ_more_is_taken_back():
    x = numbers(150, 6, 4) + 6 * np.arange(6, dtype="float32")[:, None]
    inputs = layers.Input((6, 4))
    shared = layers.TimeDistributed(layers.BatchNormalization(name="bn"))
    model = settled(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(shared(inputs)))), x)
    before = bnm.diagnose(model, x).measures["output_change"]
    # Of all steps together: what is between them is in no batch of training.
    done = bnm.repair(model, x, only=["BN201"])
    assert bnm.diagnose(done.model, x).measures["output_change"] <= before + 1e-6


def test_an_estimation_that_is_no_better_leaves_nothing_behind(monkeypatch):
    from batchnorm_mechanics.doctor import repair as module

    model, x, _ = all_stale()
    # One layer is repaired; to estimate all is neither worse nor better.
    monkeypatch.setattr(module, "worsening", lambda *_: None)
    monkeypatch.setattr(module, "no_better", lambda *_: "it makes the model no better")
    decide = module.decide
    monkeypatch.setattr(
        module, "decide", lambda found, given: decide([f for f in found if f.layer == "bn0"], given)
    )
    before = {norm.name: norm.mean for norm in norms_in(model)}
    done = bnm.repair(model, x)
    assert {step.layer for step in done.steps} == {"bn0"}
    moved = [
        norm.name for norm in norms_in(model) if not np.array_equal(norm.mean, before[norm.name])
    ]
    assert moved == ["bn0"]


@pytest.mark.thorough
def test_what_was_taken_back_is_said_to_be_in_later_rounds_too(monkeypatch):
    from batchnorm_mechanics.doctor import repair as module

    model, x, _ = all_stale()
    judged = module.worsening
    # Whatever touches the first layer is said to do harm.
    first = model.get_layer("bn0").moving_mean
    before = first.numpy()

    def harm(*diagnoses):
        return judged(*diagnoses) if np.array_equal(first.numpy(), before) else "it does harm"

    monkeypatch.setattr(module, "worsening", harm)
    done = bnm.repair(model, x, only=["BN201"])
    assert {step.layer for step in done.steps} >= {"bn1", "bn2"}
    assert done.refused["BN201 bn0"] == "it does harm"


def test_a_distance_that_no_call_makes_names_none():
    case = SimpleNamespace(
        measured=SimpleNamespace(effects=Effects(64, 1e-3, relative=0.9, chance=0.13)), gaps={}
    )
    (found,) = RULES["BN200"].check_last(case, [])
    assert found.cause.endswith("by more than chance, and no rule says why.")
    assert dict(found.evidence) == {"by_chance": 0.13, "output_change": 0.9}
