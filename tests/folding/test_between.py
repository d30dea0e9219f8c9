"""Layers between a batch norm and the one that takes it in, on either side."""

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

L = keras.layers
IMAGE = (8, 9, 3)
INPUT = "before it: nothing but the input; after it: "


def conv(units=4, size=2, **settings):
    return f64(L.Conv2D, units, size, **settings)


def relu():
    return f64(L.ReLU)


# What maps each channel of an image to itself.
BETWEEN = {
    "average": lambda: f64(L.AveragePooling2D, 2, strides=1),
    "average with a border": lambda: f64(L.AveragePooling2D, (2, 3), strides=2, padding="same"),
    "global average": lambda: f64(L.GlobalAveragePooling2D, keepdims=True),
    "enlarged by repetition": lambda: f64(L.UpSampling2D, 2),
    "cropped": lambda: f64(L.Cropping2D, ((1, 0), (1, 1))),
    "turned": lambda: f64(L.Permute, (2, 1, 3)),
    "rows joined": lambda: f64(L.Reshape, (1, -1, 4)),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_a_norm_is_merged_across_what_maps_each_channel_to_itself(name):
    between = BETWEEN[name]
    layers = [conv(), between(), bn(), relu(), bn(), between(), conv(3, 1)]
    assert len(folds_wholly(stack(IMAGE, *layers)).layers) == len(layers) - 2


def test_across_a_bilinear_enlargement():
    up = f64(L.UpSampling2D, (2, 3), interpolation="bilinear")
    model = stack(IMAGE, conv(), up, bn())
    new, left = folded(model)
    assert (norms_left(new), left) == ([], {})
    # TensorFlow interpolates in float32 whatever it gets.
    assert distance(model, new) < 1e-6


RANKS = {
    "1d": ((9, 3), L.Conv1D, [L.AveragePooling1D, L.UpSampling1D, L.Cropping1D]),
    "3d": ((5, 5, 6, 2), L.Conv3D, [L.UpSampling3D, L.Cropping3D]),
}


@pytest.mark.parametrize("rank", RANKS)
def test_across_those_of_other_ranks(rank):
    shape, kind, between = RANKS[rank]
    layers = [f64(one, 1 if "Cropping" in one.__name__ else 2) for one in between]
    folds_wholly(stack(shape, f64(kind, 3, 2), *layers, bn(), relu(), bn(), f64(kind, 2, 1)))


def test_across_an_average_over_volumes():
    # TensorFlow has it for processors in float32 alone.
    layers = [L.Conv3D(3, 2), L.AveragePooling3D(2, padding="same"), L.BatchNormalization()]
    model = settled(keras.Sequential([L.Input((4, 5, 6, 2)), *layers]))
    new, left = folded(model)
    assert (norms_left(new), left) == ([], {})
    assert distance(model, new) < 1e-5


def test_in_channels_first_too():
    # Only the plan: TensorFlow has no such kernels for processors.
    settings = {"data_format": "channels_first"}
    between = [
        f64(L.Cropping2D, 1, **settings),
        f64(L.UpSampling2D, 2, **settings),
        f64(L.AveragePooling2D, 2, **settings),
        f64(L.ZeroPadding2D, 1, **settings),
    ]
    model = stack((3, 8, 8), conv(**settings), *between, bn(axis=1, center=False, name="bn"))
    model.get_layer("bn").moving_mean.assign(np.zeros(4))
    assert folded(model)[1] == {}
    other = stack((3, 8, 8), conv(**settings), *between[:3], bn(axis=2, name="bn"))
    assert "joins or moves places that it scales differently" in folded(other)[1]["bn"]


def test_numbers_of_a_dense_layer_that_become_an_image():
    generator = [dense(4 * 4 * 3), f64(L.Reshape, (4, 4, 3)), bn(), relu()]
    folds_wholly(stack((5,), *generator))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_an_image_that_becomes_the_numbers_of_a_dense_layer(axis):
    layers = [bn(axis=axis), f64(L.Permute, (3, 1, 2)), f64(L.Reshape, (-1,)), dense()]
    folds_wholly(stack((3, 4, 5), *layers))


def test_numbers_of_a_dense_layer_whose_axes_go_round():
    layers = [dense(4), f64(L.Permute, (3, 1, 2)), bn(axis=1)]
    folds_wholly(stack((2, 3, 5), *layers))


def test_a_norm_behind_flattening_stays_where_each_place_has_its_own():
    layers = [conv(name="c"), f64(L.Flatten), bn(name="bn")]
    assert reason_of(stack((4, 4, 2), *layers)).startswith(
        "before it: c has the same weights at each place, which it has not; "
    )


def test_an_open_size_hinders_where_its_numbers_change_their_places():
    x = source((None, 4))
    model = graph(x, bn()(f64(L.Reshape, (-1, 2), name="pairs")(dense(name="d")(x))))
    _, left = folded(model)
    (reason,) = left.values()
    assert "before it: pairs gives another shape to sizes that are left open; " in reason
    model = graph(x, bn()(f64(L.Reshape, (-1, 1, 4))(dense()(x))))
    folds_wholly(model, [np.random.default_rng(0).normal(size=(2, 3, 4))])


@pytest.mark.parametrize("place", ["before", "after"])
def test_zeros_around_an_image_know_no_offset(place):
    layers = [conv(), f64(L.ZeroPadding2D, 1, name="zeros"), bn()]
    if place == "after":
        layers = [relu(), layers[2], layers[1], layers[0]]
    model = stack(IMAGE, *layers)
    assert f"{place} it: zeros pads with zeros, which know no offset" in reason_of(model)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_scale_alone_goes_past_zeros_around_an_image(place):
    norm = bn(center=False)
    layers = [conv(), f64(L.ZeroPadding2D, 1), norm]
    if place == "after":
        layers = [relu(), norm, f64(L.ZeroPadding2D, 1), conv()]
    model = stack(IMAGE, *layers)
    norm.moving_mean.assign(np.zeros(norm.moving_mean.shape))
    folds_wholly(model)


def test_an_interpolation_by_weights_that_need_not_sum_to_1_keeps_the_norm():
    cubic = f64(L.UpSampling2D, 2, interpolation="bicubic", name="up")
    assert "before it: up (UpSampling2D) is no layer that takes it in" in reason_of(
        stack(IMAGE, conv(), cubic, bn())
    )


@pytest.mark.parametrize("used", ["what it gets", "what it gives"])
def test_what_stands_between_and_is_used_elsewhere_keeps_the_norm(used):
    x = source(IMAGE)
    h = conv(name="c")(x)
    pooled = f64(L.AveragePooling2D, 2, name="pool")(h)
    other, name = (h, "c") if used == "what it gets" else (pooled, "pool")
    model = graph(x, [bn()(pooled), relu()(other)])
    assert f"before it: {name} has an output that is used elsewhere too; " in reason_of(model)


def test_what_stands_between_may_be_called_elsewhere():
    x, pool = source(IMAGE), f64(L.AveragePooling2D, 2)
    folds_wholly(graph(x, [bn()(pool(conv()(x))), pool(relu()(x))]))


def test_a_norm_goes_past_several_layers_into_several_others():
    x = source(IMAGE)
    h = f64(L.Cropping2D, 1)(bn()(relu()(x)))
    ends = [conv()(h), dense()(f64(L.Flatten)(h)), dense()(f64(L.GlobalAveragePooling2D)(h))]
    folds_wholly(graph(x, [*ends, conv(2, 3)(f64(L.UpSampling2D)(h))]))


@pytest.mark.parametrize("order", ["behind", "before"])
def test_a_pair_that_is_shared_by_several_calls(order):
    layer, norm, x, y = conv(3, 1), bn(), source(IMAGE), source((4, 4, 3))
    pair = [layer, norm] if order == "behind" else [norm, layer]

    def both(tensor):
        return pair[1](f64(L.Dropout, 0.5)(pair[0](tensor)))

    new = folds_wholly(graph([x, y], [both(relu()(both(x))), both(y)]))
    assert sum(type(one) is L.Conv2D for one in new.layers) == 1


def test_a_pair_that_is_shared_but_for_one_call_of_the_layer():
    layer, norm, x = dense(name="d"), bn(), source()
    outputs = [norm(layer(x)), norm(layer(relu()(x))), layer(f64(L.Softmax)(x))]
    assert "before it: d is called 3 times; " in reason_of(graph(x, outputs))


def test_calls_of_one_layer_that_would_need_other_weights_each():
    shared, norm, x = dense(6, name="d"), bn(), source()
    one = norm(f64(L.Reshape, (2, 3))(shared(x)))
    other = norm(f64(L.Permute, (2, 1))(f64(L.Reshape, (3, 2))(shared(relu()(x)))))
    model = graph(x, [one, other])
    assert "before it: d would need other weights in each of its calls; " in reason_of(model)


def test_outputs_of_a_folded_model_with_all_of_it_are_those_of_its_file(tmp_path):
    x = source(IMAGE)
    h = f64(L.AveragePooling2D, 2)(bn()(relu()(x)))
    model = graph(x, [conv(name="a")(h), conv(5, name="b", use_bias=False)(h)])
    new, _ = folded(model)
    new.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    assert distance(new, loaded) == 0
    assert distance(model, loaded) < EXACT
    assert [weight.path for weight in loaded.weights] == [
        *("a/kernel", "a/bias", "b/kernel", "b/bias")
    ]
