"""A subject in NumPy whose conventions, and whose refusals, can be chosen one by one."""

from dataclasses import dataclass

import numpy as np

from batchnorm_mechanics.conformance.subject import Ability, Session, Setting, Statistics, Subject

ALL = frozenset({Ability.TRAIN, Ability.INFER, Ability.CALL, Ability.STATISTICS})


@dataclass
class Choices:
    """What a subject does; by default what Keras does."""

    weighs: str = "old"
    momentum: float = 0.99
    variance: str = "biased"
    place: str = "inside"
    epsilon: float = 1e-3
    initial: tuple = (0.0, 1.0)
    axis: int = -1
    mode: str = "inference"
    moves_in_inference: bool = False
    one_sample: str = "normalizes"
    empty: str = "refuses"
    large_mean: str = "proportional"
    takes_statistics: bool = True
    takes_momentum: bool = True
    raises_in: tuple = ()
    wrong_output: bool = False
    mean_moves: bool = True
    in_place: bool = False


class NumpySubject(Subject):
    name, description = "numpy", "made up"

    def __init__(self, abilities=ALL, takes_epsilon=True, dtypes=("float32",), **choices):
        self.abilities, self.takes_epsilon, self.dtypes = abilities, takes_epsilon, dtypes
        self.choices = Choices(**choices)
        self.declared_momentum = self.choices.weighs

    def refusal(self, setting: Setting):
        if setting.dtype not in self.dtypes:
            return "its dtype"
        if setting.epsilon is not None and not self.takes_epsilon:
            return "its epsilon"
        if setting.momentum is not None and not self.choices.takes_momentum:
            return "its momentum"
        given = setting.moving_mean is not None
        return "its statistics" if given and not self.choices.takes_statistics else None

    def open(self, setting: Setting):
        if "open" in self.choices.raises_in:
            raise KeyError("open")
        return NumpySession(setting, self.choices)


class NumpySession(Session):
    def __init__(self, setting, choices):
        self.setting, self.choices = setting, choices
        kept = setting.kept or (choices.axis % len(setting.shape),)
        self.axes = tuple(axis for axis in range(len(setting.shape)) if axis not in kept)
        shape = [setting.shape[axis] for axis in kept]
        self.mean = np.full(shape, choices.initial[0], np.float32)
        self.variance = np.full(shape, choices.initial[1], np.float32)
        if setting.moving_mean is not None:
            self.mean = np.array(setting.moving_mean, np.float32)
            self.variance = np.array(setting.moving_variance, np.float32)

    def train(self, x, mask=None):
        self.may("train")
        choices = self.choices
        if x.shape[0] == 0:
            if choices.empty == "refuses":
                raise ValueError("empty")
            if choices.empty == "poisons":
                self.mean = self.mean * np.nan
            return x
        if x.shape[0] == 1 and choices.one_sample == "refuses":
            raise ValueError("one")
        if x.shape[0] == 1 and choices.one_sample == "odd":
            return x + 100
        mean, variance = x.mean(self.axes), self.batch_variance(x)
        count = x.size // mean.size
        self.update(mean, variance, count)
        origin = 0
        if choices.large_mean == "exact":
            origin = np.expand_dims(np.take(x, 0, 0)[(0,) * (x.ndim - 2)], 0)
            mean = (x - origin).mean(self.axes)
        y = self.normalize(x - origin, mean, variance)
        return y * 1.5 if choices.wrong_output else y

    def batch_variance(self, x):
        if self.choices.large_mean == "quadratic":
            mean = x.mean(self.axes)
            return np.maximum((x * x).mean(self.axes) - mean * mean, 0)
        return x.astype(np.float64).var(self.axes).astype(np.float32)

    def update(self, mean, variance, count):
        choices = self.choices
        given = self.setting.momentum
        momentum = choices.momentum if given is None else given
        decay = momentum if choices.weighs == "old" else 1 - momentum
        factor = {
            "biased": 1,
            "unbiased": count / max(count - 1, 1),
            "none": None,
            "other": 0.5,
        }[choices.variance]
        if choices.mean_moves:
            new = decay * self.mean + (1 - decay) * mean
            if choices.in_place:
                self.mean[...] = new
            else:
                self.mean = new
        if factor is not None:
            new = decay * self.variance + (1 - decay) * factor * variance
            if choices.in_place:
                self.variance[...] = new
            else:
                self.variance = new

    def normalize(self, x, mean, variance):
        given = self.setting.epsilon
        epsilon = np.float32(self.choices.epsilon if given is None else given)
        mean, variance = (np.expand_dims(part, self.axes) for part in (mean, variance))
        with np.errstate(all="ignore"):
            if self.choices.place == "inside":
                y = (x - mean) / np.sqrt(variance + epsilon)
            elif self.choices.place == "outside":
                y = (x - mean) / (np.sqrt(variance) + epsilon)
            else:
                y = (x - mean) / (variance + epsilon)
        if self.setting.beta is not None:
            y = y + np.asarray(self.setting.beta, np.float32)
        return y.astype(x.dtype)

    def infer(self, x):
        self.may("infer")
        y = self.normalize(x, self.mean, self.variance)
        if self.choices.moves_in_inference:
            self.update(x.mean(self.axes), self.batch_variance(x), x.size // self.mean.size)
        return y

    def call(self, x):
        return self.train(x) if self.choices.mode == "training" else self.infer(x)

    def statistics(self):
        self.may("statistics")
        return Statistics(self.mean, self.variance)

    def may(self, what):
        if what in self.choices.raises_in:
            raise KeyError(what)
