"""The page's arithmetic, run in Node.js, is a subject of `conform` like any other."""

import node
import pytest

from batchnorm_mechanics.conformance.cases import select
from batchnorm_mechanics.conformance.judge import conform
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Kept,
    Session,
    Setting,
    Slopes,
    Statistics,
    Subject,
    as_type,
)

ALL_AXES = Kept("", lambda kept, rank: True)


class Page(Subject):
    """The arithmetic that the explorer computes with."""

    name, description = "explorer", "the explorer's arithmetic in Node.js"
    abilities = frozenset({Ability.TRAIN, Ability.INFER, Ability.STATISTICS, Ability.GRADIENTS})
    declared_momentum = "old"
    needs = frozenset({"axis", "epsilon", "momentum", "statistics"})
    keeps = ALL_AXES

    def __init__(self, served):
        self.served = served

    def open(self, setting: Setting):
        return PageSession(self.served, setting.keeping(-1))


class PageSession(Session):
    def __init__(self, served, setting):
        self.served, self.dtype = served, setting.dtype
        self.gamma, self.beta, self.mean, self.variance = setting.parameters
        epsilon = 1e-3 if setting.epsilon is None else setting.epsilon
        self.decay = 0.99 if setting.momentum is None else setting.momentum
        self.options = {"axes": list(setting.axes), "epsilon": epsilon, "dtype": setting.dtype}

    def asked(self, call, x, **more):
        parameters = {"gamma": self.gamma, "beta": self.beta}
        parameters |= more.pop("parameters", {})
        return self.served(call, x=x, parameters=parameters, options=self.options, **more)

    def train(self, x, mask=None):
        found = self.asked("forward", x)
        wide = "float64" if self.dtype == "float64" else "float32"
        batch = {
            "mean": found["mean"].ravel(),
            "variance": found["variance"].ravel(),
            "count": found["count"],
        }
        moved = self.served(
            "policy",
            name="exponentialMovingAverage",
            settings={"decay": self.decay, "dtype": wide},
            start={"mean": self.mean.ravel(), "variance": self.variance.ravel()},
            batches=[batch],
        )
        shape = self.mean.shape
        self.mean, self.variance = (moved[name].reshape(shape) for name in ("mean", "variance"))
        return as_type(found["y"], self.dtype)

    def infer(self, x):
        moving = {"mean": self.mean, "variance": self.variance}
        return as_type(self.asked("infer", x, parameters=moving)["y"], self.dtype)

    def gradients(self, x, dy, mask=None):
        found = self.asked("gradients", x, dy=dy)
        dx = as_type(found["dX"], self.dtype)
        return Slopes(
            dx,
            found["dGamma"].reshape(self.gamma.shape),
            found["dBeta"].reshape(self.gamma.shape),
        )

    def statistics(self):
        return Statistics(self.mean, self.variance)


@pytest.fixture(scope="module")
def page():
    with node.arithmetic() as served:
        yield Page(served)


def failures(report):
    return [
        f"{case.case}: {check.what}: {check.diagnosis or check.reason}"
        for case in report.cases
        for check in case.checks
        if not check.passed
    ]


def test_the_page_s_arithmetic_passes(page):
    report = conform(page)
    assert failures(report) == []
    assert report.passed
    assert report.conventions.moving_variance == "biased"
    judged = {check.what for case in report.cases for check in case.checks}
    assert len(judged) >= 6


def test_the_page_with_a_mistake_does_not(page):
    class Wrong(Page):
        def open(self, setting):
            session = super().open(setting)
            session.options["epsilon"] *= 2
            return session

    assert not conform(Wrong(page.served), cases=select("one step")[:1]).passed
