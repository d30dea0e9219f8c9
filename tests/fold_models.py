"""Models to fold, with statistics as training leaves them, and how far two of them are apart."""

import keras
import numpy as np

from batchnorm_mechanics.folding.fold import rewritten
from batchnorm_mechanics.folding.plan import plan_of
from batchnorm_mechanics.models.norms import norms_in

# In float64 only a wrong formula differs by more than this.
EXACT = 1e-12


def settled(model, seed=0):
    """Give every batch norm statistics, gamma and beta, some negative, and each kernel and bias."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        # With kernels of chance, all outputs of a ReLU may be 0, which compares with nothing.
        for weight in (getattr(layer, "kernel", None), getattr(layer, "bias", None)):
            if hasattr(weight, "assign"):
                spread = 1 / np.sqrt(max(1, np.prod(weight.shape[:-1])))
                weight.assign(rng.normal(0, spread, weight.shape))
    for norm in norms_in(model):
        layer = norm.layer
        layer.moving_mean.assign(rng.normal(1, 2, norm.channels))
        layer.moving_variance.assign(rng.uniform(0.2, 3, norm.channels))
        if layer.gamma is not None:
            layer.gamma.assign(rng.normal(0, 1, norm.channels))
        if layer.beta is not None:
            layer.beta.assign(rng.normal(0, 1, norm.channels))
    return model


def stack(shape, *layers):
    """Return a sequential float64 model of these layers, settled."""
    return settled(keras.Sequential([keras.layers.Input(shape, dtype="float64"), *layers]))


def dense(units=4, **settings):
    return keras.layers.Dense(units, **{"dtype": "float64"} | settings)


def source(shape=(4,), **settings):
    return keras.Input(shape, **{"dtype": "float64"} | settings)


def graph(inputs, outputs, **settings):
    return settled(keras.Model(inputs, outputs, **settings))


def f64(kind, *arguments, **settings):
    return kind(*arguments, **{"dtype": "float64"} | settings)


def bn(**settings):
    """Return a float64 batch norm layer."""
    return keras.layers.BatchNormalization(**{"dtype": "float64"} | settings)


def folded(model):
    """Return the folded model and why layers were left, without comparing or timing."""
    plan = plan_of(model)
    return rewritten(model, plan).model, dict(plan.left)


def inputs_of(model, rows=3, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(1, 2, (rows, *x.shape[1:])).astype(x.dtype) for x in model.inputs]


def distance(model, other, inputs=None):
    """Return the largest difference of the outputs, relative to the largest output."""
    inputs = inputs_of(model) if inputs is None else inputs
    inputs = inputs[0] if len(inputs) == 1 else inputs
    found = 0.0
    for expected, actual in zip(
        keras.tree.flatten(model(inputs, training=False)),
        keras.tree.flatten(other(inputs, training=False)),
        strict=True,
    ):
        wanted = np.asarray(expected, np.float64)
        assert np.ptp(wanted) > 0
        error = np.max(np.abs(np.asarray(actual, np.float64) - wanted))
        found = max(found, float(error / np.max(np.abs(wanted))))
    return found


def norms_left(model):
    return [norm.name for norm in norms_in(model)]


def folds_wholly(model, inputs=None):
    """Return the folded model, after seeing that all norms are gone and it computes the same."""
    new, left = folded(model)
    assert (norms_left(new), left) == ([], {})
    assert distance(model, new, inputs) < EXACT
    return new


def reason_of(model):
    """Return why the only norm is left, after seeing that the model still computes the same."""
    new, left = folded(model)
    (name,) = left
    assert norms_left(new) == [name]
    assert distance(model, new) < EXACT
    return left[name]
