"""A mistake is named where the numbers bear it out, and nowhere else.

The wrong numbers come from plain NumPy, not from the model that finds the mistake.
"""

import time
from dataclasses import replace

import numpy as np
import pytest

from batchnorm_mechanics.conformance.cases import draw, select
from batchnorm_mechanics.conformance.diagnosis import CATALOGUE, diagnose
from batchnorm_mechanics.conformance.evidence import Evidence, expected
from batchnorm_mechanics.conformance.mistakes.sharing import SHARING
from batchnorm_mechanics.conformance.prediction import Material, Prediction
from batchnorm_mechanics.conformance.record import (
    DBETA,
    DGAMMA,
    DX,
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
    parts,
)
from batchnorm_mechanics.conformance.shares import Shares
from batchnorm_mechanics.conformance.subject import Setting
from batchnorm_mechanics.conformance.tolerance import bound

OUTPUTS = (TRAINING_OUTPUT, INFERENCE_OUTPUT, MOVING_MEAN, MOVING_VARIANCE, DX, DGAMMA, DBETA)


def evidence_of(name, momentum_weighs="old", **wrong):
    """The evidence of a case in which all is right but for these outputs.

    Each wrong one is a function of a `Numbers`; its name has _ where an output's has a space.
    """
    [case] = [case for case in select(name) if case.name == name]
    data = draw(case)
    setting = Setting(
        case.shape,
        case.kept,
        case.dtype,
        case.epsilon,
        case.decay if momentum_weighs == "old" else 1 - case.decay,
        data.gamma,
        data.beta,
        data.moving_mean,
        data.moving_variance,
    )
    found = Evidence(setting, momentum_weighs, False, data.batches, data.masks, data.dy, data.probe)
    actual, right, tolerance = {}, {}, {}
    # Inference is judged by the statistics that the subject has, so that they come first.
    for what in (MOVING_MEAN, MOVING_VARIANCE, *(o for o in OUTPUTS if not o.startswith("moving"))):
        found = replace(found, actual=dict(actual))
        right[what], tolerance[what] = expected(found, what), bound(found, what).tolerance
        make = wrong.get(what.replace(" ", "_"))
        value = right[what] if make is None else make(Numbers(found))
        actual[what] = np.asarray(value).astype(data.probe.dtype)
    return replace(found, actual=actual, expected=right, tolerance=tolerance)


class Numbers:
    """The parts of the formulas in float64, with size 1 where an axis is reduced."""

    def __init__(self, found):
        setting, axes = found.setting, found.axes
        self.axes, self.epsilon = axes, setting.epsilon
        self.x, self.dy, self.probe = (
            v.astype(np.float64) for v in (found.batches[0], found.dy, found.probe)
        )
        self.gamma, self.beta, self.old_mean, self.old_variance = (
            np.expand_dims(v, axes)
            for v in (setting.gamma, setting.beta, setting.moving_mean, setting.moving_variance)
        )
        self.mean = self.x.mean(axes, keepdims=True)
        self.variance = self.x.var(axes, keepdims=True)
        self.m = self.x.size // self.mean.size
        self.deviation = self.x - self.mean
        self.x_hat = self.deviation / np.sqrt(self.variance + self.epsilon)
        self.momentum = setting.momentum

    def y(self, divisor):
        return self.gamma * self.deviation / divisor + self.beta

    def flat(self, value):
        return np.squeeze(value, self.axes)

    def kept(self):
        return self.flat(self.momentum * self.old_variance)


def bessel(n):
    return n.y(np.sqrt(n.variance * n.m / (n.m - 1) + n.epsilon))


def outside(n):
    return n.y(np.sqrt(n.variance) + n.epsilon)


def reversed_mean(n, weighs="old"):
    decay = n.momentum if weighs == "new" else 1 - n.momentum
    return n.flat(decay * n.old_mean + (1 - decay) * n.mean)


def reversed_variance(n, weighs="old"):
    decay = n.momentum if weighs == "new" else 1 - n.momentum
    return n.flat(decay * n.old_variance + (1 - decay) * n.variance)


def without_variance(n, divisor=None):
    divisor = np.sqrt(n.variance + n.epsilon) if divisor is None else divisor
    d_x_hat = n.dy * n.gamma
    return (d_x_hat - d_x_hat.mean(n.axes, keepdims=True)) / divisor


def without_epsilon(n):
    return n.gamma * (n.probe - n.old_mean) / np.sqrt(n.old_variance) + n.beta


def nonsense(n):
    return np.sin(n.x) + n.gamma


def flat_nonsense(n):
    return n.flat(np.sin(n.old_variance) * 3)


def names(*failures):
    return diagnose(failures)


@pytest.mark.parametrize(
    ("what", "wrong", "name"),
    [
        (TRAINING_OUTPUT, bessel, "variance divided by m'-1 in the normalization itself"),
        (TRAINING_OUTPUT, outside, "epsilon outside the root"),
        (TRAINING_OUTPUT, lambda n: n.y(n.variance + n.epsilon), "variance used where the"),
        (
            TRAINING_OUTPUT,
            lambda n: n.y(np.sqrt(np.sqrt(n.variance) + n.epsilon)),
            "standard deviation used where variance belongs",
        ),
        (DX, without_variance, "gradient through the variance missing"),
        (
            DX,
            lambda n: n.dy * n.gamma / np.sqrt(n.variance + n.epsilon),
            "gradient through both statistics missing",
        ),
        (MOVING_VARIANCE, lambda n: n.flat(n.old_variance), "moving variance never updated"),
        (
            MOVING_VARIANCE,
            lambda n: n.flat(n.momentum * n.old_variance + (1 - n.momentum) * np.sqrt(n.variance)),
            "standard deviation used where variance belongs, in the moving average",
        ),
    ],
)
@pytest.mark.parametrize("case", ["one step rank 4", "dtype float64 rank 2 keep 1"])
def test_a_wrong_formula_is_named(case, what, wrong, name):
    found = evidence_of(case, **{what.replace(" ", "_"): wrong})
    [diagnosis] = names((found, what))
    assert diagnosis.startswith(name)


@pytest.mark.parametrize("weighs", ["old", "new"])
def test_a_reversed_momentum_is_named_by_what_its_subject_declares(weighs):
    found = evidence_of(
        "one step rank 2",
        momentum_weighs=weighs,
        moving_mean=lambda n: reversed_mean(n, weighs),
        moving_variance=lambda n: reversed_variance(n, weighs),
    )
    name = "momentum reversed against the declared convention"
    assert names((found, MOVING_MEAN), (found, MOVING_VARIANCE)) == [name, name]


def test_gradients_that_are_averaged_are_named():
    found = evidence_of(
        "one step rank 4",
        dgamma=lambda n: n.flat((n.dy * n.x_hat).mean(n.axes, keepdims=True)),
        dbeta=lambda n: n.flat(n.dy.mean(n.axes, keepdims=True)),
    )
    name = "dgamma and dbeta averaged instead of summed"
    assert names((found, DGAMMA), (found, DBETA)) == [name, name]


def test_what_no_mistake_gives_has_no_name():
    found = evidence_of("one step rank 4", training_output=nonsense)
    assert names((found, TRAINING_OUTPUT)) == [None]


def test_right_numbers_have_no_mistake_in_them():
    assert names((evidence_of("one step rank 4"), TRAINING_OUTPUT)) == [None]


def test_an_output_that_the_evidence_does_not_hold_has_no_name():
    assert names((evidence_of("one step rank 4"), "dtype of the output")) == [None]


def no_epsilon(n):
    return n.y(np.sqrt(n.variance))


def test_mistakes_that_the_data_do_not_tell_apart_are_all_named():
    [diagnosis] = names(
        (evidence_of("offset 1 float64", training_output=no_epsilon), TRAINING_OUTPUT)
    )
    assert diagnosis.split(" or ") == [
        "epsilon missing",
        "the larger of variance and epsilon used instead of their sum",
    ]


def test_one_case_that_tells_them_apart_decides_for_the_others():
    cases = ("offset 1 float64", "scale 0.001 float64")
    found = [evidence_of(case, training_output=no_epsilon) for case in cases]
    name = "epsilon missing, in training only"
    assert diagnose([(each, TRAINING_OUTPUT) for each in found]) == [name, name]


def test_right_outputs_tell_mistakes_apart_that_two_samples_do_not():
    found = evidence_of("batch of 2 rank 2", training_output=bessel)
    # A variance that is summed, and so twice as large too, would be so in the moving average.
    assert names((found, TRAINING_OUTPUT)) == [
        "variance divided by m'-1 in the normalization itself"
    ]


def test_each_of_two_mistakes_is_named_where_it_shows():
    found = evidence_of(
        "one step rank 4",
        training_output=bessel,
        moving_mean=reversed_mean,
        moving_variance=reversed_variance,
    )
    assert names((found, MOVING_MEAN), (found, TRAINING_OUTPUT)) == [
        "momentum reversed against the declared convention",
        "variance divided by m'-1 in the normalization itself",
    ]


def test_a_wrong_gradient_of_a_wrong_output_is_named_by_both():
    found = evidence_of(
        "one step rank 2",
        training_output=lambda n: n.y(n.variance + n.epsilon),
        dx=lambda n: without_variance(n, n.variance + n.epsilon),
        dgamma=lambda n: n.flat(
            (n.dy * n.deviation / (n.variance + n.epsilon)).sum(n.axes, keepdims=True)
        ),
    )
    named = names((found, TRAINING_OUTPUT), (found, DGAMMA), (found, DX))
    assert named == [
        "variance used where the standard deviation belongs, in training only",
        "variance used where the standard deviation belongs, in training only",
        "variance used where the standard deviation belongs, "
        "and gradient through the variance missing, in training only",
    ]


def test_a_mistake_that_right_outputs_refute_is_not_named():
    frozen = {"moving_variance": lambda n: n.flat(n.old_variance)}
    wrong = evidence_of("one step rank 4", **frozen)
    # Two more, broken in another way, whose moving variance is right.
    right = [
        evidence_of(case, training_output=nonsense)
        for case in ("one step rank 2", "offset 1 float32")
    ]
    failures = [(wrong, MOVING_VARIANCE), *((each, TRAINING_OUTPUT) for each in right)]
    assert diagnose(failures) == [None, None, None]
    assert diagnose(failures[:1]) == ["moving variance never updated"]


def test_a_mistake_of_one_mode_is_said_to_be_of_that_mode():
    found = evidence_of(
        "scale 0.001 float64",
        inference_output=lambda n: without_epsilon(with_own_statistics(n)),
    )
    assert names((found, INFERENCE_OUTPUT)) == ["epsilon missing, in inference only"]


def with_own_statistics(n):
    n.old_mean = n.momentum * n.old_mean + (1 - n.momentum) * n.mean
    n.old_variance = n.momentum * n.old_variance + (1 - n.momentum) * n.variance
    return n


def test_wrong_axes_are_named_with_the_right_ones():
    def pixelwise(n):
        mean, variance = n.x.mean(0, keepdims=True), n.x.var(0, keepdims=True)
        return n.gamma * (n.x - mean) / np.sqrt(variance + n.epsilon) + n.beta

    found = evidence_of("one step rank 4", training_output=pixelwise)
    assert names((found, TRAINING_OUTPUT)) == [
        "reduced over the wrong axes: (0,) instead of (0, 1, 2)"
    ]


def in_float32(n, variance):
    x = n.x.astype(np.float32)
    mean = x.mean(n.axes, keepdims=True)
    return n.gamma * (x - mean) / np.sqrt(variance(x, mean) + np.float32(n.epsilon)) + n.beta


def one_pass(n):
    return in_float32(
        n, lambda x, mean: np.maximum((x * x).mean(n.axes, keepdims=True) - mean * mean, 0)
    )


def test_a_variance_in_one_pass_is_known_by_the_line_that_it_draws():
    found = evidence_of("offset 10000 float32", training_output=one_pass)
    assert names((found, TRAINING_OUTPUT)) == ["variance computed as E[x^2] - E[x]^2"]


def test_lost_digits_count_for_what_follows_from_them_where_they_are_shown():
    shown = evidence_of("offset 10000 float32", training_output=one_pass)
    # A hundredth of what one pass may lose there, and far beyond what two may.
    odd = evidence_of(
        "offset 100 float32", moving_variance=lambda n: n.flat(n.variance * 0.25 + 1e-4) + n.kept()
    )
    name = "variance computed as E[x^2] - E[x]^2"
    assert names((odd, MOVING_VARIANCE)) == [None]
    assert names((shown, TRAINING_OUTPUT), (odd, MOVING_VARIANCE)) == [name, name]


def test_a_mistake_counts_for_the_noise_that_it_makes_of_constant_channels():
    shown = evidence_of("one step rank 2", training_output=outside)
    noise = evidence_of("all channels constant rank 2", training_output=lambda n: n.x * 1e-3)
    assert names((noise, TRAINING_OUTPUT)) == [None]
    assert len(set(names((shown, TRAINING_OUTPUT), (noise, TRAINING_OUTPUT)))) == 1


def test_a_variance_far_off_is_not_called_imprecise():
    found = evidence_of(
        "offset 10000 float32", training_output=lambda n: n.y(np.sqrt(40 * n.variance + n.epsilon))
    )
    wrong = evidence_of(
        "offset 1 float32", training_output=lambda n: n.y(np.sqrt(40 * n.variance + n.epsilon))
    )
    assert names((wrong, TRAINING_OUTPUT)) == [None]
    assert names((found, TRAINING_OUTPUT), (wrong, TRAINING_OUTPUT))[1] is None


def test_an_output_whose_digits_end_early_is_of_half_precision():
    found = evidence_of(
        "one step rank 4",
        training_output=lambda n: n.y(np.sqrt(n.variance + n.epsilon)).astype(np.float16),
    )
    assert names((found, TRAINING_OUTPUT)) == ["output computed in half precision"]


def test_half_precision_is_named_beside_a_channel_that_is_not_finite():
    found = evidence_of(
        "one NaN rank 4",
        training_output=lambda n: n.y(np.sqrt(n.variance + n.epsilon)).astype(np.float16),
        dgamma=lambda n: n.flat((n.dy * n.x_hat).sum(n.axes, keepdims=True)) * (1 + 2.0**-11),
    )
    name = "output computed in half precision"
    assert names((found, TRAINING_OUTPUT), (found, DGAMMA)) == [name, name]


def test_noise_in_all_digits_is_not_called_half_precision():
    noise = np.random.default_rng(1).uniform(-5e-4, 5e-4, (3, 4, 2, 5))
    found = evidence_of(
        "one step rank 4",
        training_output=lambda n: n.y(np.sqrt(n.variance + n.epsilon)) + noise,
    )
    assert names((found, TRAINING_OUTPUT)) == [None]


def test_what_is_lost_in_a_file_is_named_for_the_outputs_after_loading():
    found = evidence_of("saving and loading rank 2 keep 1")
    what = f"{TRAINING_OUTPUT} after loading"
    n = Numbers(found)
    held = replace(
        found,
        actual={**found.actual, what: n.y(np.sqrt(n.variance + 1e-3)).astype(np.float32)},
        expected={**found.expected, what: found.actual[TRAINING_OUTPUT].astype(np.float64)},
        tolerance={**found.tolerance, what: found.tolerance[TRAINING_OUTPUT]},
    )
    assert names((held, what)) == [
        "not restored by saving and loading: epsilon, which is 0.001 again"
    ]


def test_no_two_mistakes_give_the_same_everywhere():
    cases = (
        "mask over batch and time, some out",
        "mask over batch, all out",
        "saving and loading rank 2 keep 1",
    )
    materials = [Material(evidence_of(case)) for case in cases]
    of_replicas = [
        Material(replace(found, setting=replace(found.setting, shares=shares)))
        for found in map(evidence_of, ("mask over batch and time, some out", "one step rank 2"))
        for shares in (Shares(2, "one empty", True), Shares(2, "uneven", True))
    ]
    seen = {}
    for hypothesis in CATALOGUE:
        if hypothesis.reloaded:
            continue
        marks = []
        for material in [*materials, *(of_replicas if hypothesis in SHARING else ())]:
            prediction = Prediction(hypothesis.steps, material)
            values = [prediction.of(what) for what in OUTPUTS]
            marks += [
                None if v is None else np.round(np.where(np.isfinite(v), v, 0), 9).tobytes()
                for v in values
            ]
        same = seen.setdefault(tuple(marks), hypothesis.name)
        # Axes that are kept and given by two of the rules are one mistake with one name.
        assert same == hypothesis.name


def failures_of(**wrong):
    plain = [case.name for case in select("axes") if case.samples > 2]
    found = [evidence_of(name, **wrong) for name in plain]
    return [(each, what) for each in found for what in (TRAINING_OUTPUT, MOVING_VARIANCE)][:100]


@pytest.mark.parametrize("wrong", [bessel, nonsense])
def test_a_hundred_failures_are_diagnosed_in_seconds_whether_or_not_they_have_a_name(wrong):
    failures = failures_of(training_output=wrong, moving_variance=flat_nonsense)
    begun = time.process_time()
    diagnosed = diagnose(failures)
    # Two on an idle core; all threads count here, and TensorFlow's first steps.
    assert time.process_time() - begun < 10
    name = "variance divided by m'-1 in the normalization itself" if wrong is bessel else None
    assert set(diagnosed) == {name, None}
    assert len(diagnosed) == len(failures) > 80


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("moving mean", ("moving mean", "")),
        ("moving mean one step after loading", ("moving mean", " one step after loading")),
        ("inference output of one sample alone", ("inference output", " of one sample alone")),
    ],
)
def test_an_output_is_told_from_when_it_was_asked_for(what, found):
    assert parts(what) == found


def test_a_gradient_is_not_named_beside_an_output_that_its_mistake_does_not_give():
    found = evidence_of("one step rank 2", training_output=nonsense, dx=without_variance)
    assert names((found, DX)) == [None]


def test_a_mistake_that_takes_away_little_of_an_error_is_not_its_name():
    found = evidence_of("one step rank 4")
    n, right = Numbers(found), found.expected[TRAINING_OUTPUT]
    shift = no_epsilon(n) - right
    tolerance = 2 * np.max(np.abs(shift))
    # Off by 1.2 tolerances in one element, half a tolerance of which a missing epsilon explains.
    off = np.where(np.abs(shift) == np.max(np.abs(shift)), 1.2 * tolerance * np.sign(shift), 0)
    vague = replace(
        found,
        actual={TRAINING_OUTPUT: right + off},
        expected={TRAINING_OUTPUT: right},
        tolerance={TRAINING_OUTPUT: np.full_like(right, tolerance)},
    )
    assert names((vague, TRAINING_OUTPUT)) == [None]
