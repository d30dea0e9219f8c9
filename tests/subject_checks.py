"""Put a subject of the conformance harness beside the oracle."""

from typing import NamedTuple

import numpy as np
from oracle_cases import DTYPES, assert_within, float64, resolution

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance.subject import Ability, Setting

DECAY, EPSILON = 0.7, 0.01


class Layout(NamedTuple):
    shape: tuple
    kept: tuple
    dtype: str = "float32"

    @property
    def axes(self):
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.kept)


def setting_of(subject, layout, rng):
    """A setting in which nothing has its usual value and each channel has its own."""
    channels = [layout.shape[axis] for axis in layout.kept]
    momentum = {"old": DECAY, "new": 1 - DECAY, None: None}[subject.declared_momentum]
    return Setting(
        layout.shape,
        layout.kept,
        layout.dtype,
        epsilon=EPSILON,
        momentum=momentum,
        gamma=rng.normal(size=channels) + 2,
        beta=rng.normal(size=channels),
        moving_mean=rng.normal(size=channels),
        moving_variance=rng.random(channels) + 0.5,
    )


def batch_of(layout, rng, size=None):
    shape = layout.shape if size is None or 0 in layout.kept else (size, *layout.shape[1:])
    return (1 + 2 * rng.normal(size=shape)).astype(DTYPES[layout.dtype])


def assert_close(actual, expected, dtype, case=""):
    """Far below what any mistake in the wiring makes, and far above what rounding does."""
    size = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    assert_within(actual, expected, 32 * resolution(dtype) * size, case)


def statistics_dtype(actual):
    return "float64" if actual.dtype == np.float64 else "float32"


def check_training(subject, layout, rng, *, unbiased=False):
    """Both outputs and, where it has any, the moving statistics after batches of two sizes."""
    setting = setting_of(subject, layout, rng)
    batches = [batch_of(layout, rng), batch_of(layout, rng, size=layout.shape[0] + 2)]
    session = subject.open(setting)
    for x in batches:
        y = session.train(x)
        right = reference.forward(x, setting.gamma, setting.beta, layout.axes, EPSILON)[0]
        assert y.dtype == x.dtype
        assert_close(y, right, layout.dtype)
    if Ability.STATISTICS not in subject.abilities:
        return
    expected = reference.exponential_moving_average(
        batches,
        layout.axes,
        DECAY,
        unbiased=unbiased,
        initial_mean=setting.moving_mean,
        initial_variance=setting.moving_variance,
    )
    for actual, right in zip(session.statistics(), expected, strict=True):
        assert_close(actual, right, statistics_dtype(actual))


def check_inference_output(subject, layout, rng):
    setting, x = setting_of(subject, layout, rng), batch_of(layout, rng)
    y = subject.open(setting).infer(x)
    expected = reference.infer(
        x,
        setting.moving_mean,
        setting.moving_variance,
        setting.gamma,
        setting.beta,
        layout.axes,
        EPSILON,
    )
    assert y.dtype == x.dtype
    assert_close(y, expected, layout.dtype)


def check_gradients(subject, layout, rng):
    setting, x = setting_of(subject, layout, rng), batch_of(layout, rng)
    dy = batch_of(layout, rng)
    slopes = subject.open(setting).gradients(x, dy)
    expected = reference.gradients(dy, x, setting.gamma, layout.axes, EPSILON)
    for actual, name in zip(slopes, ("d_x", "d_gamma", "d_beta"), strict=True):
        assert_close(actual, expected[name], layout.dtype, name)


def check_reloading(subject, layout, rng):
    """A session that was saved and loaded infers and goes on training as the first one does."""
    session = subject.open(setting_of(subject, layout, rng))
    x = batch_of(layout, rng)
    session.train(x)
    loaded = session.reload()
    np.testing.assert_array_equal(loaded.infer(x), session.infer(x))
    session.train(x)
    loaded.train(x)
    for actual, right in zip(loaded.statistics(), session.statistics(), strict=True):
        np.testing.assert_array_equal(actual, right)


def check_mask(subject, layout, rng):
    setting, x = setting_of(subject, layout, rng), batch_of(layout, rng)
    dy = batch_of(layout, rng)
    mask = rng.random(x.shape[:-1]) < 0.7
    mask.flat[0], mask.flat[-1] = True, False
    y = subject.open(setting).train(x, mask)
    slopes = subject.open(setting).gradients(x, dy, mask)
    right = reference.forward(x, setting.gamma, setting.beta, layout.axes, EPSILON, mask)[0]
    right_slopes = reference.gradients(dy, x, setting.gamma, layout.axes, EPSILON, mask)
    assert_close(float64(y), right, layout.dtype)
    assert_close(slopes.dx, right_slopes["d_x"], layout.dtype)
