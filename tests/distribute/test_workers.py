"""Two and three processes that train together against one that has the whole batch.

What each does is in `worker_cases.py`; the one that stands for the truth runs Keras's `fit` as it
is, without a strategy, and only our layers.
"""

import functools

import numpy as np
import pytest
import worker_cases
from worker_processes import run_in, train_together

from batchnorm_mechanics.distribute.workers import Joined

# Three processes do what two do, in more parts.
COUNTS = [2, pytest.param(3, marks=pytest.mark.thorough)]
pytestmark = pytest.mark.slow

BOUND = 1e-5


@pytest.fixture(scope="module")
def of_workers(tmp_path_factory):
    """Return what so many workers did; each number of them is started once."""

    @functools.cache
    def ended(count):
        folder = tmp_path_factory.mktemp(f"workers{count}")
        function = {2: worker_cases.of_two, 3: worker_cases.of_three}[count]
        results, printed = train_together(count, function, folder=folder)
        assert None not in results, printed
        return results, printed

    return lambda count: ended(count)[0]


@pytest.fixture(scope="module")
def of_one():
    """Return what one process does, which is what two workers are asked and three are."""
    return worker_cases.of_two()


def sequences_of(results, count):
    """Return what each worker has of the training on sequences."""
    assert len(results) == count
    return [worker[0] for worker in results]


def assert_close(found, expected, name, bound=BOUND):
    """Compare by the largest value of each array; where one is near 0, it is no measure."""
    for one, due in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, due, rtol=0, atol=bound * np.max(np.abs(due)), err_msg=name)


@pytest.mark.parametrize("count", COUNTS)
def test_workers_have_the_losses_gradients_and_weights_of_one_process(count, of_workers, of_one):
    due = of_one[0]
    assert len(due["losses"]) > 100
    # What is shown after a step is the mean of what each worker has by then; after the last of an
    # epoch, which one of them has alone, it is merged by count in the history.
    shown = (np.arange(len(due["losses"])) + 1) % (len(due["losses"]) // worker_cases.EPOCHS) != 0
    for worker in sequences_of(of_workers(count), count):
        losses = worker["losses"]
        np.testing.assert_allclose(losses[shown], due["losses"][shown], rtol=BOUND)
        assert_close(worker["gradients"], due["gradients"], "gradients")
        assert_close(worker["weights"], due["weights"], "weights")
        for name in ("loss", "mae"):
            np.testing.assert_allclose(worker["history"][name], due["history"][name], rtol=BOUND)


@pytest.mark.parametrize("count", COUNTS)
def test_layers_that_are_not_synchronized_keep_statistics_of_all_workers(count, of_workers, of_one):
    first, *others = [worker["statistics"] for worker in sequences_of(of_workers(count), count)]
    mean, variance = of_one[0]["statistics"][2:]
    np.testing.assert_allclose(first[2], mean, rtol=1e-6)
    # Of each worker's own mean, rounded to 1e-3 at 1e4, as `core.merge_replicas` says.
    np.testing.assert_allclose(first[3], variance, rtol=2e-5)
    for other in others:
        for one, same in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_workers_evaluate_and_predict_as_one_process(of_workers, of_one):
    due = of_one[0]
    for worker in sequences_of(of_workers(2), 2):
        assert worker["outputs"].shape == due["outputs"].shape
        # The moving mean of 1e4 is rounded to 1e-3, where a standard deviation is 2.
        np.testing.assert_allclose(worker["outputs"], due["outputs"], atol=2e-3)
        for name in ("val_loss", "val_mae"):
            np.testing.assert_allclose(worker["history"][name], due["history"][name], rtol=1e-3)


def test_each_worker_knows_who_trains(of_workers):
    for count in (2, 3):
        joined = [worker["joined"] for worker in sequences_of(of_workers(count), count)]
        assert joined == [Joined(count, count, index == 0) for index in range(count)]


def test_shuffled_arrays_give_each_sample_once_an_epoch_to_one_worker(of_workers):
    results = [worker[1] for worker in of_workers(3)]
    epochs = [np.concatenate([worker[epoch] for worker in results]) for epoch in range(2)]
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows), np.arange(worker_cases.SIZE))
    assert not np.array_equal(*epochs)


def test_a_dataset_in_an_order_of_each_workers_own_is_warned_of(of_workers):
    for worker in of_workers(3):
        said = worker[2]
        assert said["own"] == ["fit: the first batch of `x` is not the same on all workers."]
        assert [said[name] for name in ("seed", "off", "text")] == [[], [], []]


@pytest.fixture(scope="module")
def in_half_precision(of_workers, of_one, tmp_path_factory):
    """Return what two workers, and two devices of one process, have, each with what is due.

    The devices sum by TensorFlow's own collectives, in a process where nobody else does: those of
    two strategies in one take one another for their own.
    """
    environment, folder = {worker_cases.DEVICES: "2"}, tmp_path_factory.mktemp("devices")
    results, printed = run_in([environment], worker_cases.train_in_half_precision, folder=folder)
    assert None not in results, printed
    return [*(worker[1] for worker in of_workers(2)), *results], of_one[1]


def test_in_half_precision_replicas_learn_what_one_process_does(in_half_precision):
    results, due = in_half_precision
    for replicas in results:
        # A step of float16 is 1e-3, and what is summed in parts is rounded otherwise.
        np.testing.assert_allclose(replicas["losses"], due["losses"], rtol=1e-3)
        assert replicas["before"][1] == due["before"][1]


def test_one_replica_that_overflows_has_all_of_them_leave_the_step_out(in_half_precision):
    results, due = in_half_precision
    for replicas in results:
        (before, steps), (after, steps_after) = replicas["before"], replicas["after"]
        assert steps_after == steps
        for one, same in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, same)
        assert replicas["scale"] == due["scale"]


@pytest.mark.thorough
def test_a_run_that_lost_a_worker_goes_on_from_its_last_epoch(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    due_epochs, due_losses, due = worker_cases.train_with_a_backup(tmp_path / "one", dies=False)
    train = worker_cases.train_with_a_backup
    results, printed = train_together(2, train, tmp_path / "two", True, folder=tmp_path)
    assert results[1] is None, printed
    results, printed = train_together(2, train, tmp_path / "two", False, folder=tmp_path)
    assert None not in results, printed
    # Killed in the third; the second worker wants to stop after the fourth, and both do.
    assert due_epochs == [0, 1, 2, 3]
    for epochs, losses, weights in results:
        assert epochs == [2, 3]
        np.testing.assert_allclose(losses, due_losses[2:], rtol=BOUND)
        assert_close(weights, due, "weights")
    written = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert written == ["1.keras", "2.keras", "3.keras", "4.keras", "backup", "log.csv"]
    lines = (tmp_path / "two" / "log.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2", "3"]
