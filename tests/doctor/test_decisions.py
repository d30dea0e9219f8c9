"""What counts as worse after a repair."""

import math

import pytest

from batchnorm_mechanics.doctor.decisions import worsening
from batchnorm_mechanics.doctor.findings import Diagnosis
from batchnorm_mechanics.doctor.rules import RULES


def measured(samples=1000, **measures):
    return Diagnosis("net", ("bn",), (), samples=samples, measures=measures)


# Three times sqrt(0.1 / n), and one point at least.
@pytest.mark.parametrize(("samples", "limit"), [(100, 0.0949), (1000, 0.03), (100_000, 0.01)])
def test_a_drop_of_accuracy_counts_beyond_chance(samples, limit):
    before = measured(samples, accuracy=0.9)
    assert worsening(before, measured(samples, accuracy=0.9 - limit + 0.001)) is None
    assert worsening(before, measured(samples, accuracy=0.9 - limit - 0.001)) is not None


@pytest.mark.parametrize("old", range(1, 101))
def test_a_drop_by_the_limit_itself_is_none_wherever_it_lies(old):
    before, after = measured(10**6, accuracy=old / 100), measured(10**6, accuracy=(old - 1) / 100)
    assert worsening(before, after) is None


def test_accuracy_decides_where_it_is_known():
    before, after = measured(loss=0.1, accuracy=0.8), measured(loss=0.5, accuracy=0.9)
    assert worsening(before, after) is None
    assert "accuracy 0.9 before and 0.8 after" in worsening(after, before)


@pytest.mark.parametrize(("old", "new"), [(0.5, 0.54), (math.nan, 3.0), (math.inf, 3.0)])
def test_a_loss_that_grows_little_or_was_no_number_is_no_harm(old, new):
    assert worsening(measured(loss=old), measured(loss=new)) is None


@pytest.mark.parametrize(("old", "new"), [(0.5, 0.56), (0.5, math.nan), (0.0, 0.1)])
def test_a_loss_that_grows_by_more_than_a_tenth_is_harm(old, new):
    assert "loss" in worsening(measured(loss=old), measured(loss=new))


def test_nothing_is_worse_than_no_numbers():
    before = measured(accuracy=0.1, gap=math.nan)
    assert worsening(before, measured(accuracy=0.0, gap=0.1)) is None


def test_nothing_is_worse_than_spoilt_weights_even_if_no_output_shows_it():
    spoilt = RULES["BN101"].finding("bn", channels=[1], cause="...", remedy="...")
    before = Diagnosis(
        "net", ("bn",), (spoilt,), samples=1000, measures={"accuracy": 0.9, "gap": 0.1}
    )
    assert worsening(before, measured(accuracy=0.5, gap=0.1)) is None


def test_without_labels_nothing_is_known():
    assert worsening(measured(gap=0.1), measured(gap=5.0)) is None
