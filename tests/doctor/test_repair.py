"""repair: what is planned for findings, and what is done to models."""

import functools
import json
from importlib import resources

import keras
import numpy as np
import pytest
from keras import layers

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.decisions import decide
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.doctor.repair import repair
from batchnorm_mechanics.doctor.rule import Circumstances
from batchnorm_mechanics.doctor.rules import RULES
from batchnorm_mechanics.models.mark import estimated_in, mark_of, put_mark
from batchnorm_mechanics.models.norms import norms_in

BN = layers.BatchNormalization
NAN = np.nan


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def numbers(rows=400, shape=(5,), seed=0):
    return np.random.default_rng(seed).normal(3, 2, (rows, *shape)).astype("float32")


def bare(**settings):
    return keras.Sequential(
        [
            layers.Input((5,)),
            layers.Dense(6),
            BN(name="first", **settings),
            layers.ReLU(),
            layers.Dense(4),
            BN(name="second", **settings),
            layers.Dense(3),
        ]
    )


@functools.cache
def recalibrated(**settings):
    model = bare(**settings)
    for norm in norms_in(model):
        norm.layer.beta.assign(np.linspace(-0.5, 0.5, norm.channels))
    recalibrate(model, numbers(), sequential=True)
    return model


def plain(**settings):
    """A model whose statistics are those of `numbers()`, and which is known for it."""
    model, made = bare(**settings), recalibrated(**settings)
    model.set_weights(made.get_weights())
    put_mark(model, mark_of(made))
    return model


def of(model, name):
    return next(norm for norm in norms_in(model) if norm.name == name)


def state(model):
    return [weight.copy() for weight in model.get_weights()]


def same(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


def set_channel(weight, channel, value):
    values = weight.numpy().copy()
    values[channel] = value
    weight.assign(values)


def found(code, layer, *, root=None, **settings):
    return RULES[code].finding(layer, cause="cause", remedy="remedy", root=root, **settings)


def planned(
    model, *findings, asked=None, has_data=True, obstacle=lambda *_: None, done=frozenset()
):
    asked = None if asked is None else frozenset(asked)
    norms = {norm.name: norm for norm in norms_in(model)}
    return decide(findings, Circumstances(norms, asked, has_data, obstacle, done))


def actions(decided):
    return [(step.action, step.layer) for step in decided.steps]


# What is planned.


@pytest.mark.parametrize("code", ["BN102", "BN103", "BN104", "BN106", "BN110", "BN201"])
def test_statistics_that_are_wrong_are_estimated_anew(code):
    decided = planned(bare(), found(code, "second", channels=[1, 3], severity="warning"))
    (step,) = decided.steps
    # What moves an average away from the data moves channels below the threshold too.
    channels = (1, 3) if code in {"BN102", "BN104"} else ()
    assert (step.action, step.layer, step.channels) == ("re-estimate", "second", channels)
    assert step.findings == (f"{code} second",)
    assert not decided.refused


@pytest.mark.parametrize("code", ["BN102", "BN103", "BN104", "BN106", "BN110", "BN201", "BN113"])
def test_what_needs_data_is_refused_without(code):
    decided = planned(bare(), found(code, "first", severity="error"), has_data=False)
    assert not decided.steps
    assert dict(decided.refused) == {f"{code} first": "it needs data"}


@pytest.mark.parametrize(
    "code", ["BN108", "BN111", "BN112", "BN114", "BN202", "BN203", "BN204", "BN205", "BN206"]
)
def test_what_cannot_be_repaired_is_refused_with_a_reason(code):
    decided = planned(bare(), found(code, "first", severity="warning"))
    assert not decided.steps
    assert len(decided.refused[f"{code} first"]) > 20


def test_notes_are_left_unless_their_code_is_asked_for():
    model, note = bare(), found("BN104", "first", channels=[2], severity="note")
    assert planned(model, note) == planned(model)
    assert actions(planned(model, note, asked=["BN104"])) == [("re-estimate", "first")]


def test_only_the_codes_that_are_asked_for_are_repaired():
    findings = [found("BN102", "first"), found("BN105", "second")]
    decided = planned(bare(), *findings, asked=["BN105"])
    assert actions(decided) == [("momentum", "second")]
    assert not decided.refused


def test_an_effect_is_left_where_its_cause_is_repaired():
    findings = [found("BN102", "first"), found("BN201", "second", root="BN102 first")]
    decided = planned(bare(), *findings)
    assert actions(decided) == [("re-estimate", "first")]
    assert not decided.refused


def test_an_effect_is_repaired_where_its_cause_is_not_asked_for():
    findings = [found("BN102", "first"), found("BN201", "second", root="BN102 first")]
    assert actions(planned(bare(), *findings, asked=["BN201"])) == [("re-estimate", "second")]


def test_an_effect_of_a_momentum_is_repaired_beside_it():
    findings = [found("BN105", "first"), found("BN201", "first", root="BN105 first")]
    expected = [("momentum", "first"), ("re-estimate", "first")]
    assert actions(planned(bare(), *findings)) == expected


def test_an_effect_of_another_domain_is_refused_with_it_and_done_where_that_is_asked_for():
    model = bare()
    findings = [found("BN203", "first"), found("BN201", "second", root="BN203 first")]
    decided = planned(model, *findings)
    assert not decided.steps
    assert decided.refused["BN201 second"] == "BN203 first explains it, which is not repaired"
    asked = planned(model, *findings, asked=["BN203"])
    assert actions(asked) == [("re-estimate", "first"), ("re-estimate", "second")]


def test_a_frozen_layer_is_refused_unless_its_code_is_asked_for():
    model = bare()
    of(model, "first").layer.trainable = False
    sick = found("BN103", "first", severity="warning")
    assert "it is frozen" in planned(model, sick).refused["BN103 first"]
    assert actions(planned(model, sick, asked=["BN103"])) == [("re-estimate", "first")]


def test_several_findings_of_a_layer_are_one_step_for_all_their_channels():
    findings = [found("BN102", "first", channels=[4]), found("BN104", "first", channels=[1, 4])]
    (step,) = planned(bare(), *findings).steps
    assert step.channels == (1, 4)
    assert step.findings == ("BN102 first", "BN104 first")
    (step,) = planned(bare(), *findings, found("BN110", "first")).steps
    assert step.channels == ()


def test_steps_come_in_the_order_of_actions_then_of_the_model():
    findings = [
        found("BN102", "second"),
        found("BN102", "first"),
        found("BN105", "second"),
        found("BN107", "second"),
    ]
    assert actions(planned(bare(), *findings)) == [
        ("unflag", "second"),
        ("momentum", "second"),
        ("re-estimate", "first"),
        ("re-estimate", "second"),
    ]


def test_what_was_done_is_not_done_again():
    decided = planned(bare(), found("BN201", "first"), done={("re-estimate", "first", ())})
    assert not decided.steps
    assert "layer by layer" in decided.refused["BN201 first"]


def test_a_whole_layer_is_estimated_after_some_of_its_channels_were():
    decided = planned(bare(), found("BN201", "first"), done={("re-estimate", "first", (2,))})
    assert actions(decided) == [("re-estimate", "first")]
    again = found("BN102", "first", channels=[2])
    assert not planned(bare(), again, done={("re-estimate", "first", (2,))}).steps
    assert not planned(bare(), again, done={("re-estimate", "first", ())}).steps


def test_an_obstacle_in_the_graph_is_the_reason():
    decided = planned(bare(), found("BN107", "first"), obstacle=lambda *_: "own code")
    assert dict(decided.refused) == {"BN107 first": "own code"}


def test_what_names_no_layer_is_refused():
    decided = planned(bare(), found("BN103", "", severity="note"), asked=["BN103"])
    assert "names no layer" in decided.refused["BN103"]


def test_a_spoilt_gamma_alone_needs_no_data():
    model = bare()
    set_channel(of(model, "first").layer.gamma, 2, NAN)
    (step,) = planned(model, found("BN101", "first", channels=[2]), has_data=False).steps
    assert (step.action, step.channels) == ("reset", (2,))


def test_spoilt_gamma_and_statistics_are_told_apart_by_channel():
    model = bare()
    set_channel(of(model, "first").layer.gamma, 2, NAN)
    set_channel(of(model, "first").layer.moving_variance, 4, np.inf)
    decided = planned(model, found("BN101", "first", channels=[2, 4]))
    assert [(step.action, step.channels) for step in decided.steps] == [
        ("reset", (2,)),
        ("re-estimate", (4,)),
    ]


# What is done: statistics.


SPOILT = {
    "BN101": lambda layer: set_channel(layer.moving_mean, 1, NAN),
    "BN102": lambda layer: set_channel(layer.moving_variance, 1, -0.5),
}


@pytest.mark.parametrize("code", SPOILT)
def test_only_the_channels_that_a_finding_names_are_touched(code):
    model, x = plain(), numbers()
    right = of(model, "first").mean, of(model, "first").variance
    # The others are a little off, as any moving average is; that is no finding.
    of(model, "first").layer.moving_mean.assign(right[0] + 0.01)
    of(model, "first").layer.moving_variance.assign(right[1] * 1.01)
    before = state(model)
    SPOILT[code](of(model, "first").layer)
    done = repair(model, x)
    assert done.before.findings[0].code == code
    changed = [
        (weight.name, np.flatnonzero(weight.numpy() != old).tolist())
        for weight, old in zip(model.weights, before, strict=True)
        if not np.array_equal(weight.numpy(), old)
    ]
    assert all(channels == [1] for _, channels in changed)
    np.testing.assert_allclose(of(model, "first").mean[1], right[0][1], rtol=1e-5)
    np.testing.assert_allclose(of(model, "first").variance[1], right[1][1], rtol=1e-5)
    assert not done.after.is_sick
    assert not done.refused


def test_statistics_never_updated_are_estimated_and_effects_on_healthy_layers_go_with_them():
    model, x = plain(), numbers()
    before = of(model, "second").mean
    first = of(model, "first").layer
    first.moving_mean.assign(np.zeros(6))
    first.moving_variance.assign(np.ones(6))
    done = repair(model, x)
    assert actions(done) == [("re-estimate", "first")]
    assert np.array_equal(of(model, "second").mean, before)
    assert not done.after.is_sick
    assert done.after.measures["gap"] < done.before.measures["gap"] / 10


def test_poisoned_gamma_and_beta_become_one_and_zero_and_layers_after_it_come_back():
    model, x = plain(), numbers()
    layer = of(model, "first").layer
    set_channel(layer.gamma, 2, NAN)
    set_channel(layer.beta, 3, NAN)
    beta = layer.beta.numpy()[2]
    done = repair(model, x)
    assert ("reset", "first") in actions(done)
    assert layer.gamma.numpy()[2] == 1
    assert layer.beta.numpy()[3] == 0
    assert layer.beta.numpy()[2] == beta
    assert not done.after.of("BN101")
    assert not done.after.of("BN205")


def test_swapped_mean_and_variance_are_swapped_back_without_data():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((16,)), layers.Dense(16), BN(name="bn")])
    recalibrate(model, numbers(shape=(16,)) - 3)
    layer = of(model, "bn").layer
    layer.beta.assign(np.ones(16))
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    layer.moving_mean.assign(variance)
    layer.moving_variance.assign(mean)
    done = repair(model)
    assert actions(done) == [("swap", "bn")]
    assert np.array_equal(layer.moving_mean.numpy(), mean)
    assert np.array_equal(layer.moving_variance.numpy(), variance)
    assert not done.after.of("BN115")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: BN(momentum=0.1), 0.9),
        (lambda: BN(momentum=0.0), 0.99),
        (lambda: BN(momentum=1.0), 0.99),
        (lambda: bnm.BatchNormalization(momentum=0.01), 0.99),
        (
            lambda: bnm.BatchNormalization(
                statistics=bnm.ExponentialMovingAverage(decay=0.1, unbiased=True)
            ),
            0.9,
        ),
    ],
)
def test_a_momentum_from_pytorch_is_corrected_also_in_a_compiled_model(make, expected):
    model = keras.Sequential([layers.Input((5,)), make()])
    model.compile(optimizer="sgd", loss="mse")
    x = numbers(32)
    model.train_on_batch(x, x)
    done = repair(model, only=["BN105"])
    (norm,) = norms_in(model)
    assert norm.momentum == pytest.approx(expected)
    before = norm.mean
    model.train_on_batch(x, x)
    moved = expected * before + (1 - expected) * x.mean(0, dtype=np.float64)
    np.testing.assert_allclose(norm.mean, moved, rtol=1e-5)
    assert not done.after.of("BN105")
    assert getattr(norm.layer, "statistics", None) is None or norm.layer.statistics.unbiased
    done.undo()
    assert norm.momentum in {0.1, 0, 1, 0.01}


def test_a_momentum_of_a_half_is_refused_even_where_it_is_asked_for():
    model = keras.Sequential([layers.Input((5,)), BN(name="bn", momentum=0.5)])
    assert not repair(model).before.is_sick
    done = repair(model, only=["BN105"])
    assert not done.steps
    assert dict(done.refused) == {"BN105 bn": "a momentum of 0.5 is its own complement"}


def test_a_bias_moves_into_the_mean_only_where_it_is_asked_for():
    model, x = plain(renorm=True), numbers()
    dense = model.layers[0]
    dense.bias.assign(np.arange(6.0))
    recalibrate(model, x, sequential=True)
    expected = model.predict(x, verbose=0)
    before = state(model)
    repair(model)
    assert same(state(model), before)
    done = repair(model, only=["BN109"])
    assert ("fold-bias", "first") in actions(done)
    assert not np.any(dense.bias.numpy())
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    first = of(model, "first").layer
    np.testing.assert_allclose(first.renorm_mean, first.moving_mean, rtol=1e-6)
    done.undo()
    assert same(state(model), before)


def test_a_bias_that_another_call_needs_stays():
    x = layers.Input((5,))
    dense = layers.Dense(4, bias_initializer="ones")
    model = keras.Model(x, [BN(name="bn")(dense(x)), dense(x * 2)])
    done = repair(model, only=["BN109"])
    assert not done.steps
    assert "called more than once" in done.refused["BN109 bn"]


# What is done: graphs.


def branches(nested=False):
    """A baked flag, deep or not."""
    x = layers.Input((5,), name="x")
    y = layers.Dense(6, name="dense")(x)
    y = BN(name="bn", momentum=0.9)(y, training=True)
    y = layers.ReLU()(y) + layers.Dense(6)(x)
    y = BN(name="last", momentum=0.9, trainable=False)(y)
    if nested:
        inner = keras.Model(x, y, name="inner")
        outer = layers.Input((5,), name="outer")
        y = layers.Lambda(lambda z: z * 2, name="twice")(inner(outer))
        x = outer
    model = keras.Model(x, layers.Dense(3, activation="softmax")(y), name="whole")
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 2, weight.shape))
    return model, numbers(64)


@pytest.mark.parametrize("nested", [False, True])
def test_a_baked_flag_is_removed_in_a_new_model_of_the_same_weights(nested):
    model, x = branches(nested)
    before = state(model)
    done = repair(model, only=["BN107"])
    assert done.model is not model
    assert not diagnose(done.model).of("BN107")
    assert diagnose(model).of("BN107")
    assert same(state(done.model), state(model))
    assert same(state(model), before)
    np.testing.assert_allclose(done.model(x), model.predict(x, verbose=0), atol=1e-5)
    assert [layer.name for layer in done.model.layers] == [layer.name for layer in model.layers]
    assert [norm.layer.trainable for norm in norms_in(done.model)] == [True, False]
    assert [norm.name for norm in norms_in(done.model)] == [norm.name for norm in norms_in(model)]
    assert done.undo() is model


def test_the_new_model_is_compiled_like_the_old_one_and_trains_on_like_it():
    model, x = branches()
    y = (x[:, 0] > 3).astype("int32")
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, verbose=0, epochs=2)
    new = repair(model, only=["BN107"]).model
    assert int(new.optimizer.iterations) == int(model.optimizer.iterations) == 4
    # `fit` overrides the flag, so that both do the same.
    keras.utils.set_random_seed(3)
    model.fit(x, y, verbose=0, shuffle=False)
    new.fit(x, y, verbose=0, shuffle=False)
    for a, b in zip(state(new), state(model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_the_new_model_can_be_saved_and_loaded(nested, tmp_path):
    model, x = branches(nested)
    new = repair(model, only=["BN107"]).model
    new.save(tmp_path / "new.keras")
    loaded = keras.models.load_model(tmp_path / "new.keras", safe_mode=False)
    np.testing.assert_allclose(loaded(x), model.predict(x, verbose=0), atol=1e-5)
    assert not diagnose(loaded).of("BN107")


def test_a_flag_on_a_model_that_holds_the_layer_is_removed():
    inner = keras.Sequential([layers.Input((5,)), BN(name="bn")], name="inner")
    x = layers.Input((5,))
    model = keras.Model(x, inner(x, training=True))
    assert diagnose(model).of("BN107")
    done = repair(model)
    assert not diagnose(done.model).of("BN107")


def test_only_flags_of_the_layers_that_are_named_are_removed():
    x = layers.Input((5,))
    y = BN(name="bn")(x, training=True)
    y = layers.Dropout(0.5, name="drop")(y, training=True)
    new = repair(keras.Model(x, y)).model
    drop = new.get_layer("drop")._inbound_nodes[0]
    assert drop.arguments.kwargs["training"] is True


def test_a_flag_in_a_sequence_within_a_graph_is_removed_and_shared_layers_stay_shared():
    x = layers.Input((5,))
    part = keras.Model(x, BN(name="bn")(x, training=True), name="part")
    dense = layers.Dense(5, name="dense")
    whole = keras.Sequential([layers.Input((5,)), part, dense], name="sequence")
    z = layers.Input((5,))
    model = keras.Model(z, whole(z) + dense(z))
    data = numbers(64)
    new = repair(model).model
    assert not diagnose(new).of("BN107")
    assert len(new.get_layer("sequence").layers) == 2
    assert new.get_layer("sequence").layers[1] is new.get_layer("dense")
    np.testing.assert_allclose(new(data), model.predict(data, verbose=0), atol=1e-5)


@keras.saving.register_keras_serializable("tests.repair")
class OwnCode(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        x = layers.Input((5,))
        self.part = keras.Model(x, BN(name="bn")(x, training=True))

    def call(self, x):
        return self.part(x)


def test_a_flag_in_the_graph_of_a_subclassed_model_is_refused():
    model = OwnCode()
    model(numbers(8))
    done = repair(model)
    assert done.model is model
    assert "the model's own code calls the layer" in next(iter(done.refused.values()))


def test_a_flag_within_a_layer_that_has_its_own_code_is_refused():
    x = layers.Input((5,))
    model = keras.Model(x, OwnCode(name="own")(x))
    done = repair(model)
    assert not done.steps
    assert "within a layer that has its own code" in next(iter(done.refused.values()))


class NotCopied(layers.Layer):
    def get_config(self):
        raise NotImplementedError("no configuration")

    def call(self, x):
        return x


def test_a_layer_that_cannot_be_copied_is_named_and_what_needs_no_copy_is_done():
    x = layers.Input((5,))
    model = keras.Model(x, BN(name="bn")(NotCopied(name="stubborn")(x), training=True))
    layer = model.get_layer("bn")
    layer.beta.assign(np.full(5, NAN))
    done = repair(model, numbers(64))
    assert done.refused["BN107 bn"] == (
        "its graph cannot be built anew: the layer 'stubborn' of class NotCopied, which said: no "
        "configuration. Give it both methods."
    )
    assert ("reset", "bn") in actions(done)
    assert layer.beta.numpy().tolist() == [0] * 5
    assert done.model is model


def flagged(make=keras.Model, **compiled):
    """A model with a baked flag, of any class and compiled in any way."""
    x = layers.Input((5,))
    model = make(x, layers.Dense(5, name="dense")(BN(name="bn")(x, training=True)))
    if compiled:
        model.compile(**compiled)
    return model


def test_single_frozen_weights_stay_frozen_in_a_new_model():
    model = flagged()
    model.get_layer("dense").bias.trainable = False
    model.get_layer("bn").beta.trainable = False
    new = repair(model).model
    assert new is not model
    assert [weight.name for weight in new.trainable_weights] == ["gamma", "kernel"]


def test_a_new_model_is_compiled_with_losses_and_metrics_of_one_s_own():
    def own_loss(y, p):
        return keras.ops.mean((y - p) ** 4)

    class Largest(keras.metrics.Mean):
        def update_state(self, y, p, sample_weight=None):
            return super().update_state(keras.ops.max(keras.ops.abs(y - p)))

    model = flagged(
        loss={"dense": own_loss},
        metrics={"dense": [Largest(name="largest"), "mae"]},
        optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)),
        run_eagerly=True,
    )
    x = numbers(32)
    model.fit(x, x, verbose=0)
    done = repair(model, only=["BN107"])
    assert done.notes == ()
    new = done.model.evaluate(x, x, verbose=0, return_dict=True)
    assert new == pytest.approx(model.evaluate(x, x, verbose=0, return_dict=True))
    assert set(new) == {"loss", "largest", "mae"}
    assert done.model.run_eagerly
    assert float(done.model.optimizer.learning_rate) == float(model.optimizer.learning_rate)


def test_a_loss_that_cannot_be_copied_is_said_to_be_lost():
    done = repair(flagged(loss=lambda y, p: keras.ops.mean((y - p) ** 2)))
    assert not done.model.compiled
    assert "the new model is not compiled" in done.notes[0]


class OwnSteps(keras.Model):
    def train_step(self, data):
        return {"of_its_own": 7.0}


class OwnCompile(keras.Model):
    def compile(self, more=None, **settings):
        super().compile(**settings)


class OwnCopy(OwnCompile):
    def compile_from_config(self, config):
        self.compile(more=1, loss="mae")


def test_a_new_model_trains_with_the_steps_of_its_class():
    model = flagged(OwnSteps, loss="mse")
    done = repair(model)
    x = numbers(8)
    assert done.notes == ()
    assert type(done.model) is OwnSteps
    assert done.model.train_on_batch(x, x, return_dict=True) == {"of_its_own": 7.0}


def test_a_compile_of_a_class_s_own_is_left_to_it():
    done = repair(flagged(OwnCompile, loss="mse"))
    assert not done.model.compiled
    assert done.notes == (
        "the new model is not compiled, since its class has a `compile` of its own",
    )
    done = repair(flagged(OwnCopy, loss="mse"))
    assert (done.model.loss, done.notes) == ("mae", ())


def test_what_a_new_model_could_not_take_along_is_noted():
    model = flagged()
    model.more = layers.Dense(2, name="more")
    (note,) = repair(model).notes
    assert note.endswith("holds outside its graph is not in the new model: more.")


def shared():
    """One layer for two inputs whose statistics differ."""
    bn = BN(name="shared")
    a, b = layers.Input((5,), name="a"), layers.Input((5,), name="b")
    dense = layers.Dense(3, name="dense")
    model = keras.Model([a, b], [dense(bn(a)), dense(bn(b))])
    bn.gamma.assign(np.arange(1.0, 6))
    return model, [numbers(), 4 * numbers(seed=1) + 20]


def test_a_shared_layer_is_split_and_each_part_gets_its_own_statistics():
    model, data = shared()
    recalibrate(model, data)
    before = state(model)
    done = repair(model, data)
    assert actions(done)[0] == ("split", "shared")
    parts = norms_in(done.model)
    assert {norm.name for norm in parts} == {"shared", "shared_2"}
    for norm in parts:
        (call,) = norm.calls
        x = data[["a", "b"].index(call.node.input_tensors[0].name)]
        np.testing.assert_allclose(norm.mean, x.mean(0, dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(norm.variance, x.astype(np.float64).var(0), rtol=1e-5)
        assert np.array_equal(norm.gamma, np.arange(1, 6))
    assert not diagnose(done.model).of("BN113")
    assert same(state(model), before)
    assert len(done.model.layers) == len(model.layers) + 1


def test_parts_of_a_split_layer_get_names_that_are_free():
    bn = BN(name="bn")
    a, b = layers.Input((5,), name="a"), layers.Input((5,), name="b")
    y = layers.Add()([bn(a), bn(b)])
    model = keras.Model([a, b], BN(name="bn_2")(y))
    data = [numbers(), numbers(seed=1) + 9]
    recalibrate(model, data)
    new = repair(model, data, only=["BN113"]).model
    assert {norm.name for norm in norms_in(new)} == {"bn", "bn_2", "bn_3"}


def siamese(make, *parts):
    """Return a model that calls another one on two inputs that are unlike, with data, settled."""
    encoder = make([layers.Dense(6, name="dense"), BN(name="bn"), layers.ReLU(), *parts])
    a, b = layers.Input((5,), name="a"), layers.Input((5,), name="b")
    return keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([encoder(a), encoder(b)])))


def sequence(parts):
    return keras.Sequential([layers.Input((5,)), *parts], name="encoder")


def functional(parts):
    inputs = outputs = layers.Input((5,))
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs, name="encoder")


def nested(parts):
    return sequence([functional(parts)])


UNLIKE = [numbers(), 4 * numbers(seed=1) + 20]


def apart(model, data):
    """Return how far training mode and inference are apart, in spreads of the output."""
    return dict(diagnose(model, data, batch_size=32).measures)["output_change"]


@pytest.mark.parametrize("make", [sequence, nested])
def test_a_model_called_on_inputs_that_are_unlike_gets_batch_norm_for_each(make, tmp_path):
    model = siamese(make, BN(name="last"))
    recalibrate(model, UNLIKE)
    assert apart(model, UNLIKE) > 0.5
    done = repair(model, UNLIKE)
    assert [step[0] for step in actions(done)].count("split") == 2
    assert apart(done.model, UNLIKE) < 0.1
    assert not [one for one in done.after.findings if one.severity != "note"]
    assert len(norms_in(done.model)) == 4
    kernels = {id(weight) for weight in done.model.trainable_variables if "kernel" in weight.path}
    assert len(kernels) == 2, "all else is shared"
    done.model.save(tmp_path / "new.keras")
    again = keras.models.load_model(tmp_path / "new.keras")
    expected = done.model.predict(UNLIKE, verbose=0)
    np.testing.assert_array_equal(again.predict(UNLIKE, verbose=0), expected)
    assert len(again.trainable_variables) == len(done.model.trainable_variables)


@pytest.mark.parametrize(("outer", "inner"), [(sequence, "bn"), (functional, "model")])
def test_steps_that_are_unlike_get_batch_norm_for_each(outer, inner):
    one = BN(name="bn")
    if inner == "model":
        one = keras.Sequential([layers.Input((2,)), layers.Dense(4), one, layers.ReLU()])
    parts = [layers.TimeDistributed(one), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([layers.Input((3, 2)), *parts])
    if outer is functional:
        model = keras.Model(model.inputs, model.outputs)
    steps = np.arange(3, dtype="float32")[:, None]
    x = numbers(seed=3, shape=(3, 2)) * (1 + steps) + 9 * steps
    recalibrate(model, x)
    finding = diagnose(model, x).of("BN113")[0]
    assert (finding.severity, finding.evidence["calls"]) == ("error", 3)
    done = repair(model, x)
    assert len(norms_in(done.model)) == 3
    assert apart(done.model, x) < 0.1


def test_inputs_that_are_alike_are_left_together():
    model = siamese(functional)
    data = [numbers(seed=1), numbers(seed=2)]
    recalibrate(model, data)
    done = repair(model, data)
    assert not done.steps
    assert [one.severity for one in done.after.of("BN113")] == ["note"]


# The whole.


def test_a_dry_run_changes_nothing_and_says_what_would_be_done():
    model, x = plain(), numbers()
    set_channel(of(model, "first").layer.moving_mean, 1, NAN)
    before = state(model)
    done = repair(model, x, dry_run=True)
    assert same(state(model), before)
    assert done.after is None
    assert "Planned  re-estimate the statistics (BN101): first" in str(done)


def test_undo_restores_bit_for_bit():
    model, x = plain(), numbers()
    for name in ("first", "second"):
        set_channel(of(model, name).layer.moving_mean, 1, NAN)
        set_channel(of(model, name).layer.gamma, 0, NAN)
    before = state(model)
    done = repair(model, x)
    assert not same(state(model), before)
    assert done.undo() is model
    assert same(state(model), before)


def test_an_exception_in_the_middle_leaves_the_model_as_it_was(monkeypatch):
    model, x = plain(), numbers()
    layer = of(model, "first").layer
    set_channel(layer.gamma, 0, NAN)
    set_channel(layer.moving_mean, 1, NAN)
    layer.momentum = 0.1
    before = state(model)

    def interrupt(*_args, **_settings):
        assert layer.gamma.numpy()[0] == 1
        assert layer.momentum == 0.9
        raise KeyboardInterrupt

    monkeypatch.setattr("batchnorm_mechanics.doctor.repair.estimate_anew", interrupt)
    with pytest.raises(KeyboardInterrupt):
        repair(model, x)
    assert same(state(model), before)
    assert layer.momentum == 0.1


@functools.cache
def trained_classifier(*, norms):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (600, 5)).astype("float32")
    y = (x[:, 0] + np.sin(x[:, 1]) > 2).astype("int64")
    model = keras.Sequential(
        [
            *[layers.Input((5,)), layers.Dense(16), BN(name="first", momentum=0.9), layers.ReLU()],
            *[layers.Dense(16), BN(name="second", momentum=0.9), layers.ReLU(), layers.Dense(2)],
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # An epoch in one call gives the same numbers, and takes half as long.
    adam = keras.optimizers.Adam(0.01)
    model.compile(adam, loss, metrics=["accuracy"], steps_per_execution=12)
    if norms:
        model.fit(x, y, batch_size=50, epochs=20, verbose=0)
    else:
        inference = model.call
        model.call = lambda inputs, training=None, mask=None: inference(inputs, training=False)
        model.fit(x, y, batch_size=50, epochs=20, verbose=0)
        del model.call
    return model, (x, y)


def classifier(*, norms=True):
    """Return a classifier as it was trained, by the batch or not, and its data."""
    trained, data = trained_classifier(norms=norms)
    model = keras.models.clone_model(trained)
    model.compile(trained.optimizer, trained.loss, metrics=["accuracy"])
    model.set_weights(trained.get_weights())
    return model, data


@pytest.mark.thorough
def test_what_makes_a_model_worse_is_taken_back_and_said():
    """A loop without `training=True`: the weights fit the statistics that never moved."""
    model, data = classifier(norms=False)
    before = state(model)
    done = repair(model, data, batch_size=50)
    assert [finding.code for finding in done.before.findings[:2]] == ["BN103", "BN103"]
    assert same(state(model), before)
    assert not done.steps
    assert not done.change.layers
    reason = done.refused["BN103 first"]
    assert reason.startswith("it made the model worse on these data, accuracy 0.9")
    assert done.after.measures == done.before.measures
    # Without labels it cannot be known.
    assert repair(model, data[0], batch_size=50).steps


@pytest.mark.thorough
def test_what_was_good_before_is_kept_when_a_later_round_is_taken_back(monkeypatch):
    model, data = classifier()
    recalibrate(model, data[0], batch_size=50)
    right = of(model, "first").mean
    of(model, "first").layer.moving_mean.assign(np.full(16, NAN))
    second = of(model, "second").layer.moving_mean
    second.assign(second + 3.0)
    wrong = second.numpy()
    rounds = []

    def judged(before, after):
        rounds.append(after)
        return None if len(rounds) == 1 else "worse"

    monkeypatch.setattr("batchnorm_mechanics.doctor.repair.worsening", judged)
    # The first round for the one layer, the second for the other.
    monkeypatch.setattr(
        "batchnorm_mechanics.doctor.repair.decide",
        lambda findings, given: decide(
            [one for one in findings if (one.code == "BN101") == (not rounds)], given
        ),
    )
    done = repair(model, data, batch_size=50)
    assert len(rounds) == 3, "and both together"
    assert actions(done) == [("re-estimate", "first")]
    np.testing.assert_allclose(of(model, "first").mean, right, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(second.numpy(), wrong)
    assert dict(done.refused) == {"BN201 second": "worse"}
    assert estimated_in(model) == {"first"}


def test_a_layer_that_lags_in_some_channels_is_estimated_in_all():
    model, data = classifier()
    recalibrate(model, data[0], batch_size=50)
    mean = of(model, "second").layer.moving_mean
    right, deviation = mean.numpy(), np.sqrt(of(model, "second").variance)
    mean.assign(right + np.where(np.arange(16) < 4, 3.0, 0.2) * deviation)
    done = repair(model, data, batch_size=50)
    assert done.before.of("BN201")[0].channels == (0, 1, 2, 3)
    assert not done.after.is_sick
    # The first layer infers meanwhile, so a little is left.
    np.testing.assert_allclose(mean.numpy(), right, atol=0.02)


def test_a_healthy_model_is_left_alone():
    model, x = plain(), numbers()
    before = state(model)
    done = repair(model, x)
    assert not done.steps
    assert done.model is model
    assert same(state(model), before)
    assert "\nDone     nothing\n" in str(done)
    assert "\nNow      Nothing is wrong" in str(done)
    assert repr(done).endswith(", 0 steps taken, 0 refused>")


def test_a_model_without_batch_norm_is_left_alone():
    done = repair(keras.Sequential([layers.Input((5,)), layers.Dense(1)]), numbers())
    assert not done.steps
    assert not done.before.norms


def test_a_repair_is_json():
    model, x = plain(), numbers()
    set_channel(of(model, "first").layer.moving_mean, 1, NAN)
    record = json.loads(json.dumps(repair(model, x).as_json(), allow_nan=False))
    assert record["steps"] == [
        {
            "action": "re-estimate",
            "layer": "first",
            "channels": [1],
            "findings": ["BN101 first"],
        }
    ]
    assert record["new_model"] is False
    assert record["after"]["findings"] == [] or record["after"]["findings"][0]["severity"] == "note"


BAD = {
    "model": (lambda m, x: repair("model", x), "repair: `model` must be a Keras model"),
    "method": (lambda m, x: repair(m, x, method="mean"), "repair: `method` must be"),
    "only": (
        lambda m, x: repair(m, x, only=["BN999"]),
        r"^repair: `only` must name rules\. Received: only='BN999'\. Did you mean 'BN",
    ),
    "only as one string": (
        lambda m, x: repair(m, x, only="BN101"),
        r"^repair: `only` must be a list of codes\. Received: only='BN101'\. Write \['BN101'\]\.$",
    ),
    "empty": (lambda m, x: repair(m, x[:0]), "repair: `data` must hold at least one sample"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    call, message = BAD[name]
    with pytest.raises(InputError, match=message):
        call(plain(), numbers())


@pytest.fixture(scope="module")
def mnist():
    path = resources.files("batchnorm_mechanics") / "studies" / "data" / "mnist.npz"
    with resources.as_file(path) as file, np.load(file) as data:
        return {name: data[name] for name in data.files}


def destroyed(kind, norms):
    rng = np.random.default_rng(0)
    for norm in norms:
        layer, shape = norm.layer, norm.mean.shape
        if kind == "zeros":
            layer.moving_mean.assign(np.zeros(shape))
            layer.moving_variance.assign(np.zeros(shape))
        elif kind == "never updated":
            layer.moving_mean.assign(np.zeros(shape))
            layer.moving_variance.assign(np.ones(shape))
        elif kind == "random":
            layer.moving_mean.assign(rng.normal(0, 3, shape))
            layer.moving_variance.assign(rng.uniform(0.1, 30, shape))
        else:
            set_channel(layer.moving_mean, slice(0, 9), NAN)
            set_channel(layer.moving_variance, slice(5, 20), -1)


@pytest.fixture(scope="module")
def trained(mnist):
    keras.utils.set_random_seed(0)
    x, y = mnist["x_train"][:12000].reshape(-1, 784) / np.float32(255), mnist["y_train"][:12000]
    model = keras.Sequential(
        [
            layers.Input((784,)),
            layers.Dense(64, use_bias=False),
            BN(momentum=0.9, name="first"),
            layers.ReLU(),
            layers.Dense(64, use_bias=False),
            BN(momentum=0.9, name="second"),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    assert not diagnose(model, x[:4000], labels=y[:4000]).is_sick
    return model, model.get_weights(), (x[:4000], y[:4000])


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["zeros", "never updated", "random", "poisoned"])
def test_repair_brings_the_accuracy_on_mnist_back(trained, mnist, kind):
    model, weights, (x, y) = trained
    test = mnist["x_test"].reshape(-1, 784) / np.float32(255), mnist["y_test"]
    model.set_weights(weights)
    healthy = model.evaluate(*test, batch_size=500, verbose=0)[1]
    destroyed(kind, norms_in(model))
    assert model.evaluate(*test, batch_size=500, verbose=0)[1] < healthy - 0.05
    done = repair(model, x, labels=y, batch_size=64)
    assert model.evaluate(*test, batch_size=500, verbose=0)[1] > healthy - 0.003
    assert not done.after.is_sick
    measures = done.before.measures, done.after.measures
    assert measures[1]["accuracy"] > measures[0]["accuracy"] + 0.05
    assert measures[1]["loss"] < 0.2
    assert "accuracy " in str(done)


@pytest.mark.thorough
def test_statistics_of_another_domain_are_moved_where_that_is_asked_for_or_labels_tell(
    trained, mnist
):
    model, weights, (x, y) = trained
    test = mnist["x_test"].reshape(-1, 784) / np.float32(255), mnist["y_test"]
    model.set_weights(weights)
    healthy = model.evaluate(*test, batch_size=500, verbose=0)[1]
    recalibrate(model, 1 - x)
    moved = state(model)
    done = repair(model, x, batch_size=64)
    assert "`--only BN203`" in done.refused["BN203 first"]
    assert same(state(model), moved)
    repair(model, x, batch_size=64, only=["BN203"]).undo()
    assert same(state(model), moved)
    done = repair(model, x, labels=y, batch_size=64)
    assert any("BN203 first" in step.findings for step in done.steps)
    assert model.evaluate(*test, batch_size=500, verbose=0)[1] > healthy - 0.003
