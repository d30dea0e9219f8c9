"""Whatever stands beside a batch norm: it is folded exactly, or left with the right reason.

Outputs are compared in channels_last alone. On processors, TensorFlow's kernels for channels_first
are missing, or compute another thing than they should (`SeparableConv1D` and `Conv3D` with
strides); there, the new weights are those of the fold in channels_last.
"""

import itertools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from fold_models import EXACT, bn, folded, graph, norms_left, settled, source

from batchnorm_mechanics._keras import layers_in, own_variables

L = keras.layers

KINDS = [
    L.Dense,
    *(L.Conv1D, L.Conv2D, L.Conv3D),
    *(L.DepthwiseConv1D, L.DepthwiseConv2D),
    *(L.SeparableConv1D, L.SeparableConv2D),
    *(L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose),
]
# By whether an activation, or what stands for one, changes nothing.
ACTIVATIONS = {
    "none": (lambda: None, True),
    "linear": (lambda: "linear", True),
    "linear layer": (lambda: L.Activation("linear", dtype="float64"), True),
    "identity": (lambda: L.Identity(dtype="float64"), True),
    "tanh": (lambda: "tanh", False),
    "tanh layer": (lambda: L.Activation("tanh", dtype="float64"), False),
    "ReLU(6)": (lambda: L.ReLU(6.0, dtype="float64"), False),
    "LeakyReLU": (lambda: L.LeakyReLU(dtype="float64"), False),
    "PReLU": (lambda: L.PReLU(dtype="float64"), False),
    "lambda": (lambda: lambda x: x * x, False),
}
STEPS = [{"strides": 1}, {"strides": 2}, {"dilation_rate": 2}]
PADDINGS = ["valid", "same"]
LAYOUTS = ["channels_last", "channels_first"]
PLACES = ["before", "after"]
NESTINGS = ["flat", "sequential", "functional", "layer within", "twice"]
MODELS_A_LAYOUT = 4


def made(kind, activation, steps, padding, layout):
    """Return a layer, the shape of its input without samples, and its axis of channels."""
    # A separable kernel begins with numbers of chance.
    keras.utils.set_random_seed(0)
    settings = {"activation": ACTIVATIONS[activation][0](), "dtype": "float64", "name": "layer"}
    if kind is L.Dense:
        return kind(3, **settings), (4,), -1
    rank = int(kind.__name__.removesuffix("Transpose")[-2])
    settings |= {"padding": padding, "data_format": layout, **steps}
    places = (7,) * rank
    shape = (4, *places) if layout == "channels_first" else (*places, 4)
    axis = 1 if layout == "channels_first" else -1
    if "Depthwise" in kind.__name__:
        return kind(2, depth_multiplier=2, **settings), shape, axis
    return kind(3, 2, **settings), shape, axis


def within(shape, layer, nesting):
    x = source(shape)
    if nesting == "sequential":
        return keras.Sequential([x, layer], name="inner")
    return keras.Model(x, layer(x), name="inner")


def model_of(layer, shape, axis, place, nesting):
    """Return a model of a batch norm and a layer, of which one may be in a model of its own."""
    norm = bn(name="bn", axis=axis)
    pair = [norm, layer] if place == "before" else [layer, norm]
    x = source(shape)
    if nesting == "flat":
        return graph(x, pair[1](pair[0](x)))
    inner_one = layer if nesting == "layer within" else norm
    inner_shape = shape if inner_one is pair[0] else tuple(pair[0](x).shape[1:])
    inner = within(inner_shape, inner_one, nesting)
    calls = [inner if one is inner_one else one for one in pair]
    outputs = calls[1](calls[0](x))
    if nesting == "twice":
        again = inner(source(inner_shape)) if inner_one is pair[1] else inner(x)
        outputs = [outputs, again] if inner_one is pair[0] else [outputs, inner(calls[0](x))]
    return graph(x, outputs)


def weights_of(model):
    """Return the kernels and the bias of the layer, wherever in a model it is."""
    (layer,) = {id(one): one for one in layers_in(model) if one.name == "layer"}.values()
    return [np.asarray(variable) for variable in own_variables(layer)]


def apart(model, other):
    """Return how far the outputs of two models are apart, relative to the largest."""
    x = np.random.default_rng(1).normal(1, 2, (3, *model.input_shape[1:]))
    outputs = [
        np.concatenate([np.ravel(part) for part in keras.tree.flatten(one(x, training=False))])
        for one in (model, other)
    ]
    # Of chance, a ReLU can give zeros alone.
    return np.max(np.abs(outputs[0] - outputs[1])) / (np.max(np.abs(outputs[0])) or 1.0)


def runs(model):
    """Whether this machine has kernels for it: dilated transposed ones may be missing."""
    try:
        model(np.zeros((1, *model.input_shape[1:])), training=False)
    except (ValueError, tf.errors.OpError):
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_beside_a_layer_is_folded_exactly_or_left_with_the_right_reason(kind):
    chance = random.Random(kind.__name__)
    choices = [
        choice
        for layout in LAYOUTS
        for choice in chance.sample(
            [*itertools.product(ACTIVATIONS, STEPS, PADDINGS, [layout], PLACES, NESTINGS)],
            MODELS_A_LAYOUT,
        )
    ]
    compared = 0
    for chosen in choices:
        activation, steps, padding, layout, place, nesting = chosen
        layer, shape, axis = made(kind, activation, steps, padding, layout)
        try:
            model = model_of(layer, shape, axis, place, nesting)
        except (ValueError, NotImplementedError):
            continue  # Keras itself has no such layer.
        new, left = folded(model)
        reason = " ".join(left.values())
        is_linear = ACTIVATIONS[activation][1]
        if place == "after":
            expected = is_linear and nesting != "twice"
            because = "called 2 times" if nesting == "twice" else "layer has the activation"
        else:
            pads = kind is not L.Dense and (padding == "same" or "Transpose" in kind.__name__)
            expected = not pads and nesting != "twice"
            because = "called 2 times" if nesting == "twice" else ("pads its", "spreads its")
        assert (norms_left(new) == []) == expected, (chosen, reason)
        assert expected or any(word in reason for word in np.atleast_1d(because)), (chosen, reason)
        if layout == "channels_first":
            parts = made(kind, activation, steps, padding, "channels_last")
            twin, _ = folded(model_of(*parts, place, nesting))
            for ours, theirs in zip(weights_of(new), weights_of(twin), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        elif runs(model):
            assert apart(model, new) < EXACT, chosen
            compared += 1
    assert compared


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("place", PLACES)
def test_a_quantized_layer_takes_no_norm_in_and_says_what_to_do(mode, place):
    layer = L.Dense(4, name="layer")
    pair = [L.BatchNormalization(name="bn"), layer]
    layers = pair if place == "before" else pair[::-1]
    model = settled(keras.Sequential([L.Input((4,)), *layers]))
    layer.quantize(mode)
    new, left = folded(model)
    assert f"layer is quantized ({mode}): fold before you quantize" in left["bn"]
    assert apart(model, new) < 1e-6
