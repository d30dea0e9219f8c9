"""Keras's own arguments and inputs, through Keras's layer and through ours."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import batchnorm_mechanics as bnm

BN = keras.layers.BatchNormalization
RNG = np.random.default_rng(7)

ARGUMENTS = [
    {},
    {"axis": 1},
    {"axis": np.int64(-1), "momentum": np.float32(0.5), "epsilon": np.float64(1e-5)},
    {"momentum": 0},
    {"momentum": 1},
    {"epsilon": 1},
    {"center": False},
    {"scale": False, "center": False},
    {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.9, "synchronized": False},
    {"synchronized": True},
    {"beta_initializer": "ones", "gamma_initializer": keras.initializers.Constant(2.0)},
    {"moving_mean_initializer": "ones", "moving_variance_initializer": "zeros"},
    {"gamma_constraint": "non_neg", "beta_regularizer": "l2"},
    {"name": "a name", "trainable": False},
    {"dtype": "float64"},
    {"dtype": "mixed_float16"},
    {"dtype": keras.DTypePolicy("mixed_bfloat16")},
    {"autocast": False},
]
INPUTS = {
    "float32": RNG.normal(2, 3, (12, 4)).astype("float32"),
    "float64": RNG.normal(2, 3, (12, 4)),
    "float16": RNG.normal(2, 3, (12, 4)).astype("float16"),
    "int8": RNG.integers(-9, 9, (12, 4)).astype("int8"),
    "uint8": RNG.integers(0, 255, (12, 4)).astype("uint8"),
    "int64": RNG.integers(-9, 9, (12, 4)),
    "bool": RNG.random((12, 4)) > 0.5,
    "tensor": tf.constant(RNG.normal(2, 3, (12, 4)).astype("float32")),
    "variable": tf.Variable(RNG.normal(2, 3, (12, 4)).astype("float32")),
    "3-D": RNG.normal(2, 3, (5, 4, 4)).astype("float32"),
    "6-D": RNG.normal(2, 3, (2, 4, 2, 1, 3, 4)).astype("float32"),
    "one sample": RNG.normal(2, 3, (1, 4)).astype("float32"),
}


def after_two_steps(kind, arguments, x, *, mask=None):
    """Output in training and inference, statistics, weights' names, shapes and what is trained."""
    layer = kind(**arguments)
    trained = layer(x, training=True, **({} if mask is None else {"mask": mask}))
    inferred = layer(x)
    weights = [(w.name, tuple(w.shape), w.trainable) for w in layer.weights]
    return layer, trained, inferred, weights


def assert_alike(ours, theirs, tolerance):
    (layer, *outputs, weights), (their_layer, *their_outputs, their_weights) = ours, theirs
    assert weights == their_weights
    for output, expected in zip(outputs, their_outputs, strict=True):
        assert output.dtype == expected.dtype
        np.testing.assert_allclose(
            tf.cast(output, "float64"), tf.cast(expected, "float64"), rtol=tolerance, atol=tolerance
        )
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(
            getattr(layer, name), getattr(their_layer, name), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda one: ",".join(one) or "none")
def test_keras_arguments_mean_what_they_mean_there(arguments):
    x = INPUTS["float32"]
    tolerance = 2e-2 if "mixed" in str(arguments.get("dtype")) else 1e-4
    ours, theirs = (after_two_steps(kind, arguments, x) for kind in (bnm.BatchNormalization, BN))
    assert_alike(ours, theirs, tolerance)
    if "name" in arguments:
        assert ours[0].name == theirs[0].name


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16"])
def test_what_keras_takes_is_taken(x, dtype):
    tolerance = 2e-2 if dtype == "mixed_float16" else 2e-4
    ours, theirs = (
        after_two_steps(kind, {"dtype": dtype}, x) for kind in (bnm.BatchNormalization, BN)
    )
    assert_alike(ours, theirs, tolerance)


def test_a_mask_of_keras_is_taken():
    x, mask = INPUTS["3-D"], RNG.random((5, 4)) > 0.4
    assert_alike(
        *(after_two_steps(kind, {}, x, mask=mask) for kind in (bnm.BatchNormalization, BN)), 1e-4
    )


def test_a_mode_that_ours_has_not_is_refused():
    with pytest.raises(ValueError, match=r"`renorm` must be False\. Received: renorm=True\. Pass"):
        bnm.BatchNormalization(renorm=True)


def test_a_policy_of_which_nothing_is_true_is_a_policy_all_the_same():
    class Empty(bnm.AverageOfBatches):
        def __len__(self):
            return 0

    layer = bnm.BatchNormalization(statistics=Empty())
    assert isinstance(layer.policy, Empty)
