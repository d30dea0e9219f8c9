"""The table of cases: what it holds, how it is searched, and the numbers that it draws."""

from itertools import combinations

import numpy as np
import pytest
from oracle_cases import DTYPES, whole

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.cases import CASES, draw, select

NAMES = {case.name: case for case in CASES}


def test_each_case_has_a_name_of_its_own():
    assert len(NAMES) == len(CASES)
    assert 110 <= len(CASES) <= 140


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_every_set_of_reduced_axes_is_there(rank):
    found = {case.kept for case in select("axes") if len(case.shape) == rank}
    assert found == {kept for number in range(rank) for kept in combinations(range(rank), number)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [2, 4])
def test_every_dtype_is_there_in_ranks_2_and_4(dtype, rank):
    assert any(c.dtype == dtype and len(c.shape) == rank for c in select("dtype"))


@pytest.mark.parametrize("size", [0, 1, 2, 60, 61])
def test_every_batch_size_is_there(size):
    assert any(case.shape[0] == size for case in select("batch of"))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_offset_and_every_scale_is_there(dtype):
    offsets = {case.offset for case in select("offset") if case.dtype == dtype}
    scales = {case.scale for case in select("scale") if case.dtype == dtype}
    assert offsets == {0, 1, 1e2, 1e4, 1e6}
    assert scales == {1e-6, 1e-3, 1, 1e3, 1e6}


def test_a_group_or_a_part_of_a_name_selects_cases():
    assert {case.group for case in select("offset")} == {"offset"}
    assert [case.name for case in select("NaN rank 4")] == ["one NaN rank 4"]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("ofset", "Did you mean 'offset'?"),
        (
            " ",
            "Groups: axes, dtype, batch, offset, scale, constant, not finite, mask, steps, saving, "
            "behaviour, edge cases.",
        ),
    ],
)
def test_a_selection_without_cases_is_refused(wanted, hint):
    with pytest.raises(
        InputError,
        match=whole(
            "conform: `cases` must be a group of cases or part of a case's name. "
            f"Received: cases={wanted!r}. {hint}"
        ),
    ):
        select(wanted)


def test_the_same_case_always_has_the_same_numbers():
    for name in ("axes rank 3 keep 1 float32", "mask over batch, some out"):
        one, other = draw(NAMES[name]), draw(NAMES[name])
        np.testing.assert_array_equal(one.batches[0], other.batches[0])
        np.testing.assert_array_equal(one.dy, other.dy)
        np.testing.assert_array_equal(one.gamma, other.gamma)


def test_numbers_are_of_the_dtype_and_parameters_are_exact_in_it():
    for dtype, type_ in DTYPES.items():
        data = draw(NAMES[f"dtype {dtype} rank 4 keep 3"])
        assert data.batches[0].dtype == data.dy.dtype == data.probe.dtype == np.dtype(type_)
        for value in (data.gamma, data.beta, data.moving_mean, data.moving_variance):
            np.testing.assert_array_equal(value.astype(type_).astype(np.float64), value)


def test_channels_have_their_own_mean_and_spread_and_no_two_parameters_are_alike():
    data = draw(NAMES["batch of 60 rank 2"])
    x = data.batches[0]
    assert np.min(np.diff(np.sort(x.mean(0)))) > 0.05
    assert np.min(np.diff(np.sort(x.std(0)))) > 0.01
    for value in (data.gamma, data.beta, data.moving_mean, data.moving_variance):
        assert len(np.unique(value)) == 3
        assert np.min(np.diff(np.sort(np.abs(value)))) > 0.01
        assert np.all(np.abs(value) > 0.01)
    assert np.all(np.abs(data.gamma - data.beta) > 0.2)


@pytest.mark.parametrize("rank", [2, 4])
def test_one_channel_is_constant_and_the_others_vary(rank):
    x = draw(NAMES[f"one channel constant rank {rank}"]).batches[0]
    spread = x.std(axis=tuple(range(rank - 1)), dtype=np.float64)
    assert spread[0] < 1e-12
    assert np.all(spread[1:] > 0.1)


@pytest.mark.parametrize(("word", "test"), [("NaN", np.isnan), ("inf", np.isinf)])
def test_one_element_is_not_finite(word, test):
    for rank in (2, 4):
        x = draw(NAMES[f"one {word} rank {rank}"]).batches[0]
        assert np.sum(test(x)) == 1
        assert np.sum(~np.isfinite(x)) == 1


@pytest.mark.parametrize(("words", "some", "left"), [("some out", 2, None), ("one left", 1, 1)])
def test_masks_leave_out_what_they_say_and_what_is_left_out_has_no_gradient(words, some, left):
    for over in ("batch", "batch and time"):
        data = draw(NAMES[f"mask over {over}, {words}"])
        mask = data.masks[0]
        assert mask.shape == data.batches[0].shape[:-1]
        assert some <= mask.sum() < mask.size
        assert left is None or mask.sum() == left
        assert np.all(data.dy[~mask] == 0)
        assert np.all(data.dy[mask] != 0)


def test_what_a_mask_leaves_out_would_show_if_it_were_taken_in():
    for over in ("batch", "batch and time"):
        data = draw(NAMES[f"mask over {over}, some out"])
        x, mask = data.batches[0], data.masks[0]
        assert np.all(x[~mask].mean(0) - x[mask].mean(0) > 3)


def test_steps_have_batches_of_different_sizes():
    data = draw(NAMES["ten steps rank 4"])
    assert len(data.batches) == 10
    assert len({len(x) for x in data.batches}) >= 5
    assert min(len(x) for x in data.batches) >= 2
