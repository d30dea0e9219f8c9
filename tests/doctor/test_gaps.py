"""Chance explains what it can and no more, with many batches and with few samples."""

import keras
import numpy as np
import pytest
from scipy import stats

from batchnorm_mechanics.doctor.gaps import gaps_of
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.norms import norms_in

CHANNELS = 24


def gap(x, *, mean=0.0, variance=1.0, momentum=0.99, gamma=1.0, batch_size=32):
    """Return the gap of one layer with these statistics, on data x."""
    x = np.asarray(x, "float32")
    layer = keras.layers.BatchNormalization(momentum=momentum, name="bn")
    model = keras.Sequential([keras.layers.Input(x.shape[1:]), layer])
    # For a few batches tracing takes longer.
    model.run_eagerly = True
    layer.gamma.assign(np.broadcast_to(gamma, x.shape[-1:]))
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


@pytest.mark.parametrize("batches", [4, 7])
def test_a_mean_that_is_far_off_is_found_in_a_few_batches(batches):
    found = gap(healthy(32 * batches, 0), mean=30.0)
    assert found.moved.all()
    assert not found.is_unclear


@pytest.mark.parametrize("variance", [1e-4, 1e4])
def test_a_variance_that_is_far_off_is_found_in_a_few_batches(variance):
    found = gap(healthy(32 * 7, 0), variance=variance)
    assert found.moved.all()
    assert found.is_large


@pytest.mark.parametrize("rows", [1, 20, 32, 64])
def test_where_too_few_batches_came_it_is_unclear_whether_a_gap_is_chance(rows):
    found = gap(healthy(rows, 0), mean=1.0)
    assert not found.moved.any()
    assert found.is_unclear


def test_what_is_too_small_to_matter_is_clear_in_one_batch():
    assert not gap(healthy(256, 0), batch_size=256).is_unclear


def test_eight_batches_are_enough_to_say_that_chance_explains_a_gap():
    x = healthy(2 * 8, 3)
    assert gap(x, batch_size=2).felt.max() > 0.25
    assert not gap(x, batch_size=2).is_unclear
    assert gap(x[:14], batch_size=2).is_unclear


@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 32, 33, 100, 300])
def test_a_momentum_that_never_moves_or_never_averages_has_a_gap_like_others(momentum, rows):
    assert gap(healthy(rows, 0), mean=5.0, momentum=momentum).layer == pytest.approx(5, rel=0.2)


def test_one_sample_says_nothing_of_a_variance():
    assert not gap(np.zeros((1, CHANNELS))).moved.any()
    assert not gap(np.zeros((2, CHANNELS))).moved.any()


@pytest.mark.parametrize("momentum", [0.9, 0.99, 1.0])
@pytest.mark.parametrize("batches", [3, 12])
def test_the_limit_is_that_of_student_s_t(momentum, batches):
    """With B batches, as the story derives it."""
    rows, chance = 10, 1e-3 / (4 * 1)
    base = healthy(rows * batches, 1)[:, :1]
    base = (base - base.mean()) / base.std()
    scatter = base.reshape(batches, rows).mean(1).std(ddof=1)
    shares = 1 / batches + (1 - momentum) / (1 + momentum)
    far = stats.t.isf(chance, batches - 1) * np.sqrt(shares) * scatter

    def moved(x):
        return bool(gap(x, batch_size=rows, momentum=momentum).moved.all())

    assert far > 0.25
    assert not moved(base + 0.99 * far)
    assert moved(base + 1.01 * far)


def test_the_scatter_of_batches_is_taken_as_it_is():
    """Batches that hardly differ show a shift that others leave to chance."""
    one = np.sort(healthy(32, 0), axis=0)
    one = (one - one.mean(0)) / one.std(0) + 0.5
    rng = np.random.default_rng(1)
    alike, unlike = (
        (one[None] + rng.normal(0, size, (8, 1, 1))).reshape(-1, CHANNELS) for size in (1e-3, 0.3)
    )
    assert gap(alike, momentum=0.5).moved.all()
    assert not gap(unlike, momentum=0.5).moved.any()


def test_a_gap_is_felt_by_gammas_share_and_never_as_more_than_it_is():
    gamma = np.array([10.0, 0.5, 0.0, -1.0, *[1.0] * (CHANNELS - 4)])
    found = gap(healthy(320, 0), mean=1.0, gamma=gamma)
    share = np.abs(gamma) / np.sqrt(np.mean(gamma**2))
    assert share[0] > 4
    assert share[1:].max() < 1
    np.testing.assert_allclose(found.felt[0], found.channels[0])
    np.testing.assert_allclose(found.felt[1:], (share * found.channels)[1:])


def test_a_gap_of_several_calls_is_the_root_mean_square_of_theirs():
    inputs = keras.layers.Input((CHANNELS,))
    layer = keras.layers.BatchNormalization(name="bn", epsilon=1e-12)
    model = keras.Model(inputs, keras.layers.Add()([layer(inputs), layer(inputs + 5.0)]))
    model.run_eagerly = True
    x = healthy(320, 0)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    norms = norms_in(model)
    found = gaps_of(norms, measure(model, norms, Data(x)))["bn"]
    # The layer's mean 0 and variance 1 are those of the first call, and 5 away from the second's.
    np.testing.assert_allclose(found.channels, np.sqrt((0 + 5**2) / 2), rtol=1e-4)
