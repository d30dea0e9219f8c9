"""Data in shards give what they give as a whole, whoever goes through them."""

import pickle
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.distribute.executors import Done
from batchnorm_mechanics.doctor.estimating import How, Passed, estimate
from batchnorm_mechanics.doctor.heard import Said
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.doctor.pools import Pool, Pools, pools_of
from batchnorm_mechanics.doctor.recalibrate import estimate_anew
from batchnorm_mechanics.doctor.sample import Sample
from batchnorm_mechanics.doctor.shards import packed, shards_of
from batchnorm_mechanics.models.data import Data, as_data
from batchnorm_mechanics.models.norms import norms_in


class Here:
    """Workers in this process, each with the host that another process would make."""

    def __init__(self, model, count):
        self.hosts = [packed(model)() for _ in range(count)]
        self.tasks = 0

    def map(self, function, tasks, *, in_order=True):
        assert in_order
        for number, task in enumerate(tasks):
            self.tasks += 1
            yield Done(number, function(self.hosts[number % len(self.hosts)], task))


def said(rng, rows, far=0.0):
    x = rng.normal(far, 1 + rng.random(), (rows, 2))
    return float(rows), x.mean(0), x.var(0), np.zeros(2)


def state(pool):
    return {name: value for name, value in vars(pool).items() if name not in ("_first", "_centres")}


@given(
    st.lists(st.lists(st.integers(1, 6), max_size=5), min_size=2, max_size=4),
    st.sampled_from([0.0, 1e4]),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_joined_pools_are_those_of_all_batches_in_turn(parts, far, seed):
    rng = np.random.default_rng(seed)
    whole, joined = Pool(2), Pool(2)
    for part in parts:
        other = Pool(2)
        for rows in part:
            batch = said(rng, rows, far)
            whole.add(*batch)
            other.add(*batch)
        joined.join(other)
    assert joined.counts == whole.counts
    for name, value in state(whole).items():
        if name != "counts":
            np.testing.assert_allclose(
                getattr(joined, name), value, rtol=1e-6, atol=1e-6, err_msg=name
            )
    np.testing.assert_allclose(joined.spread, whole.spread, rtol=1e-5, atol=1e-6)


def test_what_is_odd_in_one_shard_is_known_by_its_number_in_all():
    rng = np.random.default_rng(0)
    whole, joined = Pools(2, 1e-3), Pools(2, 1e-3)
    for shard in range(3):
        other = Pools(2, 1e-3)
        for number in range(10):
            count, mean, variance, bad = said(rng, 32)
            odd = 1e4 if (shard, number) == (1, 7) else 1
            call = Said(count, mean, variance * odd, bad, 0.0)
            whole.add([call])
            other.add([call])
        joined.join(other)
    assert joined.settle().odd == whole.settle().odd == (17,)
    np.testing.assert_allclose(joined.together.variance, whole.together.variance, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 64, 65, 640, 641, 1000])
def test_shards_hold_each_row_once_and_cut_between_batches(rows):
    x = np.arange(rows, dtype="float32").reshape(-1, 1)
    data = Data((x, x + 1), x[:, 0], batch_size=4)
    shards = list(shards_of(data, caller="recalibrate"))
    batches = [np.asarray(inputs[1]) for shard in shards for inputs, _ in shard]
    np.testing.assert_array_equal(np.concatenate(batches), x + 1)
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)
    assert [shard.before for shard in shards] == [16 * number for number in range(len(shards))]
    assert shards[-1].rows > 1 or rows == 1


def test_no_more_rows_are_sharded_than_are_asked_for():
    data = Data(np.zeros((1000, 1)), batch_size=10, samples=170)
    assert [shard.rows for shard in shards_of(data, caller="recalibrate")] == [160, 10]


@keras.saving.register_keras_serializable("tests")
class Doubling(layers.Layer):
    def call(self, x):
        return 2 * x


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8),
            layers.BatchNormalization(name="first"),
            layers.ReLU(),
            Doubling(),
            layers.Dropout(0.5),
            layers.Dense(5),
            bnm.BatchNormalization(statistics=bnm.PooledPopulation(), name="second"),
            layers.Dense(2),
        ]
    )


def rows(count=700):
    rng = np.random.default_rng(1)
    return (rng.normal(3, 2, (count, 6)) + np.linspace(-1, 3, count)[:, None]).astype("float32")


def statistics(model):
    return {
        norm.name: np.concatenate([norm.layer.moving_mean, norm.layer.moving_variance])
        for norm in norms_in(model)
    }


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("sequential", [False, True])
def test_statistics_do_not_depend_on_who_goes_through_the_shards(workers, sequential):
    alone, shared = network(), network()
    bnm.recalibrate(alone, rows(), batch_size=8, sequential=sequential)
    here = Here(shared, workers)
    norms = norms_in(shared)
    change = estimate_anew(
        shared,
        as_data(rows(), batch_size=8, caller="recalibrate"),
        norms,
        dict.fromkeys([norm.name for norm in norms], ()),
        How("recalibrate", sequential=sequential),
        here,
    )
    # The order of the layers is found by a pass of its own.
    assert here.tasks == 6 * (3 if sequential else 1)
    assert change.samples == 700
    for name, expected in statistics(alone).items():
        np.testing.assert_allclose(statistics(shared)[name], expected, rtol=1e-6, atol=1e-6)


def test_parts_are_read_by_whoever_goes_through_them(tmp_path):
    x = rows()
    np.save(tmp_path / "part.npy", x[:160])
    np.savez(tmp_path / "part.npz", x=x[160:320])
    (tmp_path / "records").mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / "records" / "0.tfrecord")) as writer:
        for row in x[320:480]:
            values = tf.train.Feature(float_list=tf.train.FloatList(value=row))
            features = tf.train.Features(feature={"x": values})
            writer.write(tf.train.Example(features=features).SerializeToString())
    shards = bnm.Shards(
        [
            tmp_path / "part.npy",
            tmp_path / "part.npz",
            tmp_path / "records",
            x[480:640],
            lambda: tf.data.Dataset.from_tensor_slices((x[640:], x[640:, 0])).batch(32),
        ]
    )
    alone, parted = network(), network()
    bnm.recalibrate(alone, x)
    bnm.recalibrate(parted, shards)
    for name, expected in statistics(alone).items():
        np.testing.assert_allclose(statistics(parted)[name], expected, rtol=1e-6)


class Told:
    """Workers that say the moments of what they get, by way of `pickle`, and run no model."""

    def __init__(self, norms):
        self.norms = norms

    def map(self, function, tasks, *, in_order=True):
        for number, task in enumerate(tasks):
            pools, order = pools_of(self.norms), tuple(norm.name for norm in self.norms)
            for inputs, _ in task.data:
                x = inputs.astype("float64")
                for name in order:
                    zeros = np.zeros(x.shape[1])
                    pools[name].add([Said(float(len(x)), x.mean(0), x.var(0), zeros, 0.0)])
            yield Done(number, pickle.loads(pickle.dumps(Passed(pools, order, {}, task.data.rows))))


def test_the_memory_of_who_hands_out_shards_does_not_grow_with_their_number(tmp_path):
    model = keras.Sequential([layers.Input((256,)), layers.BatchNormalization(name="bn")])
    norms, peaks = norms_in(model), []
    x = np.random.default_rng(0).normal(size=(64 * 16 * 32, 256)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    for shards in (4, 64):
        few = np.load(tmp_path / "x.npy", mmap_mode="r")[: shards * 16 * 32]
        data = as_data(few, batch_size=32, caller="recalibrate")
        tracemalloc.start()
        found = estimate(model, norms, ["bn"], data, How("recalibrate"), Told(norms))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.samples == len(few)
        np.testing.assert_allclose(
            found.by_name["bn"].together.mean, few.mean(0, "float64"), atol=1e-6
        )
    # A shard is half a megabyte; of all that are done, a few vectors of 2 kilobytes are kept.
    assert peaks[1] < 1.5 * peaks[0], peaks


def test_a_batch_that_cannot_be_used_has_its_number_in_all_the_data():
    x = rows()
    x[8 * 20] = 3e38  # finite, and no longer so behind the first layer's weights
    model = network()
    norms = norms_in(model)
    data = as_data(x, batch_size=8, caller="recalibrate")
    with pytest.raises(InputError, match=r"at the input of first, in batch 21, whose samples"):
        estimate(model, norms, ["first"], data, How("recalibrate"), Here(model, 2))


def test_a_dataset_cannot_be_sent_and_that_is_said():
    data = as_data(tf.data.Dataset.from_tensors(np.ones((4, 6))), caller="recalibrate")
    with pytest.raises(InputError) as error:
        list(shards_of(data, caller="recalibrate"))
    assert str(error.value).startswith(
        "recalibrate: `data` must be arrays or bnm.Shards where other processes take part. "
        "Received: a _TensorDataset, which cannot be sent to them. Pass bnm.Shards([f, g, ...])"
    )


@pytest.mark.parametrize("parts", [[], "folder", None])
def test_parts_must_be_a_list(parts):
    with pytest.raises(InputError, match=r"^Shards: `parts` must be a list of at least one path"):
        bnm.Shards(parts)


def test_a_sample_of_shards_is_a_sample_of_all():
    few = [np.arange(10.0).reshape(-1, 1), np.arange(10.0, 15).reshape(-1, 1)]
    joined = Sample()
    for part in few:
        other = Sample()
        other.add(part)
        joined.join(other)
    assert np.asarray(joined.take(np.arange(joined.rows)))[:, 0].tolist() == list(range(15))
    joined.without({1})
    assert joined.rows == 10

    joined = Sample()
    for number, size in enumerate((4000, 1000, 1000)):
        other = Sample()
        for batch in np.split(np.full((size, 1), float(number)), size // 100):
            other.add(batch)
        joined.join(other)
    taken = np.asarray(joined.take(np.arange(joined.rows)))[:, 0]
    assert joined.rows == 512
    # Of a sample of 512, a part of 1,000 of 6,000 has 85, and 8 is one standard deviation.
    assert all(abs((taken == number).sum() - 512 / 6) < 40 for number in (1, 2))


def test_a_diagnosis_does_not_depend_on_who_goes_through_the_shards():
    model = network()
    model.compile(loss="mse")
    bnm.recalibrate(model, rows())
    model.get_layer("first").moving_mean.assign_add(np.full(8, 2.0))
    data = as_data((rows(), rows()[:, :2]), batch_size=16, caller="diagnose")
    norms = norms_in(model)
    alone = measure(model, norms, data)
    parted = measure(model, norms, data, Here(model, 2))
    assert (parted.samples, parted.batches, parted.full) == (700, 44, True)
    assert list(parted.norms) == list(alone.norms)
    for name, expected in alone.norms.items():
        found = parted.norms[name]
        np.testing.assert_allclose(found.pool.statistics, expected.pool.statistics, rtol=1e-6)
        assert (found.dtype, found.frozen, found.odd) == (expected.dtype, expected.frozen, ())
    assert parted.scores == pytest.approx(dict(alone.scores), rel=1e-6)
    assert parted.effects.severity == alone.effects.severity == "error"
