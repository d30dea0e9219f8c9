"""One run of a study: what it measures, what it leaves behind, and that its quirks are real."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from batchnorm_mechanics.studies import dataset
from batchnorm_mechanics.studies.network import StudyModel, build
from batchnorm_mechanics.studies.registry import STUDIES, quick
from batchnorm_mechanics.studies.train import _begin, _state, train


@pytest.fixture(scope="module")
def digits():
    return dataset.load(minimum_rows=60)


def small(name, **settings):
    study = quick(STUDIES[name])
    return replace(study, settings=replace(study.settings, rows=1200, epochs=2, **settings))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Runs of three studies that share a training trajectory, by study."""
    runs = {}
    for name in ("average-100", "algorithm2-100", "reversed-100"):
        study = small(name)
        folder = tmp_path_factory.mktemp(name)
        epochs = []
        run = train(
            study,
            seed=100,
            arrays=dataset.prepare(digits, study.settings),
            folder=folder,
            progress=lambda epoch, logs, epochs=epochs: epochs.append((epoch, dict(logs))),
        )
        runs[name] = (study, run, folder, epochs)
    return runs


def test_accuracies_are_in_percent_and_are_those_of_the_last_epoch(trained):
    for _, run, _, _ in trained.values():
        assert run.train == pytest.approx(100 * run.history["accuracy"][-1])
        assert run.val == pytest.approx(100 * run.history["val_accuracy"][-1])
        assert 15 < run.test <= 100


def test_the_history_has_an_entry_for_each_epoch_and_is_kept_as_csv(trained):
    for _, run, folder, _ in trained.values():
        with (folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2
        for name, values in run.history.items():
            np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-6)


def test_progress_tells_of_each_epoch(trained):
    for _, run, _, epochs in trained.values():
        assert [epoch for epoch, _ in epochs] == [1, 2]
        assert [logs["loss"] for _, logs in epochs] == run.history["loss"]


def test_tensorboard_logs_hold_losses_and_weights(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run, folder, _ = trained["algorithm2-100"]
    events = EventAccumulator(str(folder / "tensorboard" / "train")).Reload()
    tags = events.Tags()
    losses = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("epoch_loss")]
    np.testing.assert_allclose(losses, run.history["loss"], rtol=1e-5)
    assert any("moving_variance" in tag for tag in tags["tensors"])


def test_the_best_model_is_that_of_the_lowest_validation_loss(trained, digits):
    study, run, folder, _ = trained["average-100"]
    model = keras.saving.load_model(folder / "best.keras")
    arrays = dataset.prepare(digits, study.settings)
    rows = study.settings.validation_batches * study.settings.batch_size
    loss, _ = model.evaluate(arrays.x_val[:rows], arrays.y_val[:rows], verbose=0)
    assert loss == pytest.approx(min(run.history["val_loss"]), rel=1e-5)


def test_the_statistics_alone_leave_training_as_it_is_and_change_evaluation(trained):
    runs = [run for _, run, _, _ in trained.values()]
    for run in runs[1:]:
        assert run.history["loss"] == runs[0].history["loss"]
        assert run.history["val_loss"] != runs[0].history["val_loss"]


def test_a_run_can_be_repeated_to_the_last_digit(trained, digits, tmp_path):
    study, run, _, _ = trained["algorithm2-100"]
    again = train(study, seed=100, arrays=dataset.prepare(digits, study.settings), folder=tmp_path)
    assert again.history == run.history
    assert again.test == run.test


def test_algorithm_2_ends_an_epoch_with_the_statistics_of_that_epoch_alone(digits, tmp_path):
    study = small("algorithm2-100")
    arrays = dataset.prepare(digits, study.settings)
    train(study, seed=100, arrays=arrays, folder=tmp_path)
    layer = keras.saving.load_model(tmp_path / "best.keras").get_layer("batch_norm_1")
    steps = dataset.steps_in_epoch(len(arrays.x_train), study.settings)
    assert layer.weights[-2].name == "count"
    # Without the reset the second epoch's model would count both epochs.
    assert set(layer.weights[-2].numpy()) == {steps * study.settings.batch_size}
    assert set(layer.weights[-1].numpy()) == {steps * (study.settings.batch_size - 1)}


def test_the_papers_run_follows_test_accuracy_and_percentiles(digits, tmp_path):
    study = small("paper-with-bn", steps_per_epoch=12)
    run = train(study, seed=100, arrays=dataset.prepare(digits, study.settings), folder=tmp_path)
    history = run.history
    assert len(history["test_accuracy"]) == 2
    assert history["test_accuracy"][-1] == pytest.approx(run.test / 100)
    for low, middle, high in zip(
        history["percentile_15"],
        history["percentile_50"],
        history["percentile_85"],
        strict=True,
    ):
        assert low < middle < high
    with (tmp_path / "history.csv").open() as file:
        assert "percentile_85" in next(csv.reader(file))


class BatchByBatch(StudyModel):
    train_step = keras.Model.train_step
    test_step = keras.Model.test_step


@pytest.mark.parametrize("name", ["average-100", "paper-with-bn"])
def test_a_run_is_what_keras_gives_batch_by_batch(digits, tmp_path, name):
    study = small(name, **({"steps_per_epoch": 12} if name.startswith("paper") else {}))
    settings, arrays = study.settings, dataset.prepare(digits, study.settings)
    run = train(study, seed=100, arrays=arrays, folder=tmp_path)

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
        verbose=0,
    ).history
    for key, values in expected.items():
        np.testing.assert_allclose(run.history[key], values, rtol=2e-3, err_msg=key)
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert int(best.optimizer.iterations) in (steps, 2 * steps)


def test_another_seed_on_a_used_network_gives_what_a_new_one_gives(digits, tmp_path):
    study = small("algorithm2-100")
    arrays = dataset.prepare(digits, study.settings)
    networks = {}
    train(study, seed=100, arrays=arrays, folder=tmp_path, networks=networks)
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
