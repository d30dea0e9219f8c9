"""Conventions are found from behaviour alone, and a broken subject never stops the probe."""

from dataclasses import replace

import numpy as np
import pytest
from conformance.numpy_subject import ALL, NumpySubject

from batchnorm_mechanics.conformance import subjects
from batchnorm_mechanics.conformance.conventions import find_conventions, growth
from batchnorm_mechanics.conformance.record import Conventions
from batchnorm_mechanics.conformance.show import describe
from batchnorm_mechanics.conformance.subject import Ability

KERAS = Conventions(
    moving_variance="biased",
    momentum_weighs="old",
    default_momentum=0.99,
    epsilon_place="inside",
    default_epsilon=1e-3,
    initial_mean=0.0,
    initial_variance=1.0,
    axis_kept=-1,
    default_mode="inference",
    moves_in_inference=False,
    one_sample="normalizes",
    empty_batch="refuses",
    large_mean="proportional",
)


def test_every_convention_of_a_subject_that_does_as_keras_does_is_found():
    assert find_conventions(NumpySubject()) == KERAS


@pytest.mark.parametrize(
    ("choices", "field", "found"),
    [
        ({"variance": "unbiased"}, "moving_variance", "unbiased"),
        ({"variance": "none"}, "moving_variance", "none"),
        ({"variance": "other"}, "moving_variance", "other"),
        ({"weighs": "new", "momentum": 0.1}, "momentum_weighs", "new"),
        ({"weighs": "new", "momentum": 0.1}, "default_momentum", 0.1),
        ({"momentum": 0.999}, "default_momentum", 0.999),
        ({"momentum": 0.9}, "default_momentum", 0.9),
        ({"place": "outside"}, "epsilon_place", "outside"),
        ({"place": "variance"}, "epsilon_place", None),
        ({"epsilon": 1e-5}, "default_epsilon", 1e-5),
        ({"epsilon": 1e-12}, "default_epsilon", 1e-12),
        ({"epsilon": 1e-5, "place": "outside"}, "default_epsilon", 1e-5),
        ({"epsilon": 0.0}, "default_epsilon", None),
        ({"initial": (0.5, 0.0)}, "initial_mean", 0.5),
        ({"initial": (0.5, 0.0)}, "initial_variance", 0.0),
        ({"axis": 1}, "axis_kept", 1),
        ({"axis": 2}, "axis_kept", None),
        ({"mode": "training"}, "default_mode", "training"),
        ({"moves_in_inference": True}, "moves_in_inference", True),
        ({"moves_in_inference": True, "in_place": True}, "moves_in_inference", True),
        ({"initial": (float("nan"), 1.0)}, "moves_in_inference", False),
        ({"one_sample": "refuses"}, "one_sample", "refuses"),
        ({"one_sample": "odd"}, "one_sample", None),
        ({"empty": "ignores"}, "empty_batch", "ignores"),
        ({"empty": "poisons"}, "empty_batch", "poisons"),
        ({"large_mean": "quadratic"}, "large_mean", "quadratic"),
        ({"large_mean": "exact"}, "large_mean", "exact"),
    ],
)
def test_a_convention_that_differs_from_keras_is_found(choices, field, found):
    value = getattr(find_conventions(NumpySubject(**choices)), field)
    assert (
        value == found
        if not isinstance(found, float)
        else value == pytest.approx(found, rel=1e-6, abs=0)
    )


@pytest.mark.parametrize("default", [1e-3, 1e-5, 1e-12])
def test_a_default_epsilon_is_found_in_training_where_statistics_cannot_be_set(default):
    found = find_conventions(NumpySubject(epsilon=default, takes_statistics=False))
    assert (found.epsilon_place, found.default_epsilon) == (
        "inside",
        pytest.approx(default, rel=1e-6, abs=0),
    )


def test_an_epsilon_that_cannot_be_set_is_found_all_the_same():
    found = find_conventions(NumpySubject(epsilon=1e-4, takes_epsilon=False))
    assert (found.epsilon_place, found.default_epsilon) == ("inside", pytest.approx(1e-4))


def test_statistics_that_cannot_be_set_are_told_from_what_they_start_with():
    found = find_conventions(NumpySubject(takes_statistics=False, variance="unbiased"))
    assert (found.moving_variance, found.default_momentum) == ("unbiased", 0.99)


def test_without_a_momentum_there_is_none_to_weigh_anything():
    found = find_conventions(NumpySubject(takes_momentum=False, variance="unbiased"))
    assert found.moving_variance == "unbiased"
    assert (found.momentum_weighs, found.default_momentum) == (None, None)


def test_momentum_and_variance_are_told_apart_although_the_training_output_is_wrong():
    found = find_conventions(NumpySubject(wrong_output=True, variance="unbiased", weighs="new"))
    assert (found.moving_variance, found.momentum_weighs) == ("unbiased", "new")
    assert found.large_mean is None


def test_momentum_is_told_from_the_variance_where_the_mean_never_moves():
    found = find_conventions(NumpySubject(mean_moves=False, variance="unbiased", weighs="new"))
    assert (found.moving_variance, found.momentum_weighs) == ("unbiased", "new")


def test_momentum_is_told_from_the_mean_where_the_variance_never_moves():
    found = find_conventions(NumpySubject(variance="none"))
    assert (found.momentum_weighs, found.default_momentum) == ("old", 0.99)


def test_statistics_that_are_written_in_place_are_seen_to_move():
    assert find_conventions(NumpySubject(in_place=True)) == KERAS


@pytest.mark.parametrize("where", ["open", "statistics", "train", "infer"])
def test_a_subject_that_raises_leaves_unknown_what_it_raised_at(where):
    found = find_conventions(NumpySubject(raises_in=(where,)))
    assert found.moves_in_inference is None or where == "train"
    assert found.moving_variance is None or where == "infer"


def test_nothing_is_asked_that_a_subject_is_not_able_to():
    found = find_conventions(NumpySubject(abilities=ALL - {Ability.STATISTICS, Ability.CALL}))
    assert (found.moving_variance, found.default_mode, found.empty_batch) == (None, None, None)
    assert (found.axis_kept, found.epsilon_place) == (-1, "inside")


def test_an_inference_only_subject_shows_its_epsilon():
    found = find_conventions(NumpySubject(abilities=frozenset({Ability.INFER}), epsilon=1e-5))
    assert (found.epsilon_place, found.default_epsilon) == ("inside", 1e-5)


def test_a_subject_of_float64_alone_is_probed_in_float64():
    found = find_conventions(NumpySubject(dtypes=("float64",)))
    assert (found.moving_variance, found.large_mean) == ("biased", None)


def test_an_error_that_starts_below_the_noise_is_fitted_where_it_stands_above():
    assert growth(1e-6, (1e1, 1e2, 1e3, 1e4), [1e-6, 2e-5, 2e-3, 0.6]) == "quadratic"


class Stacked(NumpySubject):
    """Right but for an axis too many."""

    def open(self, setting):
        session = super().open(setting)
        train, infer = session.train, session.infer
        session.train, session.infer = lambda x: train(x)[None], lambda x: infer(x)[None]
        return session


def test_an_output_of_another_shape_tells_nothing():
    found = find_conventions(Stacked())
    assert (found.epsilon_place, found.one_sample, found.large_mean) == (None, None, None)
    assert found.moving_variance == "biased"


class OfSmallNumbers(NumpySubject):
    """Raises at numbers that the search for conventions comes to last."""

    def open(self, setting):
        session = super().open(setting)
        train = session.train

        def checked(x):
            if np.max(np.abs(x)) > 1e4:
                raise OverflowError("too large")
            return train(x)

        session.train = checked
        return session


def test_an_error_that_is_missing_leaves_the_growth_unknown():
    assert find_conventions(OfSmallNumbers()) == replace(KERAS, large_mean=None)


@pytest.mark.parametrize("name", ["keras", "tf.fused"])
def test_the_conventions_of_tensorflow_are_the_measured_ones(name):
    from batchnorm_mechanics.conformance import subjects

    found = find_conventions(subjects.resolve(name))
    assert found.moving_variance == {"keras": "biased", "tf.fused": "unbiased"}[name]
    assert found.large_mean == "proportional"


def test_the_conventions_of_torch_are_the_measured_ones():
    pytest.importorskip("torch")
    from batchnorm_mechanics.conformance import subjects

    found = find_conventions(subjects.resolve("torch"))
    assert (found.moving_variance, found.momentum_weighs) == ("unbiased", "new")
    assert (found.default_momentum, found.default_epsilon) == (0.1, 1e-5)
    assert (found.axis_kept, found.one_sample) == (1, "refuses")


def test_each_convention_has_a_line_of_its_own_that_fits_a_table():
    other = Conventions(
        moving_variance="unbiased",
        momentum_weighs="new",
        default_momentum=0.1,
        epsilon_place="outside",
        default_epsilon=1.234567e-05,
        initial_mean=0.5,
        initial_variance=0.0,
        axis_kept=1,
        default_mode="training",
        moves_in_inference=True,
        one_sample="refuses",
        empty_batch="poisons",
        large_mean="quadratic",
    )
    for conventions in (KERAS, other):
        lines = describe(conventions)
        # The two initial values share a line.
        assert len(set(lines)) == 12
        # Indented by two, in 80 columns.
        assert all(len(line) <= 76 for line in lines)


def test_nothing_is_said_of_what_could_not_be_told():
    assert describe(Conventions()) == []


def test_what_a_subject_has_no_default_for_is_no_convention_of_its():
    found = find_conventions(subjects.resolve("tf.nn"))
    assert (found.axis_kept, found.default_epsilon, found.initial_mean) == (None, None, None)
    assert found.epsilon_place == "inside"
