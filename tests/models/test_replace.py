"""`replace` puts other layers in the place of batch norm in every kind of model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError

L = keras.layers
BN = L.BatchNormalization


class Block(L.Layer):
    """Holds batch norm in an attribute, a list, a dictionary and a tuple."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = BN(name="alone")
        self.steps = [L.Dense(4, name="dense"), BN(name="in_list")]
        self.named = {"last": BN(name="in_dict")}
        self.pair = (BN(name="in_tuple"), 1)

    def build(self, input_shape):
        for layer in (self.norm, *self.steps, self.named["last"], self.pair[0]):
            layer.build(input_shape)

    def call(self, x, training=None):
        for layer in (self.norm, *self.steps, self.named["last"], self.pair[0]):
            x = layer(x, training=training)
        return x


class Subclassed(keras.Model):
    """Holds a block and a functional model, and calls its first layer twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.shared, self.block = BN(name="shared"), Block(name="block")
        inputs = L.Input((4,))
        self.inner = keras.Model(inputs, BN(name="bn")(L.Dense(4)(inputs)), name="inner")
        self.head = L.Dense(1, name="head")

    def call(self, x, training=None):
        x = self.shared(self.shared(x, training=training), training=training)
        return self.head(self.inner(self.block(x, training=training), training=training))


def functional():
    inputs = L.Input((3, 4))
    inner = keras.Sequential([L.Input((3, 4)), BN(name="bn"), L.ReLU()], name="inner")
    shared = BN(name="shared")
    x = shared(inner(shared(inputs, training=True)))
    x = L.TimeDistributed(BN(name="each"), name="steps")(x)
    x = Block(name="block")(x)
    return keras.Model(inputs, L.Dense(1, name="head")(x))


SUBCLASSED_PATHS = [
    "shared",
    *(f"block/{name}" for name in ("alone", "in_list", "in_dict", "in_tuple")),
    "inner/bn",
]
FUNCTIONAL_PATHS = [
    "shared",
    "inner/bn",
    "steps/each",
    *(f"block/{name}" for name in ("alone", "in_list", "in_dict", "in_tuple")),
]
KINDS = {"functional": (functional, (3, 4)), "subclassed": (Subclassed, (4,))}


def trained(kind, rng):
    make, shape = KINDS[kind]
    keras.utils.set_random_seed(0)
    model = make()
    x, y = data(rng, (8, *shape), 3.0, "float32"), np.zeros((8, *shape[:-1], 1), "float32")
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    model.fit(x, y, verbose=0)
    return model, x, y


@pytest.mark.parametrize(
    ("kind", "paths"), [("functional", FUNCTIONAL_PATHS), ("subclassed", SUBCLASSED_PATHS)]
)
def test_ours_computes_the_same_and_trains_on_in_every_place(kind, paths, rng, tmp_path):
    model, x, y = trained(kind, rng)
    before = model.predict(x, verbose=0)
    done = bnm.replace(model, bnm.from_keras)
    assert (sorted(done.replaced), dict(done.left), done.lost) == (sorted(paths), {}, ())
    assert str(done) == f"Replaced {len(paths)} of {len(paths)} batch norm layers."
    assert (done.model is model) == (kind == "subclassed")
    new = done.model
    assert not any(isinstance(layer, BN) for layer in new._flatten_layers())
    np.testing.assert_allclose(new.predict(x, verbose=0), before, rtol=1e-4, atol=1e-5)
    # The optimizer goes on with its moments; another one would begin anew.
    assert int(new.optimizer.iterations) == 1
    moments = [
        v.numpy() for v in new.optimizer.variables if v.path.endswith("head_kernel_momentum")
    ]
    assert len(moments) == 1
    assert np.any(moments[0] != 0)
    new.fit(x, y, verbose=0)
    new.save_weights(tmp_path / "model.weights.h5")
    after = new.predict(x, verbose=0)
    new.fit(x, y, verbose=0)
    new.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(new.predict(x, verbose=0), after, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_group_normalization_keeps_gamma_and_beta_and_computes_what_keras_does(kind, rng):
    model, x, _ = trained(kind, rng)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, BN)]
    for norm in norms:
        norm.gamma.assign(rng.uniform(1, 2, 4))
    by_name = {norm.name: norm.gamma.numpy() for norm in norms}
    new = bnm.replace(model, lambda layer: L.GroupNormalization(groups=2)).model
    groups = [layer for layer in new._flatten_layers() if isinstance(layer, L.GroupNormalization)]
    assert len(groups) == len(norms)
    for group in groups:
        np.testing.assert_array_equal(group.gamma, by_name[group.name])
    # It depends on no other sample, in training either.
    np.testing.assert_allclose(new(x, training=True)[:1], new(x[:1]), rtol=1e-4, atol=1e-4)


def test_ready_made_group_normalization_has_the_settings_and_kerass_outputs(rng):
    layer = BN(axis=1, epsilon=0.1, scale=False, name="bn", beta_regularizer="l2")
    layer.build((None, 6, 5))
    layer.beta.assign(rng.normal(size=6))
    made = bnm.to_group_normalization(layer, groups=3)
    assert (made.name, made.axis, made.epsilon, made.gamma) == ("bn", 1, 0.1, None)
    x = data(rng, (2, 6, 5), 3.0)
    grouped = x.reshape(2, 3, 10)
    x_hat = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(
        grouped.var(-1, keepdims=True) + 0.1
    )
    expected = x_hat.reshape(x.shape) + layer.beta.numpy()[:, None]
    np.testing.assert_allclose(made(x.astype("float32")), expected, atol=1e-4)


@pytest.mark.parametrize(("shape", "axis"), [((4, 3), -1), ((2, 3, 5), 1)], ids=str)
def test_a_frozen_affine_is_what_inference_computes_and_never_moves(shape, axis, rng, tmp_path):
    layer = bnm.BatchNormalization(axis=axis)
    x = data(rng, shape, 2.0, "float32")
    layer(x, training=True)
    layer.gamma.assign(rng.uniform(1, 2, 3))
    affine = bnm.to_frozen_affine(layer)
    np.testing.assert_allclose(affine(x, training=True), layer(x), rtol=1e-5, atol=1e-5)
    assert affine.trainable_variables == []
    affine.trainable = True
    assert affine.trainable_variables == []
    model = keras.Sequential([L.Input(shape[1:]), affine])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))


@keras.saving.register_keras_serializable("tests.replace")
class Cell(L.SimpleRNNCell):
    """Normalizes its input by a layer that is made as it is built."""

    def build(self, input_shape):
        self.norm = BN(name="norm")
        self.norm.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, states, training=False):
        return super().call(self.norm(inputs, training=training), states, training=training)


def test_a_layer_in_the_cell_of_a_recurrent_one_is_exchanged(rng):
    model = keras.Sequential([L.Input((3, 4)), L.Bidirectional(L.RNN(Cell(2)), name="both")])
    x = data(rng, (4, 3, 4), 2.0, "float32")
    model(x, training=True)
    done = bnm.replace(model, bnm.to_frozen_affine)
    assert (len(done.replaced), dict(done.left)) == (2, {})
    np.testing.assert_allclose(done.model(x, training=True), model(x), rtol=1e-4, atol=1e-5)


def test_what_is_left_and_lost_is_said(rng):
    class Hidden(L.Layer):
        """Keeps batch norm where no attribute holds it."""

        def __init__(self):
            super().__init__(name="hidden")
            norm = BN(name="kept")
            self._tracker.add_to_store("layers", norm)
            self.function = lambda x: norm(x)  # noqa: PLW0108 - no attribute that holds it

        def call(self, x):
            return self.function(x)

    class Holder(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.hidden = BN(name="first"), BN(name="second"), Hidden()

        def call(self, x):
            return self.hidden(self.second(self.first(x)))

    model = Holder()
    x = data(rng, (4, 3), dtype="float32")
    model(x)

    def new(layer):
        if layer.name == "first":
            raise ValueError("not this one")
        return None if layer.name == "second" else bnm.to_frozen_affine(layer)

    def second(layer):
        return bnm.to_frozen_affine(layer) if layer.name == "second" else None

    done = bnm.replace(model, new)
    assert str(done) == (
        "Replaced 0 of 3 batch norm layers.\n"
        "Left: first: `new` refused it (ValueError: not this one).\n"
        "Left: second: `new` left it as it is.\n"
        "Left: hidden/kept: what holds it keeps it where it cannot be exchanged."
    )
    assert list(bnm.replace(model, second).replaced) == ["second"]
    model(x)


def test_the_state_of_weights_that_are_no_more_goes_and_that_of_others_stays(rng):
    model, x, y = trained("functional", rng)
    kept = {v.path: v.numpy() for v in model.optimizer.variables if "head" in v.path}
    done = bnm.replace(model, bnm.to_frozen_affine)
    # Fewer weights are trained, and none of those is new.
    assert done.lost == ()
    after = {v.path: v.numpy() for v in done.model.optimizer.variables if "head" in v.path}
    assert len(kept) == 4
    for path, value in kept.items():
        np.testing.assert_array_equal(after[path], value)
    done.model.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    ("model", "new", "error", "message"),
    [
        (
            lambda: keras.Sequential([L.Input((3,)), L.Dense(1)]),
            bnm.from_keras,
            InputError,
            "replace: `model` must hold batch normalization. Received: a model without. "
            "Call `new` on a layer by yourself.",
        ),
        (
            BN,
            bnm.from_keras,
            InputError,
            "replace: `model` must hold batch normalization. Received: a layer of it. "
            "Call `new` on a layer by yourself.",
        ),
        (
            lambda: keras.Sequential([L.Input((3,)), BN(name="bn")]),
            lambda layer: 3,
            TypeError,
            "replace: `new` must return a Keras layer. Received: new(bn)=3. "
            "Return None to leave the layer as it is.",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(model, new, error, message):
    with pytest.raises(error, match=whole(message)):
        bnm.replace(model(), new)


def test_groups_that_do_not_divide_the_channels_are_refused():
    layer = BN()
    layer.build((None, 6))
    message = (
        "to_group_normalization: `groups` must divide the number of channels, 6. "
        "Received: groups=4. Leave it out for a number that does."
    )
    with pytest.raises(InputError, match=whole(message)):
        bnm.to_group_normalization(layer, groups=4)
    with pytest.raises(InputError, match="must be a batch normalization"):
        bnm.to_frozen_affine(BN())
    assert tf.executing_eagerly()
