"""On Ray, real processes of it, work gives what it gives in this process, whoever dies."""

import json
import os
import signal
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import bnm_here
from keras import layers

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics.distribute.executors import RayExecutor, executor_of
from batchnorm_mechanics.models.norms import norms_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROWS = 4_000


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8),
            layers.BatchNormalization(name="first"),
            layers.ReLU(),
            layers.Dense(5),
            layers.BatchNormalization(name="second"),
            layers.Dense(2),
        ]
    )


def rows(start=0, stop=ROWS):
    rng = np.random.default_rng(1)
    drift = np.linspace(-1, 3, ROWS)[:, None]
    return (rng.normal(1e3, 2, (ROWS, 6)) + drift).astype("float32")[start:stop]


def statistics(model):
    return [
        np.concatenate([norm.layer.moving_mean, norm.layer.moving_variance])
        for norm in norms_in(model)
    ]


@pytest.fixture(scope="module")
def cluster():
    """One cluster, of this machine alone, for all tests of this file."""
    with RayExecutor(workers=4).connected() as ray:
        # As what stands in a script: workers do not know the tests.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield ray
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def alone():
    model = network()
    bnm.recalibrate(model, rows(), batch_size=32)
    return statistics(model)


@pytest.mark.usefixtures("cluster")
@pytest.mark.thorough  # that of the worker which is killed says the same
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_statistics_are_those_of_this_process_however_many_workers(workers, alone):
    model = network()
    change = bnm.recalibrate(model, rows(), executor=RayExecutor(workers=workers))
    assert change.samples == ROWS
    for found, expected in zip(statistics(model), alone, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_in_the_middle_changes_nothing(tmp_path, alone):
    fallen = tmp_path / "fallen"

    # Shards of another size, of whole batches, which each worker makes for itself.
    shards = bnm.Shards([Rows(start, start + 800, fallen) for start in range(0, ROWS, 800)])
    model = network()
    bnm.recalibrate(model, shards, executor=RayExecutor(workers=2))
    assert fallen.exists()
    for found, expected in zip(statistics(model), alone, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def from_numpy(data, _):
    return data.from_numpy([rows(start, start + 800) for start in range(0, ROWS, 800)])


def from_items(data, _):
    return data.from_items([{"x": row, "y": 0} for row in rows()], override_num_blocks=5)


def from_parquet(data, folder):
    for start in range(0, ROWS, 800):
        table = pa.table({"x": list(rows(start, start + 800)), "y": [0] * 800})
        pq.write_table(table, folder / f"{start}.parquet")
    return data.read_parquet(str(folder), override_num_blocks=5)


@pytest.mark.usefixtures("cluster")
# Of Ray's own, which sets all options of its data when it is first used.
@pytest.mark.filterwarnings(r"ignore:.*deprecated.*::ray\.data\.context")
@pytest.mark.parametrize(
    ("source", "workers"),
    [
        # How blocks become batches is tried without Ray, too: tests/models/test_ray_data.py.
        pytest.param(one, workers, marks=pytest.mark.thorough)
        for one, workers in (
            (from_numpy, None),
            (from_numpy, 2),
            (from_items, 2),
            (from_parquet, 2),
        )
    ],
)
def test_the_blocks_of_a_ray_dataset_are_shards(alone, source, workers, tmp_path):
    dataset = source(pytest.importorskip("ray.data", exc_type=ImportError), tmp_path)
    model = network()
    executor = None if workers is None else RayExecutor(workers=workers)
    # Blocks of whole batches, whose columns are read as the arrays of a file are.
    change = bnm.recalibrate(model, dataset, executor=executor)
    assert change.samples == ROWS
    for one, expected in zip(statistics(model), alone, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-6)


@dataclass
class Rows:
    """Some rows; the first process that reads those of the middle dies of it."""

    start: int
    stop: int
    fallen: Path

    def __call__(self):
        if self.start == 1600 and not self.fallen.exists():
            self.fallen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows(self.start, self.stop)


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_what_is_wrong_is_said_as_here():
    x = rows()
    x[70] = np.nan
    with pytest.raises(InputError, match=r"^recalibrate: `data` must be finite\. Received: 6 val"):
        bnm.recalibrate(network(), x, executor=RayExecutor(workers=1))


def nothing():
    """Make a host that is ready at once."""


def killed(host, task):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
@pytest.mark.thorough
def test_a_worker_that_dies_each_time_is_given_up():
    with (
        RayExecutor(workers=1).hosting(nothing) as workers,
        pytest.raises(FailureError, match=r"^ray: a worker died, and so did 3 that took its"),
    ):
        list(workers.map(killed, [1]))


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_what_workers_cannot_import_is_said(monkeypatch):
    module = types.ModuleType("only_here")
    exec("def call(host, task): return task", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with (
        RayExecutor(workers=1).hosting(nothing) as workers,
        pytest.raises(InputError, match=r"must be found there by their modules\. Received: .*No"),
    ):
        list(workers.map(module.call, [1]))


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("in_order", [True, False])
def test_results_come_in_the_order_of_their_tasks_where_that_is_asked(in_order):
    def slept(host, task):
        time.sleep(0.5 if task == 0 else 0)
        return task

    with RayExecutor(workers=2).hosting(nothing) as workers:
        done = list(workers.map(slept, range(6), in_order=in_order))
    assert all(one.number == one.result for one in done)
    numbers = [one.number for one in done]
    assert sorted(numbers) == list(range(6))
    assert (numbers == sorted(numbers)) == in_order


@pytest.mark.thorough
@pytest.mark.usefixtures("cluster")
def test_studies_give_run_for_run_what_they_give_here(tmp_path):
    asked = ("reproduce", "keras-100", "--quick", "--seeds", 2, "--json")
    ended = {
        where: bnm_here(*asked, "--on", where, "--out", where, cwd=tmp_path)
        for where in ("local", "ray")
    }
    assert [one.code for one in ended.values()] == [0, 0], ended
    found = {
        where: [run | {"seconds": 0} for run in json.loads(one.out)["studies"][0]["runs"]]
        for where, one in ended.items()
    }
    assert [run["seed"] for run in found["local"]] == [100, 101]
    assert found["ray"] == found["local"]
    artifacts = {
        where: sorted(
            path.relative_to(tmp_path / where).parent
            for path in (tmp_path / where / "runs").rglob("*")
        )
        for where in ended
    }
    assert artifacts["ray"] == artifacts["local"]


@pytest.mark.parametrize("where", ["cluster", 3, "ray:/host"])
def test_an_executor_must_be_known(where):
    with pytest.raises(InputError) as error:
        executor_of(where, caller="recalibrate")
    assert str(error.value) == (
        "recalibrate: `executor` (of commands, --on) must be 'local', 'ray', an address as "
        f"'ray://host:10001', or a bnm.RayExecutor. Received: executor={where!r}. Leave it out for "
        "this process."
    )


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_number_of_workers_must_be_one(count):
    with pytest.raises(InputError, match=r"^RayExecutor: `workers` must be an integer of 1 or"):
        RayExecutor(workers=count)
