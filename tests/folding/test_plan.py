"""What is folded and what stays, and the reason given for it."""

import keras
import numpy as np
import pytest
from fold_models import (
    EXACT,
    bn,
    dense,
    distance,
    f64,
    folded,
    folds_wholly,
    graph,
    norms_left,
    reason_of,
    settled,
    source,
    stack,
)

from batchnorm_mechanics.folding.plan import plan_of
from batchnorm_mechanics.layers import accelerate

L = keras.layers
INPUT = "before it: nothing but the input; after it: "


def test_an_activation_in_the_layer_before():
    assert reason_of(stack((4,), dense(activation="tanh", name="d"), bn())) == (
        "before it: d has the activation tanh; after it: its output is one of the model's"
    )


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (L.ReLU(6.0, dtype="float64"), "ReLU"),
        (L.LeakyReLU(dtype="float64"), "LeakyReLU"),
        (L.Activation("tanh", dtype="float64"), "tanh"),
        (lambda x: 2 * x, "<lambda>"),
    ],
)
def test_an_activation_that_is_no_function_of_keras_in_the_layer_before(activation, name):
    assert f"before it: d has the activation {name}; " in reason_of(
        stack((4,), dense(activation=activation, name="d"), bn())
    )


@pytest.mark.parametrize("kind", [L.Identity, lambda **of: L.Activation("linear", **of)])
def test_a_layer_that_does_nothing_in_place_of_an_activation_is_looked_through(kind):
    folds_wholly(stack((4,), dense(activation=kind(dtype="float64")), bn()))


def test_an_activation_with_weights_of_its_own_keeps_them():
    activation = L.PReLU(dtype="float64")
    activation.build((None, 3))
    model = stack((4,), bn(), dense(3, activation=activation))
    activation.alpha.assign([0.5, -0.5, 2.0])
    folds_wholly(model)


def test_activations_on_both_sides():
    before, after = (L.Activation("tanh", name=name, dtype="float64") for name in "rs")
    assert reason_of(stack((4,), before, bn(), after)) == (
        "before it: r (Activation) is no layer that takes it in; "
        "after it: s (Activation) is no layer that takes it in"
    )


def test_the_output_of_the_layer_before_is_used_elsewhere():
    x = source()
    h = dense(name="d")(x)
    model = graph(x, L.Add(dtype="float64", name="a")([bn()(h), h]))
    assert reason_of(model) == (
        "before it: d has an output that is used elsewhere too; "
        "after it: a (Add) is no layer that takes it in"
    )


def test_the_output_of_the_layer_before_is_one_of_the_model_s():
    x = source()
    h = dense(name="d")(x)
    model = graph(x, [h, bn()(h)])
    assert reason_of(model) == (
        "before it: d has an output that is used elsewhere too; "
        "after it: its output is one of the model's"
    )


def test_two_norms_share_the_layer_before():
    x = source()
    h = dense(name="d")(x)
    model = graph(x, [bn(name="a")(h), bn(name="b")(h)])
    assert set(folded(model)[1]) == {"a", "b"}


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_layer_beside_it_that_is_called_twice(place):
    shared, x, z = dense(name="d"), source(), source()
    first = bn()(shared(x)) if place == "before" else shared(bn()(x))
    reason = reason_of(graph([x, z], [first, shared(z)]))
    assert f"{place} it: d is called 2 times" in reason


def test_a_norm_that_is_called_behind_several_layers():
    norm, x, z = bn(), source(), source()
    model = graph([x, z], [norm(dense(name="d")(x)), norm(dense(name="e")(z))])
    assert reason_of(model) == (
        "before it: several layers (e, d), since it is called 2 times; "
        "after it: its output is one of the model's"
    )


def test_a_norm_goes_into_all_layers_that_use_its_output():
    x = source()
    h = bn()(x)
    folds_wholly(graph(x, [dense()(h), dense(3)(h), dense(activation="tanh")(h)]))


def test_a_norm_whose_output_one_layer_uses_that_does_not_take_it_stays_before_the_others_too():
    x = source()
    h = bn()(x)
    model = graph(x, [dense()(h), f64(L.ReLU, name="r")(h)])
    assert reason_of(model) == INPUT + "r (ReLU) is no layer that takes it in"


def test_a_norm_before_two_calls_of_one_layer_goes_into_it():
    x, shared = source(), dense()
    h = bn()(x)
    folds_wholly(graph(x, [shared(h), f64(L.ReLU)(shared(f64(L.Dropout, 0.5)(h)))]))


def test_a_norm_whose_output_one_call_uses_twice():
    x = source()
    h = bn()(x)
    model = graph(x, L.Add(dtype="float64", name="a")([h, h]))
    assert reason_of(model) == INPUT + "a (Add) is no layer that takes it in"


def test_a_norm_whose_output_is_also_one_of_the_model_s():
    x = source()
    h = bn()(x)
    assert reason_of(graph(x, [h, dense()(h)])) == INPUT + "its output is one of the model's"


def test_another_axis_than_that_of_the_layer_before():
    model = stack((5, 4), dense(name="d"), bn(axis=1))
    assert reason_of(model).startswith("before it: d has its channels on axis 2, it on axis 1; ")


def test_another_axis_than_that_of_the_layer_after():
    model = stack((5, 4), bn(axis=1), dense(name="d"))
    assert reason_of(model) == INPUT + "d has its channels on axis 2, it on axis 1"


def test_another_dtype_than_that_of_the_layer_before():
    model = stack((4,), dense(name="d", dtype="float32"), bn())
    assert reason_of(model).startswith("before it: d computes in float32, it in float64; ")


def test_another_dtype_than_that_of_the_layer_after():
    model = stack((4,), bn(), dense(name="d", dtype="float32"))
    assert reason_of(model) == INPUT + "d computes in float32, it in float64"


def test_a_baked_training_flag():
    x = source()
    model = graph(x, bn()(dense()(x), training=True))
    new, left = folded(model)
    assert list(left.values()) == [
        "training=True is baked into its call, so it normalizes by the batch"
    ]
    # The flag is still there: on one sample the batch's own statistics give beta.
    np.testing.assert_allclose(new(np.ones((1, 4))), model(np.ones((1, 4))))
    np.testing.assert_allclose(new(np.ones((1, 4)))[0], model.layers[-1].beta)


def test_a_training_flag_baked_into_the_call_of_a_model_within():
    x, z = source(), source()
    inner = keras.Model(z, bn(name="bn")(dense()(z)), name="inner")
    _, left = folded(graph(x, inner(x, training=True)))
    assert left == {
        "inner/bn": "training=True is baked into its call, so it normalizes by the batch"
    }


def test_a_training_flag_reaches_models_within_models():
    x, y, z = source(), source(), source()
    inner = keras.Model(z, bn(name="bn")(dense()(z)), name="inner")
    middle = keras.Model(y, inner(y), name="middle")
    assert list(folded(graph(x, middle(x, training=True)))[1]) == ["middle/inner/bn"]


def test_a_model_within_that_is_called_with_and_without_the_flag():
    x, z = source(), source()
    inner = keras.Model(z, bn(name="bn")(dense()(z)), name="inner")
    for first, second in [({}, {"training": True}), ({"training": True}, {})]:
        assert list(folded(graph(x, [inner(x, **first), inner(x, **second)]))[1]) == ["inner/bn"]


def test_a_baked_flag_of_inference_does_not_hinder():
    x = source()
    folds_wholly(graph(x, bn()(dense()(x), training=False)))


def test_a_frozen_norm_infers_whatever_flag_is_baked():
    x = source()
    folds_wholly(graph(x, bn(trainable=False)(dense()(x), training=True)))


@pytest.mark.parametrize(
    ("weight", "value"),
    [("moving_mean", np.nan), ("moving_variance", -1.0), ("gamma", np.inf), ("beta", np.nan)],
)
def test_statistics_that_are_not_finite(weight, value):
    norm = bn(name="bn")
    model = stack((4,), dense(), norm)
    getattr(norm, weight).assign([1.0, value, 1.0, 1.0])
    assert folded(model)[1] == {
        "bn": "its statistics, gamma or beta are not finite, or its variance is negative"
    }


def test_a_variance_of_zero_is_folded():
    norm = bn()
    model = stack((4,), dense(), norm)
    norm.moving_variance.assign([0.0, 1.0, 0.0, 1.0])
    folds_wholly(model)


class OwnCall(L.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


class OwnDefault(L.BatchNormalization):
    def __init__(self, epsilon=0.5, **settings):
        super().__init__(epsilon=epsilon, **settings)


class OwnDense(L.Dense):
    pass


def test_a_subclass_that_computes_in_its_own_way():
    model = stack((4,), dense(), OwnCall(dtype="float64"))
    assert reason_of(model) == "it has a `call` of its own, which may compute something else"


def test_a_subclass_with_other_defaults_is_folded():
    folds_wholly(stack((4,), dense(), OwnDefault(dtype="float64")))


def test_a_call_put_in_place_of_the_layer_s():
    norm = bn(name="bn")
    model = stack((4,), dense(), norm)
    norm.call = lambda inputs, training=None, mask=None: inputs
    assert dict(plan_of(model).left) == {
        "bn": "it has a `call` of its own, which may compute something else"
    }


def test_an_accelerated_norm_is_folded():
    model = stack((4,), dense(), bn())
    assert accelerate(model).count == 1
    folds_wholly(model)


def test_a_subclass_of_the_layer_before():
    model = stack((4,), OwnDense(4, name="d", dtype="float64"), bn())
    assert "before it: d (OwnDense) is no layer that takes it in" in reason_of(model)


def test_a_call_put_in_place_of_that_of_the_layer_before():
    layer = dense(name="d")
    model = stack((4,), layer, bn(name="bn"))
    layer.call = lambda inputs, training=None: inputs
    assert "before it: d (Dense) is no layer that takes it in" in plan_of(model).left["bn"]


def test_a_quantized_layer_before():
    layer = L.Dense(4, name="d")
    model = settled(keras.Sequential([L.Input((4,)), layer, L.BatchNormalization(name="bn")]))
    layer.quantize("int8")
    assert "before it: d is quantized (int8): fold before you quantize" in folded(model)[1]["bn"]


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_what_is_not_quantized_in_a_quantized_model_is_folded(mode):
    last = L.Dense(4, name="last")
    layers = [L.Conv2D(3, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), last]
    model = settled(keras.Sequential([L.Input((5, 5, 2)), *layers]))
    last.quantize(mode)
    new, left = folded(model)
    assert (norms_left(new), left) == ([], {})
    assert new.get_layer("last").quantization_mode == mode
    assert distance(model, new) < 1e-5


def test_a_layer_before_with_lora_weights():
    layer = L.Dense(4, name="d")
    model = settled(keras.Sequential([L.Input((4,)), layer, L.BatchNormalization(name="bn")]))
    layer.enable_lora(2)
    assert "before it: d has LoRA weights" in folded(model)[1]["bn"]


class Block(L.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.dense, self.norm = dense(name="d"), bn(name="bn")

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build(shape)

    def call(self, inputs):
        return self.norm(self.dense(inputs))


def test_a_norm_within_a_layer_with_its_own_code():
    # Keras's configuration of such a layer lacks the name, and another one would take it.
    copy = Block.from_config(Block(dtype="float64").get_config())
    assert copy.name != Block.from_config(copy.get_config()).name
    model = stack((4,), Block(name="block", dtype="float64"))
    assert reason_of(model) == "it is called by Python code of block, which cannot be rewritten"


def test_a_norm_in_a_graph_within_a_wrapper():
    z = source()
    inner = keras.Model(z, bn(name="bn")(dense()(z)), name="inner")
    model = stack((3, 4), L.TimeDistributed(inner, name="each", dtype="float64"))
    assert reason_of(model) == (
        "it is called by Python code of each/inner, which cannot be rewritten"
    )


def test_norms_after_one_another_go_into_the_layer_before():
    folds_wholly(stack((4,), dense(), bn(), bn(), bn()))


def test_norms_after_one_another_go_into_the_layer_after():
    folds_wholly(stack((4,), bn(), bn(), bn(), dense()))


def test_a_layer_takes_in_norms_from_both_sides():
    assert len(folds_wholly(stack((4,), bn(), dense(), bn())).layers) == 1


def test_a_norm_goes_before_it_where_both_sides_would_take_it():
    new = folds_wholly(stack((4,), dense(use_bias=False), bn(), dense(use_bias=False)))
    assert [layer.use_bias for layer in new.layers] == [True, False]


def test_a_second_norm_stays_where_the_first_one_s_output_is_used_elsewhere():
    x = source()
    h = bn(name="a")(dense(name="d")(x))
    model = graph(x, [h, bn(name="b")(h)])
    new, left = folded(model)
    assert left == {
        "b": "before it: d has an output that is used elsewhere too; "
        "after it: its output is one of the model's"
    }
    assert distance(model, new) < EXACT


def test_a_norm_goes_past_another_one_that_goes_first():
    x = source()
    h = bn(name="a")(x)
    folds_wholly(graph(x, [dense()(bn(name="b")(h)), dense()(h)]))


def half(*layers, shape=(4,)):
    return settled(keras.Sequential([L.Input(shape), *layers]))


def test_weights_beyond_the_range_of_float16():
    norm = L.BatchNormalization(dtype="mixed_float16", name="bn")
    model = half(L.Dense(4, dtype="mixed_float16", name="d"), norm)
    norm.gamma.assign([1.0, 1e6, 1.0, 1.0])
    assert folded(model)[1]["bn"].startswith(
        "before it: d would need weights beyond the range of float16; "
    )


@pytest.mark.parametrize(
    ("dtype", "mean", "stays"),
    [
        ("float32", 100.0, False),
        ("float32", 300.0, True),
        ("mixed_float16", 3.0, False),
        ("mixed_float16", 6.0, True),
    ],
)
def test_a_large_mean_hinders_the_layer_after_as_far_as_digits_would_be_lost(dtype, mean, stays):
    norm = L.BatchNormalization(dtype=dtype, epsilon=1e-6, name="bn")
    model = half(norm, L.Dense(4, dtype=dtype, name="d"))
    norm.moving_mean.assign([0.0, -mean, 1.0, 0.0])
    norm.moving_variance.assign(np.ones(4))
    name = dtype.removeprefix("mixed_")
    assert folded(model)[1] == (
        {
            "bn": f"{INPUT}d would lose digits in {name}: its mean is up to {mean:.3g} times the "
            "deviation"
        }
        if stays
        else {}
    )


def test_a_large_mean_does_not_hinder_the_layer_before():
    norm = L.BatchNormalization()
    model = half(L.Dense(4), norm)
    norm.moving_mean.assign(np.full(4, 1e6))
    assert folded(model)[1] == {}


def test_integers_are_left_to_the_norm():
    x = keras.Input((4,), dtype="int32")
    model = graph(x, L.Dense(3, name="d")(L.BatchNormalization(name="bn")(x)))
    assert folded(model)[1] == {"bn": INPUT + "d would get integers"}


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_norm_alone_in_a_model_within_goes_into_the_layer_before_that(kind):
    x = source()
    inner = (
        keras.Sequential([x, bn(name="bn")], name="inner")
        if kind == "sequential"
        else keras.Model(x, bn(name="bn")(x), name="inner")
    )
    folds_wholly(stack((4,), dense(), inner))


def test_a_norm_that_begins_a_model_within_goes_into_the_layer_before_that():
    inner = stack((4,), bn(), L.ReLU(dtype="float64"), dense(3))
    folds_wholly(stack((4,), dense(), L.Dropout(0.5, dtype="float64"), inner))


def test_a_norm_that_ends_a_model_within_goes_into_the_layer_behind_that():
    inner = stack((4, 4, 3), L.ReLU(dtype="float64"), bn())
    folds_wholly(stack((4, 4, 3), inner, L.Flatten(dtype="float64"), dense()))


def test_a_norm_goes_through_several_models_within():
    innermost = stack((4,), bn(), L.ReLU(dtype="float64"))
    inner = stack((4,), innermost, dense())
    folds_wholly(stack((4,), dense(), inner))


def test_a_norm_that_begins_a_model_which_is_called_twice():
    inner = stack((4,), bn(name="bn"), L.ReLU(name="r", dtype="float64"))
    x = source()
    calls = [inner(dense(name=name)(x)) for name in "de"]
    inner.name = "inner"
    assert reason_of(graph(x, L.Add(dtype="float64")(calls))) == (
        "before it: d, e, outside of inner, which is called 2 times; "
        "after it: r (ReLU) is no layer that takes it in"
    )


def test_a_norm_that_ends_a_model_which_is_called_twice():
    inner = stack((4,), L.ReLU(name="r", dtype="float64"), bn(name="bn"))
    inner.name = "inner"
    x = source()
    calls = [dense(name=name)(inner(x)) for name in "de"]
    assert reason_of(graph(x, L.Add(dtype="float64")(calls))) == (
        "before it: r (ReLU) is no layer that takes it in; "
        "after it: its output is one of inner, which is called 2 times"
    )


def test_a_norm_in_a_model_of_several_inputs():
    a, b = source(), source()
    inner = keras.Model(
        [a, b], L.Add(dtype="float64", name="a")([bn(name="bn")(a), b]), name="inner"
    )
    x = source()
    model = graph(x, inner([dense(name="d")(x), x]))
    assert reason_of(model).startswith(
        "before it: d, the input, outside of inner, which has several inputs; "
    )


def test_what_a_model_within_gets_is_used_elsewhere_too():
    inner = stack((4,), bn(name="bn"), L.ReLU(name="r", dtype="float64"))
    x = source()
    h = dense(name="d")(x)
    assert reason_of(graph(x, L.Add(dtype="float64")([inner(h), h]))) == (
        "before it: d has an output that is used elsewhere too; "
        "after it: r (ReLU) is no layer that takes it in"
    )


def test_what_enters_a_model_within_is_used_there_twice():
    a = source()
    inner = keras.Model(a, L.Add(dtype="float64", name="a")([bn(name="bn")(a), a]))
    assert "d has an output that is used elsewhere" in reason_of(
        stack((4,), dense(name="d"), inner)
    )


def test_an_output_of_a_model_within_that_is_one_of_the_whole_too():
    a = source()
    h = dense(name="d")(a)
    inner = keras.Model(a, [bn(name="bn")(h), h])
    x = source()
    assert "d has an output that is used elsewhere" in reason_of(graph(x, inner(x)))


def test_what_is_left_comes_in_the_order_of_the_model():
    names = ["a", "b", "c"]
    model = stack(
        (4,),
        bn(name="a"),
        L.ReLU(dtype="float64"),
        OwnCall(name="b", dtype="float64"),
        L.ReLU(dtype="float64"),
        bn(name="c"),
    )
    assert list(folded(model)[1]) == names


def test_blocks_that_are_built_alike_have_one_reason_but_for_names():
    layers = [
        layer
        for block in range(3)
        for layer in (
            dense(activation="gelu", name=f"d{block}"),
            bn(name=f"bn{block}"),
            f64(L.Softmax, name=f"s{block}"),
        )
    ]
    plan = plan_of(stack((4,), *layers))
    assert plan.left["bn1"] == (
        "before it: d1 has the activation gelu; after it: s1 (Softmax) is no layer that takes it in"
    )
    assert set(plan.kinds) == set(plan.left) == {"bn0", "bn1", "bn2"}
    assert set(plan.kinds.values()) == {
        "before it: a Dense has the activation gelu; "
        "after it: a Softmax is no layer that takes it in"
    }


def test_a_model_without_batch_norm_is_copied():
    model = stack((4,), dense(), dense())
    new, left = folded(model)
    assert left == {}
    assert distance(model, new) == 0


IMAGE = (4, 5, 3)
IDENTITIES = {
    "dropout": (L.Dropout, 0.5),
    "spatial dropout 1d": (L.SpatialDropout1D, 0.5),
    "spatial dropout 2d": (L.SpatialDropout2D, 0.5),
    "spatial dropout 3d": (L.SpatialDropout3D, 0.5),
    "alpha dropout": (L.AlphaDropout, 0.5),
    "gaussian dropout": (L.GaussianDropout, 0.5),
    "gaussian noise": (L.GaussianNoise, 0.5),
    "activity regularization": (L.ActivityRegularization, 0.1),
    "linear activation": (L.Activation, "linear"),
    "identity": (L.Identity,),
}
RANKS = {"spatial dropout 1d": 3, "spatial dropout 2d": 4, "spatial dropout 3d": 5}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_norm_goes_before_a_layer_that_does_nothing_in_inference(name):
    shape = (2,) * (RANKS.get(name, 2) - 2) + (4,)
    between = f64(*IDENTITIES[name], name="between")
    new = folds_wholly(stack(shape, dense(), between, bn()))
    assert [type(layer) for layer in new.layers] == [L.Dense, type(between)]


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_norm_goes_past_a_layer_that_does_nothing_in_inference(name):
    shape = (2,) * (RANKS.get(name, 2) - 2) + (4,)
    between = f64(*IDENTITIES[name], name="between")
    new = folds_wholly(stack(shape, bn(), between, dense()))
    assert [type(layer) for layer in new.layers] == [type(between), L.Dense]


def test_several_such_layers_and_norms_between_are_looked_through():
    folds_wholly(
        stack(
            *((4,), dense(), f64(L.Dropout, 0.5), bn(), f64(L.Identity)),
            *(f64(L.GaussianNoise, 1.0), bn(), f64(L.Dropout, 0.2)),
        )
    )


class OwnDropout(L.Dropout):
    def call(self, inputs, training=False):
        return 2.0 * inputs


def odd_identity():
    layer = f64(L.Identity, name="own")
    layer.call = lambda inputs: 2.0 * inputs
    return layer


def test_a_subclass_of_such_a_layer_is_not_looked_through():
    model = stack((4,), dense(), f64(OwnDropout, 0.5, name="own"), bn())
    assert "before it: own (OwnDropout) is no layer that takes it in" in reason_of(model)


def test_a_call_put_in_place_of_that_of_such_a_layer_is_not_looked_through():
    model = stack((4,), dense(), odd_identity(), bn(name="bn"))
    assert "before it: own (Identity) is no layer that takes" in plan_of(model).left["bn"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_activation_that_is_not_linear_is_not_looked_through(place):
    layers = [dense(name="d"), f64(L.Activation, "relu", name="relu"), bn()]
    reason = reason_of(stack((4,), *(layers if place == "before" else reversed(layers))))
    assert f"{place} it: relu (Activation) is no layer that takes it in" in reason


def test_a_dropout_that_is_told_to_train_is_not_looked_through():
    x = source()
    drop = f64(L.Dropout, 0.5, name="drop")
    model = graph(x, bn(name="bn")(drop(dense()(x), training=True)))
    assert "before it: drop (Dropout) is no layer that takes it in" in folded(model)[1]["bn"]


def test_a_dropout_in_a_model_that_is_told_to_train_is_not_looked_through():
    x, z = source(), source()
    drop = f64(L.Dropout, 0.5, name="drop")
    inner = keras.Model(z, bn(name="bn", trainable=False)(drop(dense()(z))), name="inner")
    model = graph(x, inner(x, training=True))
    assert "before it: drop (Dropout) is no layer" in folded(model)[1]["inner/bn"]


def test_such_a_layer_that_changes_the_type_of_numbers_is_not_looked_through():
    between = f64(L.Identity, name="cast", dtype="float32")
    model = stack((4,), dense(), between, bn(name="bn"))
    assert "before it: cast (Identity) is no layer" in folded(model)[1]["bn"]


@pytest.mark.parametrize("used", ["before the dropout", "after the dropout"])
def test_an_output_that_is_used_beside_the_dropout(used):
    x = source()
    h = dense(name="d")(x)
    dropped = f64(L.Dropout, 0.5)(h)
    other = h if used == "before the dropout" else dropped
    reason = reason_of(graph(x, [bn()(dropped), f64(L.ReLU)(other)]))
    assert "before it: d has an output that is used elsewhere too" in reason


def test_an_output_that_is_used_beside_the_dropout_and_earlier():
    x = source()
    h = dense(name="d")(x)
    earlier = dense()(f64(L.ReLU)(dense()(f64(L.ReLU)(h))))
    reason = reason_of(graph(x, [earlier, bn()(f64(L.Dropout, 0.5)(h))]))
    assert "before it: d has an output that is used elsewhere too" in reason


@pytest.mark.parametrize("used", ["before the dropout", "after the dropout"])
def test_an_output_of_the_model_beside_the_dropout(used):
    x = source()
    h = dense(name="d")(x)
    dropped = f64(L.Dropout, 0.5)(h)
    reason = reason_of(graph(x, [bn()(dropped), h if used == "before the dropout" else dropped]))
    assert "before it: d has an output that is used elsewhere too" in reason


def test_an_output_of_the_model_behind_a_dropout():
    x = source()
    model = graph(x, f64(L.Dropout, 0.5)(bn()(x)))
    assert reason_of(model) == INPUT + "its output is one of the model's"


def test_two_users_behind_a_dropout():
    x = source()
    h = f64(L.Dropout, 0.5)(bn()(x))
    folds_wholly(graph(x, [dense()(h), dense()(h)]))


def test_a_dropout_that_is_called_twice_is_looked_through():
    drop, x = f64(L.Dropout, 0.5), source()
    h = bn()(drop(dense()(x)))
    folds_wholly(graph(x, bn()(dense()(f64(L.ReLU)(drop(h))))))


AVERAGES = {
    "1d": ((5, 3), L.GlobalAveragePooling1D),
    "2d": (IMAGE, L.GlobalAveragePooling2D),
    "3d": ((2, 4, 2, 3), L.GlobalAveragePooling3D),
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_norm_goes_past_a_global_average_into_the_layer_behind(name, keepdims):
    shape, kind = AVERAGES[name]
    average = f64(kind, keepdims=keepdims)
    new = folds_wholly(stack(shape, bn(), average, f64(L.Dropout, 0.5), dense()))
    assert [type(layer) for layer in new.layers] == [kind, L.Dropout, L.Dense]


def test_a_norm_goes_past_a_global_average_of_channels_first():
    average = f64(L.GlobalAveragePooling2D, data_format="channels_first")
    folds_wholly(stack(IMAGE, bn(axis=1), average, dense()))


def test_a_global_average_over_the_axis_of_the_norm_keeps_it():
    average = f64(L.GlobalAveragePooling2D, name="average")
    assert reason_of(stack(IMAGE, bn(axis=1), average, dense())) == (
        INPUT + "average joins or moves places that it scales differently"
    )


def test_a_global_average_whose_output_is_not_on_the_axis_of_the_layer_behind_keeps_the_norm():
    average = f64(L.GlobalAveragePooling2D, data_format="channels_first", keepdims=True)
    assert reason_of(stack(IMAGE, bn(axis=1), average, dense(name="d"))) == (
        INPUT + "d has its channels on axis 3, it on axis 1"
    )


def test_a_global_maximum_keeps_the_norm():
    maximum = f64(L.GlobalMaxPooling2D, name="maximum")
    assert "after it: maximum (GlobalMax" in reason_of(stack(IMAGE, bn(), maximum, dense()))


def test_a_norm_goes_past_an_average_into_several_layers():
    x = source(IMAGE)
    h = f64(L.GlobalAveragePooling2D)(bn()(x))
    folds_wholly(graph(x, [dense()(h), dense()(h)]))


def test_an_average_that_is_an_output_keeps_the_norm():
    x = source(IMAGE)
    h = f64(L.GlobalAveragePooling2D, name="average")(bn()(x))
    assert reason_of(graph(x, [h, dense()(h)])) == (
        INPUT + "average's output is one of the model's"
    )


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_norm_of_any_axis_goes_past_flattening_into_the_layer_behind(axis):
    new = folds_wholly(stack(IMAGE, bn(axis=axis), f64(L.Flatten), dense()))
    assert [type(layer) for layer in new.layers] == [L.Flatten, L.Dense]


def test_a_norm_goes_past_an_average_and_flattening():
    average = f64(L.GlobalAveragePooling2D, keepdims=True)
    folds_wholly(stack(IMAGE, bn(), average, f64(L.Flatten), dense()))


@pytest.mark.parametrize("axis", [1, 3])
def test_flattening_that_moves_channels_takes_the_norm_along(axis):
    flatten = f64(L.Flatten, data_format="channels_first")
    folds_wholly(stack(IMAGE, bn(axis=axis), flatten, dense()))


def test_flattening_that_changes_the_type_of_numbers_keeps_the_norm():
    flatten = L.Flatten(name="flat", dtype="float32")
    assert folded(stack(IMAGE, bn(name="bn"), flatten, dense()))[1] == {
        "bn": INPUT + "flat (Flatten) is no layer that takes it in"
    }


def test_a_layer_behind_flattening_takes_in_a_norm_from_both_sides():
    model = stack(IMAGE, bn(), f64(L.Flatten), dense(), bn())
    assert len(folds_wholly(model).layers) == 2
