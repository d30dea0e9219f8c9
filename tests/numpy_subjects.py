"""Subjects in plain NumPy for the tests of the harness: a right one, and others that are not.

A worker process imports this module by its name, so that it lies beside `oracle_cases`.
"""

import os
import signal
import time

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Session,
    Slopes,
    Statistics,
    Subject,
)

CONVENTIONS = {"biased": 0, "unbiased": 1}


class Right(Subject):
    """Two passes in the input's own dtype, statistics in float32 or wider.

    Keyword arguments are the mistakes; without any it is right.
    """

    abilities = frozenset(Ability) - {Ability.CALL}
    declared_momentum = "old"

    def __init__(self, name="right", **changes):
        self.name = name
        self.description = "NumPy, two passes"
        self.changes = changes
        self.opened = 0

    def refusal(self, setting):
        return self.changes.get("refusal")

    def open(self, setting):
        self.opened += 1
        return self.changes.get("session", RightSession)(setting, self.changes)


class RightSession(Session):
    def __init__(self, setting, changes):
        self.setting, self.changes = setting, changes
        rank = len(setting.shape)
        kept = (rank - 1,) if setting.kept is None else setting.kept
        self.axes = tuple(axis for axis in range(rank) if axis not in kept)
        self.wide = np.float64 if setting.dtype == "float64" else np.float32
        shape = tuple(setting.shape[axis] for axis in kept)
        starts = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}
        for name, start in starts.items():
            given = getattr(setting, name)
            value = np.full(shape, start) if given is None else given
            setattr(self, name, np.asarray(value, self.wide))
        self.epsilon = self.wide(1e-3 if setting.epsilon is None else setting.epsilon)
        self.momentum = self.wide(0.99 if setting.momentum is None else setting.momentum)

    def spread(self, value):
        return np.expand_dims(value, self.axes)

    def moments(self, x, mask=None):
        counted = np.ones(x.shape, bool)
        if mask is not None:
            counted &= mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        keep = {"axis": self.axes, "keepdims": True, "where": counted}
        count = counted.sum(axis=self.axes, keepdims=True)
        divisor = np.maximum(count, 1).astype(self.wide)
        mean = np.sum(x, dtype=self.wide, **keep) / divisor
        if self.changes.get("one_pass"):
            variance = np.sum(x * x, dtype=self.wide, **keep) / divisor - mean * mean
        else:
            variance = np.sum((x - mean) ** 2, dtype=self.wide, **keep) / divisor
        return mean, variance, count

    def normalized(self, x, mean, variance):
        if self.changes.get("epsilon_outside"):
            return (x - mean) / (np.sqrt(variance) + self.epsilon)
        return (x - mean) / np.sqrt(variance + self.epsilon)

    def affine(self, x_hat, dtype):
        y = x_hat * self.spread(self.gamma) + self.spread(self.beta)
        return y.astype(self.changes.get("output", dtype))

    def train(self, x, mask=None):
        if not x.size:
            raise ValueError("an empty batch has no mean")
        wide = x.astype(self.wide)
        mean, variance, count = self.moments(wide, mask)
        used = variance
        if self.changes.get("m_minus_1"):
            used = variance * count / np.maximum(count - 1, 1)
        y = self.affine(self.normalized(wide, mean, used), x.dtype)
        self.update(mean, variance, count)
        if self.changes.get("scribbles"):
            x[...] = 0
        return y

    def update(self, mean, variance, count):
        mean, variance, count = (np.squeeze(v, self.axes) for v in (mean, variance, count))
        if self.changes.get("unbiased"):
            variance = variance * count / np.maximum(count - 1, 1).astype(self.wide)
        keep = self.wide(1) - self.momentum if self.changes.get("reversed") else self.momentum
        for name, new in (("moving_mean", mean), ("moving_variance", variance)):
            old = getattr(self, name)
            blended = keep * old + (self.wide(1) - keep) * new
            setattr(self, name, np.where(count > 0, blended, old).astype(self.wide))

    def infer(self, x):
        wide = x.astype(self.wide)
        if self.changes.get("moves_in_inference"):
            self.update(*self.moments(wide))
        mean, variance = self.spread(self.moving_mean), self.spread(self.moving_variance)
        if self.changes.get("batch_in_inference"):
            mean, variance, _ = self.moments(wide)
        return self.affine(self.normalized(wide, mean, variance), x.dtype)

    def gradients(self, x, dy, mask=None):
        wide, dy = x.astype(self.wide), dy.astype(self.wide)
        mean, variance, count = self.moments(wide, mask)
        x_hat = self.normalized(wide, mean, variance)
        m = np.maximum(count, 1)
        d_gamma = np.sum(dy * x_hat, axis=self.axes, keepdims=True)
        d_beta = np.sum(dy, axis=self.axes, keepdims=True)
        through = 0 if self.changes.get("no_variance_term") else x_hat * d_gamma / m
        counted = True if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        d_x = dy - np.where(counted, d_beta / m + through, 0)
        d_x = d_x * self.spread(self.gamma) / np.sqrt(variance + self.epsilon)
        return Slopes(
            d_x.astype(x.dtype), np.squeeze(d_gamma, self.axes), np.squeeze(d_beta, self.axes)
        )

    def statistics(self):
        return Statistics(self.moving_mean, self.moving_variance)

    def reload(self):
        loaded = type(self)(self.setting, self.changes)
        if not self.changes.get("forgets"):
            loaded.moving_mean, loaded.moving_variance = self.moving_mean, self.moving_variance
        return loaded


class OneAtATime(RightSession):
    """Does something odd in the case of a batch of 61, and is right elsewhere."""

    def train(self, x, mask=None):
        if len(x) == 61 and x.ndim == 2:
            self.changes["odd"]()
        return super().train(x, mask)


def raise_something():
    raise LookupError("no such channel\nand more of it")


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def always(odd):
    class Always(RightSession):
        def train(self, x, mask=None):
            odd()
            return super().train(x, mask)

    return Always


class Vanished(BaseException):
    """Passes through whatever catches errors, as the end of a process does."""


def vanish():
    raise Vanished


class VanishesInRank2(RightSession):
    """Does so for each rank-2 batch of the group of batch sizes, and no other."""

    def train(self, x, mask=None):
        if x.ndim == 2 and len(x) in (2, 60, 61):
            vanish()
        return super().train(x, mask)


class VanishesWhenSetUp(RightSession):
    """Does so where nothing is set, as only the search for conventions asks for it."""

    def __init__(self, setting, changes):
        if setting.epsilon is None:
            vanish()
        super().__init__(setting, changes)


def resolve(spec):
    """Make a subject of a spec, for worker processes."""
    if spec == "unknown":
        raise InputError("conform: `subject` must be known. Received: subject='unknown'. Choose.")
    if spec == "unimportable":
        raise ImportError("no module named rubbish")
    odd = {
        "raises": raise_something,
        "hangs": lambda: time.sleep(600),
        "exits": lambda: os._exit(3),
        "crashes": crash,
        "interrupts": lambda: os.kill(os.getppid(), signal.SIGINT),
    }
    if spec in odd:
        return Right(spec, session=OneAtATime, odd=odd[spec])
    if spec == "always vanishes":
        return Right(spec, session=always(vanish))
    if spec == "vanishes in rank 2 of a batch":
        return Right(spec, session=VanishesInRank2)
    if spec == "vanishes when set up":
        return Right(spec, session=VanishesWhenSetUp)
    if spec == "prints":
        print("this must not be taken for a result")
    return Right(spec, **({} if spec in ("right", "prints") else {spec: True}))
