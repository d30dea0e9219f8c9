"""Every kind of layer takes in a batch norm after it, and one before it where that is exact."""

import keras
import numpy as np
import pytest
from fold_models import EXACT, bn, distance, folded, norms_left, settled, stack

from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.models.linear import KINDS, affine_of

L = keras.layers
LINE, IMAGE, VOLUME = (9, 4), (9, 8, 4), (5, 6, 5, 4)

# name: (input shape, layer, its arguments)
LAYERS = {
    "dense": ((4,), L.Dense, {"units": 6}),
    "dense on a sequence": (LINE, L.Dense, {"units": 6}),
    "conv1d": (LINE, L.Conv1D, {"filters": 6, "kernel_size": 3}),
    "conv1d strided": (LINE, L.Conv1D, {"filters": 6, "kernel_size": 3, "strides": 2}),
    "conv1d dilated": (LINE, L.Conv1D, {"filters": 6, "kernel_size": 3, "dilation_rate": 2}),
    "conv2d": (IMAGE, L.Conv2D, {"filters": 6, "kernel_size": (3, 2), "strides": (1, 2)}),
    "conv2d in groups": (IMAGE, L.Conv2D, {"filters": 6, "kernel_size": 3, "groups": 2}),
    "conv3d": (VOLUME, L.Conv3D, {"filters": 6, "kernel_size": 2}),
    "depthwise1d": (LINE, L.DepthwiseConv1D, {"kernel_size": 3, "depth_multiplier": 2}),
    "depthwise2d": (IMAGE, L.DepthwiseConv2D, {"kernel_size": (2, 3), "depth_multiplier": 3}),
    "depthwise2d dilated": (IMAGE, L.DepthwiseConv2D, {"kernel_size": 2, "dilation_rate": 2}),
    "separable1d": (LINE, L.SeparableConv1D, {"filters": 6, "kernel_size": 3}),
    "separable2d": (
        IMAGE,
        L.SeparableConv2D,
        {"filters": 6, "kernel_size": 3, "depth_multiplier": 2, "strides": 2},
    ),
    "transposed1d": (LINE, L.Conv1DTranspose, {"filters": 6, "kernel_size": 3, "strides": 2}),
    "transposed2d": (IMAGE, L.Conv2DTranspose, {"filters": 6, "kernel_size": 3, "strides": 2}),
    "transposed3d": (VOLUME, L.Conv3DTranspose, {"filters": 6, "kernel_size": 2}),
}
TRANSPOSED = (L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose)


def made(name, **settings):
    shape, kind, arguments = LAYERS[name]
    return shape, kind(**arguments, **{"dtype": "float64", "name": "layer"} | settings)


def test_every_kind_is_tried():
    assert {kind for _, kind, _ in LAYERS.values()} == set(KINDS)


@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_in_the_norm_after_it(name, use_bias):
    shape, layer = made(name, use_bias=use_bias)
    model = stack(shape, layer, bn())
    new, left = folded(model)
    assert (norms_left(new), left) == ([], {})
    assert distance(model, new) < EXACT


@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "name", [name for name, (_, kind, _) in LAYERS.items() if kind not in TRANSPOSED]
)
def test_a_layer_takes_in_the_norm_before_it(name, use_bias):
    shape, layer = made(name, use_bias=use_bias)
    model = stack(shape, bn(), layer)
    new, left = folded(model)
    assert (norms_left(new), left) == ([], {})
    assert distance(model, new) < EXACT


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("conv1d", "causal"),
        ("conv2d", "same"),
        ("depthwise2d", "same"),
        ("separable2d", "same"),
        ("transposed2d", "same"),
    ],
)
def test_padding_does_not_hinder_the_norm_after_a_layer(name, padding):
    shape, layer = made(name, padding=padding)
    model = stack(shape, layer, bn())
    new, left = folded(model)
    assert left == {}
    assert distance(model, new) < EXACT


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("conv1d", "same"),
        ("conv1d", "causal"),
        ("conv2d", "same"),
        ("depthwise2d", "same"),
        ("separable2d", "same"),
    ],
)
def test_padding_hinders_the_norm_before_a_layer(name, padding):
    shape, layer = made(name, padding=padding)
    model = stack(shape, bn(name="bn"), layer)
    new, left = folded(model)
    assert left == {
        "bn": "before it: nothing but the input; after it: layer pads its input with zeros "
        f"(padding={padding!r}), which know no offset"
    }
    assert distance(model, new) == 0


@pytest.mark.parametrize("name", ["transposed1d", "transposed2d", "transposed3d"])
def test_a_transposed_convolution_does_not_take_in_the_norm_before_it(name):
    shape, layer = made(name)
    _, left = folded(stack(shape, bn(name="bn"), layer))
    assert left == {
        "bn": "before it: nothing but the input; after it: layer spreads its input over places "
        "that overlap unevenly"
    }


@pytest.mark.parametrize(
    ("layer", "merged"),
    [
        (L.Conv2D(3, 1, padding="same", strides=2, dtype="float64"), True),
        (L.DepthwiseConv2D(1, padding="same", dtype="float64"), True),
        (L.Conv2DTranspose(3, 1, dtype="float64"), True),
        (L.Conv2DTranspose(3, 1, strides=2, dtype="float64"), False),
        (L.Conv2DTranspose(3, 2, dtype="float64"), False),
    ],
    ids=["conv", "depthwise", "transposed", "transposed strided", "transposed of two places"],
)
def test_a_kernel_of_one_place_meets_no_padding(layer, merged):
    model = stack(IMAGE, bn(), layer)
    new, left = folded(model)
    assert (not left) == merged
    assert distance(model, new) < EXACT


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(3, 3, padding="same", use_bias=False, dtype="float64"),
        L.Conv2DTranspose(3, 3, strides=2, use_bias=False, dtype="float64"),
    ],
    ids=["conv", "transposed"],
)
def test_a_norm_without_an_offset_goes_into_any_layer_after_it(layer):
    norm = bn(center=False)
    model = stack(IMAGE, norm, layer)
    norm.moving_mean.assign(np.zeros(4))
    new, left = folded(model)
    assert left == {}
    assert distance(model, new) < EXACT
    assert not new.layers[0].use_bias


@pytest.mark.parametrize("center", [True, False], ids=["center", "no center"])
@pytest.mark.parametrize("scale", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize("ours", [False, True], ids=["keras", "ours"])
def test_a_norm_goes_with_and_without_gamma_and_beta(ours, scale, center):
    kind = BatchNormalization if ours else L.BatchNormalization
    norms = [kind(scale=scale, center=center, epsilon=0.1, dtype="float64") for _ in range(2)]
    dense = [L.Dense(5, dtype="float64") for _ in range(2)]
    model = stack((4,), norms[0], dense[0], L.ReLU(dtype="float64"), dense[1], norms[1])
    new, left = folded(model)
    assert (left, len(new.layers)) == ({}, 3)
    assert distance(model, new) < EXACT


def test_channels_first_kernels_are_those_of_channels_last():
    last, first = (
        settled(
            keras.Sequential(
                [
                    L.Input((4, 9, 8) if axis == 1 else (9, 8, 4)),
                    L.Conv2D(6, 3, data_format=layout),
                    L.BatchNormalization(axis=axis),
                    L.ReLU(),
                    L.BatchNormalization(axis=axis),
                    L.SeparableConv2D(5, 2, data_format=layout),
                ]
            )
        )
        for layout, axis in (("channels_last", 3), ("channels_first", 1))
    )
    first.set_weights(last.get_weights())
    (new_last, _), (new_first, left) = folded(last), folded(first)
    assert left == {}
    assert new_first.layers[0].data_format == "channels_first"
    assert [weight.shape for weight in new_first.weights] == [
        *((3, 3, 4, 6), (6,)),
        *((2, 2, 6, 1), (1, 1, 6, 5), (5,)),
    ]
    for ours, theirs in zip(new_first.get_weights(), new_last.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_renorm_is_folded_by_the_statistics_that_inference_uses():
    model = stack((4,), L.Dense(5, dtype="float64"), bn(renorm=True))
    new, left = folded(model)
    assert left == {}
    assert distance(model, new) < EXACT


def test_scale_and_offset_are_those_of_the_paper():
    mean, variance, gamma, beta = np.array([[2.0, -1.0], [3.0, 8.0], [4.0, 0.5], [1.0, 0.0]])
    affine = affine_of(mean, variance, gamma, beta, epsilon=1.0)
    x = np.array([[5.0, 7.0]])
    expected = gamma * (x - mean) / np.sqrt(variance + 1.0) + beta
    np.testing.assert_allclose(x * affine.scale + affine.offset, expected, rtol=1e-15)


def test_weights_are_rounded_once():
    rng = np.random.default_rng(3)
    model = settled(keras.Sequential([L.Input((50,)), L.Dense(40), L.BatchNormalization()]))
    dense, norm = model.layers
    dense.kernel.assign(rng.normal(size=(50, 40)))
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in norm.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    kernel, bias = (weight.astype(np.float64) for weight in dense.get_weights())
    new, _ = folded(model)
    np.testing.assert_array_equal(new.layers[0].kernel, (kernel * scale).astype(np.float32))
    np.testing.assert_array_equal(
        new.layers[0].bias, (bias * scale + (beta - mean * scale)).astype(np.float32)
    )
