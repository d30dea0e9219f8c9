"""`freeze` keeps what it says in `fit`, and `undo` and `unfreeze` let it loose again."""

import keras
import numpy as np
import pytest
from oracle_cases import data, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.layers.freeze import statistics_are_frozen
from batchnorm_mechanics.models.model_copies import Edits, rebuilt

BN = keras.layers.BatchNormalization
PATHS = ("inner/bn", "block/norm", "ours")


class Block(keras.layers.Layer):
    """Calls its batch normalization by its own code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = BN(momentum=0.5, name="norm")

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, inputs, training=None):
        return keras.ops.tanh(self.norm(inputs, training=training))


def made():
    inner = keras.Sequential([keras.Input((3,)), BN(momentum=0.5, name="bn")], name="inner")
    return keras.Sequential(
        [
            keras.Input((3,)),
            inner,
            Block(name="block"),
            bnm.BatchNormalization(momentum=0.5, name="ours"),
            keras.layers.Dense(2, name="dense"),
        ]
    )


@pytest.fixture(scope="module")
def model():
    """One model for all that put it back: compiling and tracing takes the time."""
    keras.utils.set_random_seed(0)
    model = made()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    bnm.accelerate(model.get_layer("inner"))
    moved_in_fit(model)
    return model


def moved_in_fit(model):
    """The weights that one step of `fit` moves, by layer and name."""
    rng = np.random.default_rng(1)
    x, y = data(rng, (8, 3), 2.0, "float32"), rng.normal(size=(8, 2)).astype("float32")
    before = [weight.numpy() for weight in model.weights]
    model.fit(x, y, batch_size=8, verbose=0)
    return {
        "/".join(weight.path.split("/")[-2:])
        for weight, old in zip(model.weights, before, strict=True)
        if not np.array_equal(weight, old)
    }


def of(*names):
    return {f"{path.rpartition('/')[2]}/{name}" for path in PATHS for name in names}


PARAMETERS, STATISTICS = of("gamma", "beta"), of("moving_mean", "moving_variance")
DENSE = {"dense/kernel", "dense/bias"}


@pytest.mark.parametrize(
    ("options", "moves", "says"),
    [
        (
            {},
            set(),
            "`fit` now normalizes all 3 batch norm layers by moving statistics, which stay as they "
            "are; it trains neither gamma nor beta.",
        ),
        (
            {"parameters": False},
            PARAMETERS,
            "`fit` now normalizes all 3 batch norm layers by moving statistics, which stay as they "
            "are; it trains gamma and beta. No file holds this: freeze again what you load.",
        ),
        (
            {"statistics": False},
            STATISTICS,
            "`fit` now normalizes all 3 batch norm layers by batches, which move the statistics; "
            "it trains neither gamma nor beta. No file holds this: freeze again what you load.",
        ),
        (
            {"only": ["inner", "ours"]},
            {"norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"},
            "`fit` now normalizes 2 of 3 batch norm layers by moving statistics, which stay as "
            "they are, and 1 by batches, which move the statistics (block/norm); it trains gamma "
            "and beta of 1 (block/norm).",
        ),
    ],
    ids=["both", "statistics", "parameters", "only"],
)
def test_a_compiled_model_keeps_what_is_frozen_and_undo_lets_it_loose(model, options, moves, says):
    frozen = bnm.freeze(model, **options)
    assert str(frozen) == says
    assert moved_in_fit(model) == moves | DENSE
    frozen.undo()
    assert moved_in_fit(model) == PARAMETERS | STATISTICS | DENSE


def test_frozen_statistics_are_used_in_training(model, rng):
    x = data(rng, (8, 3), 5.0, "float32")
    frozen = bnm.freeze(model, parameters=False)
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))
    frozen.undo()
    assert not np.allclose(model(x, training=True), model(x, training=False), atol=0.1)


def test_undo_goes_back_to_what_was_and_unfreeze_lets_all_loose():
    model = made()
    model.get_layer("ours").trainable = False
    bnm.freeze(model, only="inner", parameters=False)
    gamma = model.get_layer("block").norm.gamma
    gamma.trainable = False

    def state():
        layer = model.get_layer("inner").get_layer("bn")
        return layer.trainable, statistics_are_frozen(layer), gamma.trainable

    bnm.freeze(model).undo()
    assert state() == (True, True, False)
    assert not model.get_layer("ours").trainable
    loose = bnm.unfreeze(model)
    assert state() == (True, False, True)
    assert loose.training == loose.by_batch == PATHS
    loose.undo()
    assert state() == (True, True, False)


def test_an_accelerated_layer_stays_frozen_and_a_frozen_one_can_be_accelerated(rng):
    layer = BN()
    layer.build((None, 3))
    x = data(rng, (8, 3), 5.0, "float32")
    bnm.freeze(layer, parameters=False)
    assert bnm.accelerate(layer).count == 1
    np.testing.assert_allclose(layer(x, training=True), layer(x), atol=1e-6)
    assert bnm.restore(layer) == 1
    np.testing.assert_array_equal(layer(x, training=True), layer(x))
    bnm.unfreeze(layer)
    assert "call" not in vars(layer)


def test_a_file_holds_what_is_frozen_by_both_and_a_copy_the_rest_too(tmp_path):
    model = keras.Sequential([keras.Input((3,)), BN(name="bn"), BN(name="second")])
    bnm.freeze(model, only="bn")
    bnm.freeze(model, only="second", parameters=False)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.trainable for layer in again.layers] == [False, True]
    assert not statistics_are_frozen(again.get_layer("second"))
    copy = rebuilt(model, Edits(), caller="fold").model
    assert statistics_are_frozen(copy.get_layer("second"))


def test_an_optimizer_that_was_made_without_some_weights_is_named(rng):
    model = keras.Sequential([keras.Input((3,)), BN(name="bn"), keras.layers.Dense(1)])
    bnm.freeze(model)
    model.compile("sgd", "mse", run_eagerly=True)
    x = data(rng, (8, 3), dtype="float32")
    model.fit(x, x[:, :1], verbose=0)
    (note,) = bnm.unfreeze(model).notes
    assert note == (
        "Compile the model before: its optimizer was made without 2 of the weights that are to be "
        "trained, and refuses them."
    )
    with pytest.raises(ValueError, match="Unknown variable"):
        model.fit(x, x[:, :1], verbose=0)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, x[:, :1], verbose=0)


def test_the_doctor_and_the_tracer_know_of_frozen_statistics(rng):
    model = keras.Sequential([keras.Input((3,)), BN(name="bn"), BN(name="second")])
    bnm.freeze(model, only="bn", parameters=False)
    x = data(rng, (16, 3), 5.0, "float32")
    assert bnm.recalibrate(model, x).left == {"bn": "it is frozen"}
    trace = bnm.trace(model, x, layer="bn", training=True)
    assert trace.mode == "inference"
    assert "were frozen by bnm.freeze" in " ".join(trace.why)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            [keras.layers.Dense(1)],
            {},
            "freeze: `model` must have batch normalization. Received: a model without. "
            "There is nothing to freeze or to let loose.",
        ),
        (
            [BN(name="bn")],
            {"only": "bm"},
            "freeze: `only` must name batch norm layers of the model, or models in it. "
            "Received: 'bm'. Did you mean 'bn'?",
        ),
        (
            [BN(name="bn")],
            {"only": []},
            "freeze: `only` must name a layer. Received: only=[]. Leave it out for all.",
        ),
        (
            [BN()],
            {"statistics": False, "parameters": False},
            "freeze: `statistics` or `parameters` must be True. Received: statistics=False, "
            "parameters=False. Use unfreeze to let layers loose.",
        ),
        (
            [BN(name="bn")],
            {"statistics": False},
            "freeze: `model` must have weights where gamma and beta alone are frozen. "
            "Received: bn, which is not built. Call the model on data once.",
        ),
    ],
)
def test_what_cannot_be_frozen_is_said(arguments, options, message):
    with pytest.raises(InputError, match=whole(message)):
        bnm.freeze(*arguments, **options)
