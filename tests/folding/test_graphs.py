"""Graphs that are drawn at random: what is folded is exact, and nothing is left that could go."""

import random

import keras
import numpy as np
import pytest
from fold_models import bn, dense, f64, folded, graph, norms_left, source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchnorm_mechanics._keras import origin_of
from batchnorm_mechanics.folding.plan import plan_of

L = keras.layers
STEPS = 9
# Ten sums behind one another, of numbers of which some cancel.
NEAR = 1e-10


def padding(chance):
    return chance.choice(["valid", "same"])


def norm(chance, shape):
    rank = len(shape)
    settings = {"center": chance.random() < 0.5, "axis": chance.randint(1, rank - 1)}
    # Most lie where people put them.
    return bn(**settings | ({} if chance.randint(0, 3) == 0 else {"axis": -1}))


def linear(chance, shape):
    rank, units = len(shape), chance.randint(2, 4)
    of = {"use_bias": chance.random() < 0.5}
    kinds = [lambda: dense(units, **of)]
    if rank > 2:
        # By an ellipsis for several axes, Keras takes their sizes in the wrong order.
        places = "abcd"[: rank - 1]
        equation, output = f"{places}x,xy->{places}y", (*shape[1:-1], units)
        kinds.append(lambda: f64(L.EinsumDense, equation, output))
    if rank == 3:
        kinds += [
            lambda: f64(L.Conv1D, units, 2, padding=padding(chance), **of),
            lambda: f64(L.SeparableConv1D, units, 2, **of),
        ]
    if rank == 4:
        kinds += [
            lambda: f64(L.Conv2D, units, chance.randint(1, 2), padding=padding(chance), **of),
            lambda: f64(L.Conv2DTranspose, units, chance.randint(1, 2), **of),
            lambda: f64(L.DepthwiseConv2D, 2, depth_multiplier=chance.randint(1, 2), **of),
            lambda: f64(L.SeparableConv2D, units, 2, padding=padding(chance), **of),
        ]
    return chance.choice(kinds)()


def grouped(chance, shape):
    return f64(L.Conv2D, 2 * shape[-1], 1, groups=shape[-1]) if len(shape) == 4 else dense(2)


def between(chance, shape):
    rank, (_, *sizes) = len(shape), shape
    kinds = [lambda: f64(L.Dropout, 0.5), lambda: f64(L.LeakyReLU)]
    if rank > 2:
        kinds += [
            lambda: f64(L.Flatten),
            lambda: f64(L.Permute, chance.sample(range(1, rank), rank - 1)),
            lambda: f64(L.Reshape, (-1, sizes[-1])),
            lambda: f64(L.Reshape, (sizes[0], -1)),
        ]
    if rank in (3, 4):
        pooling = f"{rank - 2}D"
        kinds += [
            lambda: f64(getattr(L, f"AveragePooling{pooling}"), 2, 1, padding=padding(chance)),
            lambda: f64(getattr(L, f"GlobalAveragePooling{pooling}")),
            lambda: f64(getattr(L, f"UpSampling{pooling}"), 2),
            lambda: f64(getattr(L, f"ZeroPadding{pooling}"), 1),
            lambda: f64(getattr(L, f"Cropping{pooling}"), 1),
        ]
    return chance.choice(kinds)()


def by_steps(chance, shape):
    inner = chance.choice([linear, norm, None])
    if inner is None:
        return f64(L.TimeDistributed, between(chance, shape[:1] + shape[2:]))
    return f64(L.TimeDistributed, inner(chance, shape[:1] + shape[2:]))


def drawn(seed):
    """Return a model: layers, of which some are called again, behind one another or beside."""
    # Separable kernels begin with numbers of chance, too.
    keras.utils.set_random_seed(seed)
    chance = random.Random(seed)
    x = source(chance.choice([(6,), (4, 4), (5, 4, 2), (2, 4, 4, 2)]))
    tensors, used, called = [x], set(), []
    for _ in range(STEPS):
        # Mostly in a line.
        at = len(tensors) - 1 if chance.randint(0, 3) else chance.randint(0, len(tensors) - 1)
        tensor = tensors[at]
        shape = tuple(tensor.shape)
        again = [layer for layer, fits in called if fits == shape]
        if again and chance.randint(0, 4) == 0:
            layer = chance.choice(again)
        else:
            what = chance.randint(0, 9)
            if what < 3 and not isinstance(origin_of(tensor).operation, L.BatchNormalization):
                layer = norm(chance, shape)
            elif what < 6:
                layer = linear(chance, shape)
            elif what == 6:
                layer = grouped(chance, shape)
            elif what == 7 and len(shape) > 2:
                layer = by_steps(chance, shape)
            else:
                layer = between(chance, shape)
        try:
            made = layer(tensor)
        except ValueError:
            continue  # Too small for it by now.
        if 0 in made.shape[1:] or np.prod(made.shape[1:]) > 4000:
            continue
        called.append((layer, shape))
        used.add(at)
        tensors.append(made)
    ends = [tensor for at, tensor in enumerate(tensors) if at not in used]
    return graph(x, ends, name="drawn")


def check(seed):
    keras.backend.clear_session()
    model = drawn(seed)
    new, left = folded(model)
    # In which order a graph lists layers side by side depends on what is behind them.
    assert sorted(norms_left(new)) == sorted(left)
    data = np.random.default_rng(1).normal(1, 2, (3, *model.input_shape[1:]))
    outputs = [keras.tree.flatten(one(data, training=False)) for one in (model, new)]
    for ours, theirs in zip(*outputs, strict=True):
        size = np.max(np.abs(ours)) or 1.0
        assert np.max(np.abs(np.asarray(theirs) - np.asarray(ours))) < NEAR * size
    # What could go has gone.
    assert plan_of(new).folded == frozenset()


def few(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


SEEDS = st.integers(0, 2**30)


@few(5)
@given(seed=SEEDS)
def test_a_graph_at_random_is_folded_exactly_and_wholly(seed):
    check(seed)


@pytest.mark.thorough
@few(30)
@given(seed=SEEDS)
def test_many_graphs_at_random_are_folded_exactly_and_wholly(seed):
    check(seed)
