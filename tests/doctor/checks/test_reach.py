"""How far an optimizer can have moved a weight is a bound, and a close one."""

import keras
import numpy as np
import pytest

from batchnorm_mechanics.doctor.checks.reach import reach_of, steps_of


def moved(optimizer, gradients, start=0.0):
    weight = keras.Variable([start])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor([float(gradient)])], [weight])
    return abs(float(weight.numpy()[0]) - start)


GRADIENTS = {
    "steady": np.ones(40),
    "once": np.eye(40)[20],
    "rising": np.logspace(-8, 8, 40),
    "noise": np.random.default_rng(0).normal(size=40),
    "jump": np.where(np.arange(40) < 30, 1e-6, 1.0),
}


@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize(("one", "two"), [(0.9, 0.999), (0.5, 0.6), (0.0, 0.9)])
def test_no_gradients_take_a_weight_beyond_the_reach(gradients, one, two):
    optimizer = keras.optimizers.Adam(0.01, beta_1=one, beta_2=two, epsilon=1e-12)
    distance = moved(optimizer, GRADIENTS[gradients])
    assert 0 < distance <= 1.0001 * reach_of(optimizer)


def test_gradients_that_never_change_come_near_the_reach():
    optimizer = keras.optimizers.Adam(0.01, epsilon=1e-12)
    distance = moved(optimizer, np.ones(5))
    assert distance == pytest.approx(0.05, rel=1e-3)
    assert distance <= reach_of(optimizer) < 1.1 * distance


def test_weight_decay_is_counted():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5, epsilon=1e-12)
    distance = moved(optimizer, np.ones(20), start=4.0)
    plain = keras.optimizers.Adam(0.01)
    moved(plain, np.ones(20))
    assert reach_of(plain) < distance <= reach_of(optimizer, largest=4.0)


def test_the_largest_rate_of_a_schedule_counts():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.001])
    optimizer = keras.optimizers.Adam(schedule, epsilon=1e-12)
    distance = moved(optimizer, np.ones(10))
    assert 0.2 < distance <= reach_of(optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(),
        keras.optimizers.Adam(lambda: 0.1),
        keras.optimizers.Adam(beta_1=0.99, beta_2=0.9),
    ],
)
def test_of_others_the_reach_is_not_known(optimizer):
    moved(optimizer, [1.0])
    assert reach_of(optimizer) is None


def test_beyond_ten_thousand_steps_nothing_is_reckoned():
    optimizer = keras.optimizers.Adam()
    optimizer.iterations.assign(10_000)
    assert reach_of(optimizer) is not None
    optimizer.iterations.assign(10_001)
    assert steps_of(optimizer) == 10_001
    assert reach_of(optimizer) is None
