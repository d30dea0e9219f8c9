"""Chance explains what it can and no more, with many batches and with few samples."""

import keras
import numpy as np
import pytest
from scipy import stats

from batchnorm_mechanics.doctor.checks.gaps import gaps_of
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.probing.probe import measure
from batchnorm_mechanics.doctor.structure.norms import norms_in

CHANNELS = 24


def gap(x, *, mean=0.0, variance=1.0, momentum=0.99, batch_size=32):
    """Return the gap of one layer with these statistics, on data x."""
    x = np.asarray(x, "float32")
    layer = keras.layers.BatchNormalization(momentum=momentum, name="bn")
    model = keras.Sequential([keras.layers.Input(x.shape[1:]), layer])
    layer.moving_mean.assign(np.full(x.shape[-1], mean))
    layer.moving_variance.assign(np.full(x.shape[-1], variance))
    norms = norms_in(model)
    return gaps_of(norms, measure(model, norms, Data(x, None, batch_size)))["bn"]


def healthy(rows, seed, kind="normal"):
    """Return numbers of mean 0 and variance 1; those of a picture are all alike."""
    rng = np.random.default_rng(seed)
    if kind == "exponential":
        return rng.exponential(size=(rows, CHANNELS)) - 1
    if kind == "pictures":
        return np.broadcast_to(rng.normal(size=(rows, 1, 1, CHANNELS)), (rows, 3, 3, CHANNELS))
    return rng.normal(size=(rows, CHANNELS))


@pytest.mark.parametrize("kind", ["normal", "exponential", "pictures"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 20, 64, 200])
def test_a_few_samples_of_the_same_kind_are_no_gap(kind, rows):
    for seed in range(4):
        assert not gap(healthy(rows, seed, kind)).is_large


@pytest.mark.parametrize("rows", [1, 2, 5, 20, 64])
def test_a_mean_that_is_far_off_is_found_in_few_samples(rows):
    assert gap(healthy(rows, 0), mean=30.0).moved.all()


@pytest.mark.parametrize("rows", [8, 20, 64])
def test_a_variance_that_is_far_too_small_is_found_in_few_samples(rows):
    found = gap(healthy(rows, 0), variance=1e-4)
    assert found.moved.all()
    assert found.is_large


def test_a_variance_that_is_far_too_large_is_found_in_two_batches():
    assert gap(healthy(64, 0), variance=1e4).moved.all()


def test_one_sample_says_nothing_of_a_variance():
    assert not gap(np.zeros((1, CHANNELS))).moved.any()
    assert not gap(np.zeros((2, CHANNELS))).moved.any()


@pytest.mark.parametrize(("rows", "of_few"), [(1, True), (15, True), (16, False)])
def test_fewer_than_sixteen_samples_are_few(rows, of_few):
    assert gap(healthy(rows, 0)).of_few == of_few


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_the_limits_are_those_of_gamma_and_f(momentum):
    """With r rows a batch and B batches, as the story derives them."""
    rows, batches, chance = 10, 3, 1e-3 / (4 * 1)
    data, moving = rows * batches / 4, rows / 4 * (1 + momentum) / (1 - momentum)
    base = healthy(rows * batches, 1)[:, :1]
    base = (base - base.mean()) / base.std()
    total = rows / (1 / batches + (1 - momentum) / (1 + momentum))
    far = stats.gamma.isf(chance, total) / total - 1

    def moved(x):
        # epsilon is 1e-3 on both sides
        return bool(gap(x, batch_size=rows, momentum=momentum).moved.all())

    assert not moved(base + 0.99 * far * np.sqrt(1.001))
    assert moved(base + 1.01 * far * np.sqrt(1.001))
    for limit, inside in (
        (stats.f.isf(chance, data, moving), 0.99),
        (stats.f.ppf(chance, data, moving), 1.01),
    ):
        for factor in (inside, 2 - inside):
            variance = max(limit * factor * 1.001 - 1e-3, 0.0)
            assert moved(base * np.sqrt(variance)) == (factor != inside)


def test_the_scatter_of_eight_batches_is_taken_as_it_is():
    """Batches that hardly differ show a shift that the bound of seven leaves to chance."""
    one = np.sort(healthy(32, 0), axis=0)
    one = (one - one.mean(0)) / one.std(0) + 0.5
    jitter = np.random.default_rng(1).normal(0, 1e-3, (8, 1, 1))
    eight = (one[None] + jitter).reshape(-1, CHANNELS)
    assert gap(eight, momentum=0.5).moved.all()
    assert not gap(eight[: 7 * 32], momentum=0.5).moved.any()
