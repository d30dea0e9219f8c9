"""A study's network, its training, what that leaves behind, and that its quirks are real."""

import csv
import functools
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.statistics import AverageOfBatches, ExponentialMovingAverage
from batchnorm_mechanics.studies import dataset
from batchnorm_mechanics.studies.registry import STUDIES, Run, Study, quick
from batchnorm_mechanics.studies.train import StudyModel, _begin, _Best, _state, build, train

# The network


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(1.0, 3.0, (60, 784)).astype(np.float32)


@pytest.fixture(scope="module")
def labels():
    return np.eye(10, dtype=np.float32)[np.arange(60) % 10]


def epoch(images, labels, numbers, count):
    """An epoch as `StudyModel` is trained on."""
    return tf.data.Dataset.from_tensors((images, labels, np.array(numbers), count))


class BatchByBatch(StudyModel):
    train_step = keras.Model.train_step
    test_step = keras.Model.test_step


def normalizations(model):
    kinds = (BatchNormalization, keras.layers.BatchNormalization)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def test_the_network_has_the_parameters_that_the_source_reports():
    model = build(STUDIES["keras-916"].settings, pixels=784, seed=100)
    assert model.count_params() == 100_910
    assert sum(int(np.prod(weight.shape)) for weight in model.non_trainable_weights) == 600


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    first, same, other = (
        build(STUDIES["average-100"].settings, pixels=20, seed=seed).get_weights()
        for seed in (100, 100, 101)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("name", ["keras-916", "average-916", "algorithm2-916", "reversed-916"])
def test_networks_that_differ_in_statistics_alone_start_alike_and_train_alike(name, images):
    reference = build(STUDIES["average-916"].settings, pixels=784, seed=100)
    model = build(STUDIES[name].settings, pixels=784, seed=100)
    outputs = [np.asarray(each(images, training=True)) for each in (reference, model)]
    # Keras's layer rounds otherwise than ours; ours are the same code.
    tolerance = 1e-5 if name == "keras-916" else 0.0
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=tolerance)


def test_the_reversed_study_weighs_the_batch_with_0_99_and_starts_at_zero(images):
    model = build(STUDIES["reversed-100"].settings, pixels=784, seed=100)
    layer = normalizations(model)[0]
    assert layer.policy == ExponentialMovingAverage(decay=0.01)
    assert not layer.moving_mean.numpy().any()
    assert not layer.moving_variance.numpy().any()
    before = model.get_layer("dense_1")(images).numpy()
    model(images, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.99 * before.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.99 * before.var(axis=0), rtol=1e-4)


def test_the_population_study_averages_batches_as_algorithm_2_does():
    model = build(STUDIES["algorithm2-100"].settings, pixels=784, seed=100)
    assert [layer.policy for layer in normalizations(model)] == [AverageOfBatches()] * 3


def test_a_study_without_batch_norm_has_none():
    model = build(STUDIES["paper-without-bn"].settings, pixels=784, seed=100)
    assert normalizations(model) == []


def test_evaluation_obeys_a_baked_training_flag(images):
    settings = STUDIES["keras-916-baked"].settings
    model = build(settings, pixels=784, seed=100)
    first, second, _ = normalizations(model)
    model.predict(images, batch_size=60, verbose=0)
    # The second layer normalized by the batch and so moved its statistics; the first did not.
    assert not first.moving_mean.numpy().any()
    assert second.moving_mean.numpy().any()


def test_evaluation_without_a_baked_flag_uses_the_running_statistics(images):
    model = build(STUDIES["keras-916"].settings, pixels=784, seed=100)
    model.predict(images, batch_size=60, verbose=0)
    assert not any(layer.moving_mean.numpy().any() for layer in normalizations(model))


def test_training_uses_batch_statistics_with_or_without_the_flag(images):
    baked = STUDIES["keras-916-baked"].settings
    outputs = [
        np.asarray(build(settings, pixels=784, seed=100)(images, training=True))
        for settings in (baked, replace(baked, baked_training=(False, False, False)))
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    "name", ["keras-916-baked", pytest.param("algorithm2-100", marks=pytest.mark.thorough)]
)
def test_an_epoch_at_a_time_is_what_keras_does_batch_by_batch(name, images, labels):
    # XLA takes seconds for each layer.
    flags = STUDIES[name].settings.baked_training[:2]
    settings = replace(
        STUDIES[name].settings, batch_size=20, hidden_units=(100, 100), baked_training=flags
    )
    rows = [np.arange(20) * 3, np.arange(20) + 7]
    numbers = [*rows, np.zeros(20, int)]
    model, by_batches = (build(settings, pixels=784, seed=100) for _ in range(2))
    by_batches.__class__ = BatchByBatch
    found = model.fit(epoch(images, labels, numbers, 2), epochs=2, shuffle=False, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices((images[rows], labels[rows]))
    expected = by_batches.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert list(found.history) == list(expected.history)
    for key, values in expected.history.items():
        np.testing.assert_allclose(found.history[key], values, rtol=1e-4, err_msg=key)
    assert int(model.optimizer.iterations) == 4
    for ours, theirs in zip(model.weights, by_batches.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=ours.path)


@pytest.mark.parametrize("name", ["algorithm2-100", "keras-916-baked"])
def test_evaluation_goes_batch_by_batch_to_the_last_row(name, images, labels):
    settings = replace(STUDIES[name].settings, batch_size=25)
    model, by_batches = (build(settings, pixels=784, seed=100) for _ in range(2))
    found = model.evaluate(
        tf.data.Dataset.from_tensors((images, labels)), verbose=0, return_dict=True
    )
    # Batch norm with the flag in it normalizes by the batch, and so depends on what is in one.
    logits = np.concatenate(
        [by_batches(images[rows], training=False) for rows in np.split(np.arange(60), [25, 50])]
    )
    loss = keras.losses.categorical_crossentropy(labels, logits, from_logits=True)
    assert found["loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels.argmax(1)))
    for ours, expected in zip(model.weights, by_batches.weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6, err_msg=ours.path)


def test_a_saved_keras_study_loads_as_a_plain_model_with_the_flag_in_it(images, tmp_path):
    model = build(STUDIES["keras-916-baked"].settings, pixels=784, seed=100)
    model(images, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Model or type(loaded).__name__ == "Functional"
    assert not any(isinstance(layer, BatchNormalization) for layer in loaded.layers)
    np.testing.assert_allclose(
        loaded(images, training=True), model(images, training=True), rtol=1e-5, atol=1e-5
    )
    # `loaded(x)` obeys the flag: its third batch norm sees the batch.
    loaded(images)
    assert loaded.get_layer("batch_norm_3").moving_mean.numpy().any()


# Its training


@pytest.fixture(scope="module")
def digits():
    return dataset.load(minimum_rows=60)


def small(name, **settings):
    study = quick(STUDIES[name])
    # XLA takes seconds for each layer; several are trained by the tests above.
    one = {"hidden_units": study.settings.hidden_units[:1], "baked_training": (False,)}
    settings = replace(study.settings, rows=1200, epochs=2, **one, **settings)
    return replace(study, settings=settings)


@dataclass(frozen=True)
class Trained:
    """A study's run with seed 100, and what is left of it."""

    study: Study
    arrays: dataset.Arrays
    folder: Path
    run: Run
    epochs: list
    networks: dict


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Return runs of two studies that share a training trajectory, and the paper's, by study."""

    @functools.cache
    def trained(name):
        study = small(name, **({"steps_per_epoch": 12} if name.startswith("paper") else {}))
        arrays, folder = dataset.prepare(digits, study.settings), tmp_path_factory.mktemp(name)
        epochs, networks = [], {}
        run = train(
            study,
            seed=100,
            arrays=arrays,
            folder=folder,
            progress=lambda epoch, logs: epochs.append((epoch, dict(logs))),
            networks=networks,
        )
        return Trained(study, arrays, folder, run, epochs, networks)

    return trained


SAME_TRAINING = ("average-100", "algorithm2-100")


@pytest.mark.parametrize("name", SAME_TRAINING)
def test_accuracies_are_in_percent_and_are_those_of_the_last_epoch(trained, name):
    run = trained(name).run
    assert run.train == pytest.approx(100 * run.history["accuracy"][-1])
    assert run.val == pytest.approx(100 * run.history["val_accuracy"][-1])
    assert 15 < run.test <= 100


@pytest.mark.parametrize("name", SAME_TRAINING)
def test_the_history_has_an_entry_for_each_epoch_and_is_kept_as_csv(trained, name):
    found = trained(name)
    with (found.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for key, values in found.run.history.items():
        np.testing.assert_allclose([float(row[key]) for row in rows], values, rtol=1e-6)


@pytest.mark.parametrize("name", SAME_TRAINING)
def test_progress_tells_of_each_epoch(trained, name):
    found = trained(name)
    assert [epoch for epoch, _ in found.epochs] == [1, 2]
    assert [logs["loss"] for _, logs in found.epochs] == found.run.history["loss"]


def test_tensorboard_logs_hold_losses_and_weights(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = trained("algorithm2-100")
    events = EventAccumulator(str(found.folder / "tensorboard" / "train")).Reload()
    tags = events.Tags()
    losses = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("epoch_loss")]
    np.testing.assert_allclose(losses, found.run.history["loss"], rtol=1e-5)
    assert any("moving_variance" in tag for tag in tags["tensors"])


def test_the_best_model_is_that_of_the_lowest_validation_loss(trained):
    found = trained("average-100")
    model = keras.saving.load_model(found.folder / "best.keras")
    settings, arrays = found.study.settings, found.arrays
    rows = settings.validation_batches * settings.batch_size
    loss, _ = model.evaluate(arrays.x_val[:rows], arrays.y_val[:rows], verbose=0)
    assert loss == pytest.approx(min(found.run.history["val_loss"]), rel=1e-5)


def test_the_best_model_is_kept_though_later_ones_are_worse(images, tmp_path):
    model = build(STUDIES["average-100"].settings, pixels=784, seed=100)
    best = _Best(tmp_path / "best.keras")
    best.set_model(model)
    bias = model.get_layer("logits").bias
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.0]):
        bias.assign(np.full(10, float(epoch)))
        best.on_epoch_end(epoch, {"val_loss": loss})
    best.on_train_end()
    saved = keras.saving.load_model(tmp_path / "best.keras").get_layer("logits").bias
    assert set(saved.numpy()) == {1.0}
    assert set(bias.numpy()) == {3.0}


def test_the_statistics_alone_leave_training_as_it_is_and_change_evaluation(trained):
    one, other = (trained(name).run.history for name in SAME_TRAINING)
    assert one["loss"] == other["loss"]
    assert one["val_loss"] != other["val_loss"]


def test_algorithm_2_ends_an_epoch_with_the_statistics_of_that_epoch_alone(trained):
    found = trained("algorithm2-100")
    settings = found.study.settings
    layer = keras.saving.load_model(found.folder / "best.keras").get_layer("batch_norm_1")
    steps = dataset.steps_in_epoch(len(found.arrays.x_train), settings)
    # The first epoch's model would not tell.
    assert np.argmin(found.run.history["val_loss"]) == 1
    assert layer.weights[-2].name == "count"
    # Without the reset the second epoch's model would count both epochs.
    assert set(layer.weights[-2].numpy()) == {steps * settings.batch_size}
    assert set(layer.weights[-1].numpy()) == {steps * (settings.batch_size - 1)}


@pytest.mark.thorough
def test_the_papers_run_follows_test_accuracy_and_percentiles(trained):
    found = trained("paper-with-bn")
    history = found.run.history
    assert len(history["test_accuracy"]) == 2
    assert history["test_accuracy"][-1] == pytest.approx(found.run.test / 100)
    for low, middle, high in zip(
        history["percentile_15"],
        history["percentile_50"],
        history["percentile_85"],
        strict=True,
    ):
        assert low < middle < high
    with (found.folder / "history.csv").open() as file:
        assert "percentile_85" in next(csv.reader(file))


@pytest.mark.parametrize(
    "name", ["average-100", pytest.param("paper-with-bn", marks=pytest.mark.thorough)]
)
def test_a_run_is_what_keras_gives_batch_by_batch(trained, name):
    found = trained(name)
    settings, arrays = found.study.settings, found.arrays
    keras.utils.set_random_seed(100)
    model = build(settings, pixels=784, seed=100)
    model.__class__ = BatchByBatch
    steps = dataset.steps_in_epoch(len(arrays.x_train), settings)
    batches = (
        tf.data.Dataset.from_tensor_slices((arrays.x_train, arrays.y_train))
        .shuffle(len(arrays.x_train), seed=100)
        .batch(settings.batch_size, drop_remainder=True)
    )
    expected = model.fit(
        batches.repeat() if settings.stream == "continue" else batches.take(steps),
        epochs=2,
        steps_per_epoch=steps if settings.stream == "continue" else None,
        validation_data=(arrays.x_val, arrays.y_val),
        shuffle=False,
        verbose=0,
    ).history
    for key, values in expected.items():
        np.testing.assert_allclose(found.run.history[key], values, rtol=2e-3, err_msg=key)
    best = keras.saving.load_model(found.folder / "best.keras")
    assert int(best.optimizer.iterations) in (steps, 2 * steps)


@pytest.mark.thorough
def test_a_run_is_the_same_to_the_last_digit_on_a_used_network_and_on_a_new_one(trained, tmp_path):
    found = trained("algorithm2-100")
    study, arrays, networks = found.study, found.arrays, found.networks
    (used,) = networks.values()
    assert int(used.optimizer.iterations) > 0
    begun = _begin(study.settings, arrays.x_train.shape[1], 101, networks)
    new = _begin(study.settings, arrays.x_train.shape[1], 101, None)
    assert begun is used
    for ours, fresh in zip(_state(begun), _state(new), strict=True):
        np.testing.assert_array_equal(ours, fresh, err_msg=ours.path)
    again = train(study, seed=101, arrays=arrays, folder=tmp_path, networks=networks)
    fresh = train(study, seed=101, arrays=arrays, folder=tmp_path)
    assert again.history == fresh.history
    assert again.test == fresh.test
    repeated = train(study, seed=100, arrays=arrays, folder=tmp_path, networks=networks)
    assert repeated.history == found.run.history
    assert repeated.test == found.run.test
    assert repeated.history != again.history
