"""The callbacks Watch and Recalibrate."""

import csv
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.recalibrate import recalibrate
from batchnorm_mechanics.doctor.watch import Recalibrate, Watch

# Short trainings, whose average has not converged: what Watch says of it has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Watch. BN106")

BN = layers.BatchNormalization
BATCH = 8


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def numbers(steps=40, seed=0):
    """Batches whose statistics drift."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(0, 3, steps * BATCH)[:, None]
    return (rng.normal([2, -5, 0], [1, 3, 0.2], (steps * BATCH, 3)) + drift).astype("float32")


def alone(layer=None, **settings):
    """A model of one batch norm, whose input is the data themselves."""
    layer = layer or BN(name="bn", **{"momentum": 0.9, **settings})
    model = keras.Sequential([layers.Input((3,)), layer])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    return model


def fit(model, x, *callbacks, epochs=1, **settings):
    model.fit(
        x,
        x,
        epochs=epochs,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **settings,
    )


def of_watch(caught):
    return [str(one.message) for one in caught if str(one.message).startswith("Watch")]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def by_hand(x, momentum, epochs=1, epsilon=1e-3):
    """How far the moving statistics went in the last epoch."""
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(epochs):
        old_mean, old_variance = mean, variance
        for batch in np.asarray(x, np.float64).reshape(-1, BATCH, 3):
            mean = momentum * mean + (1 - momentum) * batch.mean(0)
            variance = momentum * variance + (1 - momentum) * batch.var(0)
    drift_mean = rms((mean - old_mean) / np.sqrt(variance + epsilon))
    drift_variance = rms(np.log((variance + epsilon) / (old_variance + epsilon)))
    return drift_mean, drift_variance


def of(record):
    return record.drift_mean, record.drift_variance


@pytest.mark.parametrize("steps", [1, 3, 20, 80])
def test_the_drift_is_that_of_the_batches_that_training_saw(steps):
    model, x, watch = alone(momentum=0.95), numbers(steps), Watch()
    fit(model, x, watch)
    (record,) = watch.records
    np.testing.assert_allclose(of(record), by_hand(x, 0.95), rtol=1e-3)
    assert (record.epoch, record.layer, record.gap) == (0, "bn", None)


def test_the_gap_is_that_of_a_diagnosis_on_the_data_that_are_given():
    model, x, watch = alone(), numbers(20), Watch(data=numbers(40, seed=1))
    fit(model, x, watch, epochs=2)
    assert watch.records[0].gap > 0.25
    diagnosis = bnm.diagnose(model, numbers(40, seed=1))
    assert watch.records[1].gap == pytest.approx(diagnosis.measures["gap"], rel=1e-5)


def test_looking_at_data_changes_nothing_of_the_training():
    weights = []
    for data in (None, numbers(40, seed=1)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [layers.Input((3,)), layers.Dropout(0.5), layers.Dense(3), BN(momentum=0.9)]
        )
        model.compile(optimizer="sgd", loss="mse")
        fit(model, numbers(20), Watch(data=data), epochs=2)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_epoch_has_a_record_of_its_own_drift():
    model, x, watch = alone(), numbers(20), Watch()
    fit(model, x, watch, epochs=3)
    assert [record.epoch for record in watch.records] == [0, 1, 2]
    for epoch, record in enumerate(watch.records):
        expected = by_hand(x, 0.9, epochs=epoch + 1)
        np.testing.assert_allclose(of(record), expected, rtol=1e-3)


def test_a_loop_of_one_s_own_that_tells_of_epochs_alone_is_watched():
    model, x, watch = alone(momentum=0.9), numbers(20), Watch()
    watch.set_model(model)
    watch.on_train_begin()
    watch.on_epoch_begin(0)
    for batch in x.reshape(-1, BATCH, 3):
        model.train_on_batch(batch, batch)
    watch.on_epoch_end(0)
    np.testing.assert_allclose(of(watch.records[0]), by_hand(x, 0.9), rtol=1e-3)


def test_an_epoch_in_one_step_is_watched():
    model, x, watch = alone(momentum=0.9), numbers(20), Watch()
    model.steps_per_execution = 20
    fit(model, x, watch)
    np.testing.assert_allclose(of(watch.records[0]), by_hand(x, 0.9), rtol=1e-3)


def test_training_on_replicas_is_watched():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = alone(momentum=0.9)
    x, watch = numbers(20), Watch()
    fit(model, x, watch)
    np.testing.assert_allclose(of(watch.records[0]), by_hand(x, 0.9), rtol=1e-3)


@pytest.mark.parametrize(
    "policy",
    [bnm.ExponentialMovingAverage(0.9), bnm.PooledPopulation(), bnm.DebiasedMovingAverage(0.9)],
)
def test_every_policy_of_ours_has_a_gap_and_a_drift(policy):
    watch, x = Watch(data=numbers(20)), numbers(20)
    fit(alone(bnm.BatchNormalization(name="bn", statistics=policy)), x, watch)
    (record,) = watch.records
    assert record.drift_mean > 0.5
    assert record.gap is not None


def test_layers_that_get_their_weights_with_the_first_batch_are_seen_from_the_second_epoch_on():
    model = keras.Sequential([BN(name="bn", momentum=0.9)])
    model.compile(optimizer="sgd", loss="mse")
    watch = Watch()
    fit(model, numbers(20), watch, epochs=2)
    assert [record.epoch for record in watch.records][-1] == 1


def test_only_every_so_many_epochs_are_recorded():
    watch = Watch(every=2)
    fit(alone(), numbers(20), watch, epochs=5)
    assert [record.epoch for record in watch.records] == [1, 3]


def test_the_table_holds_what_the_records_hold(tmp_path):
    watch = Watch(csv=tmp_path / "watch.csv", data=numbers(20))
    model = keras.Sequential(
        [layers.Input((3,)), BN(name="bn", momentum=0.9), BN(name="renorm", renorm=True)]
    )
    model.compile(optimizer="sgd", loss="mse")
    fit(model, numbers(20), watch, epochs=2)
    with (tmp_path / "watch.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row, record in zip(rows, watch.records, strict=True):
        assert int(row["epoch"]) == record.epoch
        assert row["layer"] == record.layer
        assert float(row["drift_mean"]) == record.drift_mean
        assert float(row["gap"]) == record.gap


def test_a_second_training_begins_a_new_table(tmp_path):
    watch = Watch(csv=tmp_path / "watch.csv")
    for _ in range(2):
        fit(alone(), numbers(20), watch)
    assert len((tmp_path / "watch.csv").read_text().splitlines()) == 2


def test_tensorboard_gets_the_same_numbers(tmp_path):
    watch = Watch(log_dir=tmp_path, data=numbers(20))
    fit(alone(), numbers(20), watch, epochs=2)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    for name in ("gap", "drift_mean", "drift_variance"):
        logged = events.Tensors(f"batch_norm/bn/{name}")
        assert [event.step for event in logged] == [0, 1]
        values = [float(tf.make_ndarray(event.tensor_proto)) for event in logged]
        expected = [getattr(record, name) for record in watch.records]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


class Poison(keras.callbacks.Callback):
    """Spoils a channel as an epoch ends."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            layer = self.model.get_layer("bn")
            layer.moving_mean.assign(layer.moving_mean.numpy() * [1, np.nan, 1])


def test_a_rule_that_fires_warns_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(alone(), numbers(20), Poison(), Watch(), epochs=4)
    (message,) = of_watch(caught)
    assert message.startswith("Watch: BN101 non-finite-statistics at bn: ")


def test_rules_about_a_whole_training_wait_for_its_end():
    so_far = []

    class AtTheLastEpoch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            so_far.append(of_watch(caught))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(alone(momentum=0.999), numbers(20), Watch(), AtTheLastEpoch(), epochs=2)
    assert so_far == [[], []]
    (message,) = of_watch(caught)
    assert message.startswith("Watch: BN106 unconverged-average at bn: ")


def test_a_healthy_training_warns_of_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(alone(), numbers(60), Watch(), epochs=2)
    assert of_watch(caught) == []


@pytest.mark.parametrize("every", [0, 1.5, True, "1"])
def test_a_number_of_epochs_that_is_none_is_refused(every):
    with pytest.raises(InputError, match="Watch: `every` must be an integer of 1 or more"):
        Watch(every=every)


def test_a_table_that_cannot_be_written_is_refused_before_training(tmp_path):
    watch = Watch(csv=tmp_path / "no" / "such" / "folder.csv")
    with pytest.raises(InputError, match="Watch: `csv` must be a file that can be written"):
        fit(alone(), numbers(20), watch)


def test_a_log_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    watch = Watch(log_dir=tmp_path / "file" / "folder")
    with pytest.raises(InputError) as caught:
        fit(alone(), numbers(20), watch)
    message = str(caught.value)
    assert "{{" not in message
    assert message.startswith(
        "Watch: `log_dir` must be a folder that can be written. Received: "
        f"log_dir='{tmp_path / 'file' / 'folder'}' ("
    )
    assert message.endswith("). Choose another place.")


# Recalibrate.


def plain(**settings):
    model = keras.Sequential([layers.Input((3,)), layers.Dense(4), BN(name="bn"), layers.Dense(3)])
    model.compile(loss="mse", **settings)
    return model


def recalibrated(model, x):
    """The statistics that the model's weights of now call for."""
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    recalibrate(other, x)
    return other.get_layer("bn").moving_mean.numpy(), other.get_layer("bn").moving_variance.numpy()


def statistics(model):
    return model.get_layer("bn").moving_mean.numpy(), model.get_layer("bn").moving_variance.numpy()


def test_at_the_end_the_statistics_belong_to_the_weights():
    model, x = plain(optimizer="adam"), numbers(20)
    fit(model, x, Recalibrate(x))
    np.testing.assert_allclose(statistics(model), recalibrated(model, x), rtol=1e-6)


def test_at_the_end_the_statistics_belong_to_the_averaged_weights():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    model, x = plain(optimizer=optimizer), numbers(20)

    class Before(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            Before.kernel = self.model.layers[0].kernel.numpy()

    fit(model, x, Before(), Recalibrate(x))
    assert np.abs(model.layers[0].kernel.numpy() - Before.kernel).max() > 1e-3
    np.testing.assert_allclose(statistics(model), recalibrated(model, x), rtol=1e-6)


def test_what_comes_after_an_epoch_sees_recalibrated_statistics_and_training_goes_on_with_its_own():
    model, other, x = plain(optimizer="sgd"), plain(optimizer="sgd"), numbers(20)
    other.set_weights(model.get_weights())
    seen, begun = [], []

    class After(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begun.append(statistics(self.model))

        def on_epoch_end(self, epoch, logs=None):
            seen.append((statistics(self.model), recalibrated(self.model, x)))

    fit(model, x, Recalibrate(x, when="epoch_end"), After(), epochs=2)
    for got, expected in seen:
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    fit(other, x)
    np.testing.assert_allclose(begun[1], statistics(other), rtol=1e-6)


def test_checkpoints_of_averaged_weights_have_their_statistics_and_the_loss_that_fit_told(
    tmp_path,
):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    model, x = plain(optimizer=optimizer, steps_per_execution=3), numbers(20)
    history = model.fit(
        x,
        x,
        epochs=2,
        batch_size=BATCH,
        verbose=0,
        validation_data=(x, x),
        callbacks=[
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            Recalibrate(x, when="evaluate"),
            keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        ],
    )
    kernels = []
    for epoch, told in enumerate(history.history["val_loss"], start=1):
        saved = keras.models.load_model(tmp_path / f"{epoch}.keras")
        np.testing.assert_allclose(statistics(saved), recalibrated(saved, x), rtol=1e-5)
        outputs = saved(x, training=False).numpy()
        np.testing.assert_allclose(np.mean((outputs - x) ** 2), told, rtol=1e-4)
        kernels.append(saved.layers[0].kernel.numpy())
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
    # The statistics of the end are for the weights of the end, which are the averaged ones.
    np.testing.assert_allclose(statistics(model), recalibrated(model, x), rtol=1e-5)


@pytest.mark.parametrize("when", ["train_end", "epoch_end"])
def test_undo_goes_back_to_the_statistics_of_training(when):
    model, other, x = plain(optimizer="sgd"), plain(optimizer="sgd"), numbers(20)
    other.set_weights(model.get_weights())
    callback = Recalibrate(x, when=when)
    fit(model, x, callback, epochs=2)
    fit(other, x, epochs=2)
    callback.change.undo()
    np.testing.assert_allclose(statistics(model), statistics(other), rtol=1e-6)


def test_settings_go_to_recalibrate():
    model, x = plain(optimizer="sgd"), numbers(20)
    callback = Recalibrate(x, batch_size=16, method="average", blend=0.5)
    fit(model, x, callback)
    assert callback.change.how == "moments of batches averaged, blended in by 0.5"


def test_another_time_is_refused():
    with pytest.raises(
        InputError, match="Recalibrate: `when` must be 'train_end', 'epoch_end' or "
    ):
        Recalibrate(numbers(), when="batch_end")


class Began(keras.callbacks.Callback):
    """Notes that an epoch began."""

    epochs = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1


def refusal(callback, model=None):
    """What a callback says before the first epoch."""
    began = Began()
    with pytest.raises(InputError) as caught:
        fit(model or plain(optimizer="sgd"), numbers(20), callback, began)
    assert began.epochs == 0
    return str(caught.value)


def test_a_setting_that_recalibrate_does_not_have_is_refused_at_once():
    with pytest.raises(InputError) as caught:
        Recalibrate(numbers(), batch=3)
    assert str(caught.value) == (
        "Recalibrate: `settings` must be those of `recalibrate`. Received: batch=3. "
        "Did you mean 'batch_size'?"
    )


@pytest.mark.parametrize("name", ["model", "data", "qqq"])
def test_what_is_no_setting_of_the_callback_is_refused(name):
    with pytest.raises((InputError, TypeError), match=name):
        Recalibrate(numbers(), **{name: 1})


@pytest.mark.parametrize("settings", [{"method": "median"}, {"blend": 2.0}])
def test_a_value_that_recalibrate_does_not_take_is_refused_at_once(settings):
    (name,) = settings
    with pytest.raises(InputError, match=f"Recalibrate: `{name}` must"):
        Recalibrate(numbers(), **settings)


def test_a_batch_size_that_is_none_is_refused_before_training():
    message = refusal(Recalibrate(numbers(), batch_size=0))
    assert message.startswith("Recalibrate: `batch_size` must be an integer of 1 or more.")


def test_a_model_without_batch_norm_is_refused_before_training():
    model = keras.Sequential([layers.Input((3,)), layers.Dense(3)])
    model.compile(optimizer="sgd", loss="mse")
    assert refusal(Recalibrate(numbers()), model) == (
        "Recalibrate: `model` must have batch normalization. Received: a model without. "
        "Leave this callback out."
    )


class OneBatch(keras.utils.PyDataset):
    """A dataset of one batch."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.x, self.x


def dataset(x):
    return tf.data.Dataset.from_tensor_slices((x, x)).batch(4)


@pytest.mark.parametrize("kind", [np.asarray, dataset, OneBatch])
def test_data_of_another_shape_are_refused_before_training(kind):
    data = kind(np.ones((20, 5), "float32"))
    assert refusal(Recalibrate(data)) == (
        "Recalibrate: `data` must have the shape of the model's input, (n, 3). Received: batches "
        "of shape (n, 5). The first axis is that of the samples."
    )


def test_data_that_can_be_gone_through_once_only_are_refused_before_training():
    batches = (numbers(20)[start : start + 4] for start in range(0, 20, 4))
    assert refusal(Recalibrate(batches)).startswith("Recalibrate: `data` must be an array")


def test_no_batch_of_a_dataset_is_taken_before_it_is_needed():
    taken, x = [], numbers(20)

    def batches():
        for start in range(0, len(x), 16):
            taken.append(start)
            yield x[start : start + 16], x[start : start + 16]

    class NoneTaken(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert not taken

    spec = tf.TensorSpec([None, 3])
    data = tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))
    model = plain(optimizer="sgd")
    fit(model, x, Recalibrate(data), NoneTaken())
    assert taken
    np.testing.assert_allclose(statistics(model), recalibrated(model, x), rtol=1e-5)


def test_datasets_of_open_shape_are_looked_at_when_they_come():
    x = numbers(20)
    data = tf.data.Dataset.from_generator(
        lambda: iter([x]), output_signature=tf.TensorSpec([None, None])
    )
    model = plain(optimizer="sgd")
    fit(model, x, Recalibrate(data))
    np.testing.assert_allclose(statistics(model), recalibrated(model, x), rtol=1e-5)


def test_a_model_that_is_built_by_its_first_batch_is_recalibrated():
    model = keras.Sequential([layers.Dense(4), BN(name="bn"), layers.Dense(3)])
    model.compile(optimizer="sgd", loss="mse")
    x = numbers(20)
    callback = Recalibrate(x)
    fit(model, x, callback)
    assert callback.change is not None
