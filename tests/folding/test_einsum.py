"""Batch norm beside `EinsumDense`, and within and beside `TimeDistributed`."""

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
    reason_of,
    settled,
    source,
    stack,
)

L = keras.layers
INPUT = "before it: nothing but the input; after it: "


def einsum(equation, output, bias=None, **settings):
    return f64(L.EinsumDense, equation, output, bias_axes=bias, **settings)


# Equation, output and axes of the bias, for an input of shape (3, 4); then the axes of the input on
# which a norm can lie, and those of the output.
EQUATIONS = {
    "the last axis": (("abc,cd->abd", (3, 5), "d"), [2], [2]),
    "without a bias": (("abc,cd->abd", (3, 5), None), [2], [2]),
    "an ellipsis before": (("...x,xy->...y", 5, "y"), [2], [2]),
    "an ellipsis behind": (("ab...,bc->ac...", (5,), "c"), [1], [1]),
    "two axes joined": (("abc,bcd->ad", (5,), None), [1, 2], [1]),
    "one axis in two": (("abc,cde->abde", (3, 2, 5), "de"), [2], [2, 3]),
    "one axis in two, a bias on one": (("abc,cde->abde", (3, 2, 5), "e"), [2], [2, 3]),
    "a kernel for each step": (("abc,bcd->abd", (3, 5), "d"), [1, 2], [1, 2]),
    "in another order": (("abc,dc->adb", (5, 3), "d"), [2], [1]),
    "factors": (("abc,c->abc", (3, 4), "c"), [2], [2]),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_norm_goes_into_an_equation_on_each_axis_that_its_kernel_has(name):
    equation, before, behind = EQUATIONS[name]
    for axis in before:
        model = stack((3, 4), bn(axis=axis), einsum(*equation))
        assert len(folds_wholly(model).layers) == 1
    for axis in behind:
        folds_wholly(stack((3, 4), einsum(*equation), bn(axis=axis)))


def test_a_norm_on_both_sides_of_an_equation():
    layer = einsum("abc,cde->abde", (3, 2, 5), "d")
    new = folds_wholly(stack((3, 4), bn(), layer, bn(axis=2), bn(axis=3)))
    assert new.layers[0].bias_axes == "de"
    assert new.layers[0].bias.shape == (2, 5)


def test_norms_on_several_axes_beyond_reshaping():
    layers = [f64(L.Reshape, (12,)), einsum("ab,bc->ac", (6,)), f64(L.Reshape, (2, 3)), bn(axis=1)]
    folds_wholly(stack((3, 4), bn(axis=1), bn(axis=2), *layers))


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_axis_that_the_kernel_has_not(place):
    layers = [bn(axis=1), einsum("abc,cd->abd", (3, 5), name="e")]
    model = stack((3, 4), *(layers if place == "after" else reversed(layers)))
    assert f"{place} it: e has no weights along the axis of its channels" in reason_of(model)


def test_an_axis_of_an_ellipsis():
    model = stack((3, 4), bn(axis=1), einsum("...x,xy->...y", 5, name="e"))
    assert reason_of(model) == INPUT + "e has no weights along the axis of its channels"


def test_an_equation_that_sums_over_an_axis_which_its_kernel_has_not():
    model = stack((3, 4), bn(), einsum("abc,cd->ad", (5,), name="e"))
    assert reason_of(model) == INPUT + "e sums over an axis that its kernel has not"


def test_an_activation_in_an_equation():
    layer = einsum("ab,bc->ac", 5, activation="tanh", name="e")
    assert "before it: e has the activation tanh" in reason_of(stack((4,), layer, bn()))


def test_an_equation_that_is_quantized():
    layer = L.EinsumDense("ab,bc->ac", 4, name="e")
    model = settled(keras.Sequential([L.Input((4,)), layer, L.BatchNormalization(name="bn")]))
    layer.quantize("int8")
    assert "before it: e is quantized (int8): fold before you quantize" in folded(model)[1]["bn"]


def steps(layer, **settings):
    return f64(L.TimeDistributed, layer, **settings)


def conv(**settings):
    return f64(L.Conv2D, 4, 2, **settings)


VIDEO = (3, 5, 6, 2)
# By what is called for each step: the layers around it, and how many remain.
BY_STEPS = {
    "both": ([steps(conv()), steps(bn())], 1),
    "the layer": ([steps(conv()), bn()], 1),
    "without a bias": ([steps(conv(use_bias=False)), bn()], 1),
    "a norm on another axis": ([bn(axis=2), steps(f64(L.Permute, (2, 3, 1))), steps(dense(3))], 2),
    "the norm": ([f64(L.Conv3D, 4, (1, 2, 2)), steps(bn())], 1),
    "the norm before": ([steps(bn()), f64(L.Conv3D, 4, 2)], 1),
    "both sides": ([steps(bn()), steps(conv()), steps(bn(axis=-1))], 1),
    "what is between": (
        [
            steps(conv()),
            steps(f64(L.Dropout, 0.5)),
            steps(f64(L.AveragePooling2D, 2)),
            steps(bn()),
            steps(f64(L.Activation, "tanh")),
            bn(),
            steps(f64(L.Flatten)),
            steps(dense()),
        ],
        6,
    ),
    "an equation": ([steps(einsum("abcd,de->abce", (5, 6, 3))), bn()], 1),
    "depthwise": ([steps(f64(L.DepthwiseConv2D, 2, depth_multiplier=2)), bn()], 1),
}


@pytest.mark.parametrize("name", BY_STEPS)
def test_layers_that_are_called_for_each_step_are_folded(name):
    layers, remain = BY_STEPS[name]
    new = folds_wholly(stack(VIDEO, *layers))
    assert len(new.layers) == remain


def test_a_folded_layer_of_steps_keeps_its_names_flags_and_file(tmp_path):
    inner = conv(name="conv", use_bias=False, kernel_regularizer="l2")
    model = stack(VIDEO, steps(inner, name="each"), steps(bn()))
    inner.trainable = False
    new = folds_wholly(model)
    (each,) = new.layers
    assert (each.name, each.layer.name, each.layer.use_bias) == ("each", "conv", True)
    assert each.layer.kernel_regularizer is None
    assert not each.layer.trainable
    new.save(tmp_path / "folded.keras")
    assert distance(new, keras.saving.load_model(tmp_path / "folded.keras")) == 0


def test_an_activation_with_weights_is_kept_in_steps():
    activation = f64(L.PReLU)
    activation.build((None, 3))
    model = stack((3, 4), steps(bn()), steps(dense(3, activation=activation, use_bias=False)))
    activation.alpha.assign([0.5, -0.5, 2.0])
    folds_wholly(model)


def test_masked_steps():
    x = source((5, 4))
    h = steps(bn())(steps(dense())(f64(L.Masking)(x)))
    model = graph(x, f64(L.LSTM, 3)(h))
    data = np.random.default_rng(0).normal(size=(3, 5, 4))
    data[:, 3:] = 0.0
    folds_wholly(model, [data])


def test_a_number_of_steps_that_is_open():
    x = source((None, 4))
    model = graph(x, steps(bn())(steps(dense())(x)))
    folds_wholly(model, [np.random.default_rng(0).normal(size=(2, 6, 4))])


def test_an_axis_of_steps():
    assert "before it: each does the same at each step, which it does not; " in reason_of(
        stack((3, 4), steps(dense(), name="each"), bn(axis=1))
    )


def test_a_layer_that_is_called_for_each_step_and_elsewhere():
    x, shared = source((3, 4)), dense()
    model = graph(x, [bn(name="bn")(steps(shared, name="each")(x)), shared(x)])
    assert "before it: each shares its weights with another layer; " in reason_of(model)


def test_a_layer_that_is_called_elsewhere_for_each_step():
    x, shared = source((3, 4)), dense(name="d")
    model = graph(x, [bn(name="bn")(shared(x)), steps(shared)(x)])
    assert "before it: d shares its weights with another layer; " in reason_of(model)


def test_a_norm_that_is_called_for_each_step_and_elsewhere():
    x, shared = source((3, 4)), bn(name="bn")
    model = graph(x, [shared(dense()(x)), steps(shared, name="each")(x)])
    new, left = folded(model)
    assert left == {"bn": "it is called by Python code of each too, which cannot be rewritten"}
    assert distance(model, new) < EXACT


def test_a_flag_for_training_that_reaches_the_steps():
    x = source((3, 4))
    model = graph(x, steps(bn(name="bn"), name="each")(dense()(x), training=True))
    assert list(folded(model)[1].values()) == [
        "training=True is baked into its call, so it normalizes by the batch"
    ]
