"""Several batches taken by a policy as one, as an optimizer that gathers gradients takes them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_cases import data, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

WITHIN = {
    "moving": (bnm.ExponentialMovingAverage(0.9), reference.exponential_moving_average, (0.9,)),
    "debiased": (bnm.DebiasedMovingAverage(0.9), reference.debiased_moving_average, (0.9,)),
    "average": (bnm.AverageOfBatches(), reference.average_of_batches, ()),
    "pooled": (bnm.PooledPopulation(), reference.pooled, ()),
}
within = pytest.mark.parametrize("name", WITHIN)


def fed(policy, batches, state=None):
    state = policy.init([3], tf.float64) if state is None else state
    for x in batches:
        state = policy.update(state, *bnm.moments(x, 0))
    return state


@within
def test_the_policy_within_gets_the_batches_as_one(name, rng):
    policy, oracle, options = WITHIN[name]
    # Of unequal sizes, around other means, and one batch that waits at the end.
    batches = [data(rng, (4 + k, 3), 10.0 * k) for k in range(7)]
    state = fed(bnm.VirtualBatches(policy, 3), batches)
    together = [np.concatenate(batches[:3]), np.concatenate(batches[3:6])]
    mean, variance = oracle(together, 0, *options)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-10)
    assert state.pending_batches.numpy().tolist() == [1.0] * 3
    np.testing.assert_allclose(state.pending_mean, batches[6].mean(0))
    assert type(state) is type(bnm.VirtualBatches(policy, 3).init([3]))


def test_a_batch_without_samples_is_one_of_them(rng):
    policy = bnm.VirtualBatches(bnm.PooledPopulation(), 2)
    x = data(rng, (4, 3), 5.0)
    state = policy.update(fed(policy, [x]), [np.nan] * 3, [np.nan] * 3, 0)
    np.testing.assert_allclose(state.mean, x.mean(0))
    # And where none had any, the policy within keeps what it had.
    for _ in range(2):
        state = policy.update(state, [np.nan] * 3, [np.nan] * 3, 0)
    np.testing.assert_allclose(state.mean, x.mean(0))


def test_it_reads_saves_and_settles_as_the_policy_within(rng):
    inner = bnm.AverageOfBatches()
    policy = bnm.VirtualBatches(inner, 2)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(policy)) == (
        policy
    )
    assert policy.keeps_unbiased_variance
    assert policy.decay is None
    moving = bnm.VirtualBatches(bnm.ExponentialMovingAverage(0.5), 2)
    assert moving.decay == 0.5
    assert [moving.weight_of_start(updates) for updates in (0, 1, 2, 5)] == [1, 1, 0.5, 0.25]
    settled = policy.settled(inner.read(fed(inner, [data(rng, (9, 3))])), count=9)
    assert settled.count.numpy().tolist() == [9.0] * 3
    assert settled.pending_batches.numpy().tolist() == [0.0] * 3


@pytest.mark.parametrize("batches", [0, -1, 1.5, True, None], ids=repr)
def test_a_number_of_batches_below_one_is_refused(batches):
    message = (
        "VirtualBatches: `batches` must be an integer of 1 or more. Received: "
        f"batches={batches!r}. Pass the optimizer's gradient_accumulation_steps."
    )
    with pytest.raises(ValueError, match=whole(message)):
        bnm.VirtualBatches(bnm.PooledPopulation(), batches)


def test_what_is_no_policy_is_refused():
    message = (
        "VirtualBatches: `policy` must be a statistics policy. Received: policy=0.9. "
        "Pass for instance ExponentialMovingAverage()."
    )
    with pytest.raises(TypeError, match=whole(message)):
        bnm.VirtualBatches(0.9, 2)


def test_an_optimizer_that_gathers_gradients_moves_the_statistics_once(rng, tmp_path):
    x = data(rng, (24, 3), 5.0, "float32")
    inputs = keras.Input((3,))
    once = bnm.BatchNormalization(
        statistics=bnm.VirtualBatches(bnm.ExponentialMovingAverage(0.5), 3), name="once"
    )
    each = bnm.BatchNormalization(momentum=0.5, name="each")
    outputs = keras.layers.Dense(1)(keras.layers.Add()([once(inputs), each(inputs)]))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), "mse")
    before = model.layers[-1].kernel.numpy()
    # Four batches of 4: one step of the optimizer, and one batch that waits.
    model.fit(x[:16], np.zeros((16, 1)), batch_size=4, shuffle=False, verbose=0)
    assert model.optimizer.iterations.numpy() == 1
    assert np.any(model.layers[-1].kernel.numpy() != before)
    mean, variance = reference.exponential_moving_average([x[:12]], 0, 0.5)
    np.testing.assert_allclose(once.moving_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(once.moving_variance, variance, rtol=1e-5)
    # As Keras's layer does with such an optimizer: four times, from batches of 4.
    parts = [x[start : start + 4] for start in range(0, 16, 4)]
    mean, _ = reference.exponential_moving_average(parts, 0, 0.5)
    np.testing.assert_allclose(each.moving_mean, mean, rtol=1e-6)
    # What waits is saved, as what the optimizer has gathered is.
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.fit(x[16:], np.zeros((8, 1)), batch_size=4, shuffle=False, verbose=0)
    assert again.optimizer.iterations.numpy() == 2
    mean, variance = reference.exponential_moving_average([x[:12], x[12:]], 0, 0.5)
    np.testing.assert_allclose(again.get_layer("once").moving_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(again.get_layer("once").moving_variance, variance, rtol=1e-5)
