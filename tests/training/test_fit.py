"""`fit_compiled` against `model.fit`: the same data, seeds and weights give the same results."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    FEATURES,
    ROWS,
    Subclassed,
    compiled,
    keras_batch_norm,
    numbers,
    own_step,
    plain,
)

from batchnorm_mechanics.layers import BatchNormalization, ResetStatistics
from batchnorm_mechanics.statistics import AverageOfBatches
from batchnorm_mechanics.training.blocks import BLOCK_BYTES, Batches
from batchnorm_mechanics.training.fit import evaluate_compiled, fit_compiled
from batchnorm_mechanics.training.loop import loops_of


def shuffled(rows=ROWS, size=8, **batch):
    data = tf.data.Dataset.from_tensor_slices(numbers(rows))
    return data.shuffle(rows, seed=3, reshuffle_each_iteration=True).batch(size, **batch)


def our_batch_norm():
    return compiled(keras.layers.Dense(5), BatchNormalization(statistics=AverageOfBatches()))


def dropout():
    return compiled(keras.layers.Dense(16), keras.layers.Dropout(0.5, seed=1))


def schedule_clipping_and_regularizer():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3, 9], [0.1, 0.01, 0.001])
    return compiled(
        keras.layers.Dense(5, kernel_regularizer="l2"),
        optimizer=keras.optimizers.SGD(schedule, momentum=0.9, clipnorm=0.5),
    )


def averaged_weights():
    return compiled(
        keras.layers.Dense(5),
        optimizer=keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    )


def subclassed():
    model = Subclassed()
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return model


def both(make, dataset, *, epochs=3, callbacks: Any = list, jit_compile=False, **settings):
    """Train twice from the same seed; return what `fit` and what the compiled loop gave."""
    results = []
    for train in (keras.Model.fit, fit_compiled):
        keras.utils.set_random_seed(11)
        model = make()
        # XLA takes seconds for each model; two tests look at it, the others do without.
        model.jit_compile = jit_compile
        extra: dict[str, Any] = (
            {"verbose": 0, "shuffle": False}
            if train is keras.Model.fit
            else {"jit_compile": jit_compile}
        )
        history = train(
            model,
            dataset(),
            epochs=epochs,
            callbacks=callbacks(),
            **{name: value() if callable(value) else value for name, value in settings.items()},
            **extra,
        )
        results.append((history.history, model))
    return results


def assert_same(results, rtol=1e-4):
    (expected, by_fit), (found, by_loop) = results
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=rtol, err_msg=name)
    for a, b in zip(by_loop.variables, by_fit.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5, err_msg=a.path)
    for a, b in zip(by_loop.optimizer.variables, by_fit.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=a.path)


@pytest.mark.parametrize(
    "make",
    [keras_batch_norm, dropout, schedule_clipping_and_regularizer, averaged_weights, subclassed],
)
def test_losses_metrics_weights_and_optimizer_are_those_of_fit(make):
    assert_same(both(make, lambda: shuffled(48)))


def test_validation_and_a_last_smaller_batch_are_those_of_fit():
    # 50 rows in batches of 8 end with a batch of 2, and 20 with one of 4.
    assert_same(both(our_batch_norm, shuffled, validation_data=lambda: shuffled(20)))


def test_losses_and_weights_are_those_of_fit_where_xla_compiles_both():
    def make():
        return compiled(
            BatchNormalization(),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.BatchNormalization(),
        )

    assert_same(both(make, lambda: shuffled(48), jit_compile=True))


def test_logs_of_a_step_of_ones_own_are_those_of_its_last_batch():
    assert_same(both(own_step, lambda: shuffled(48)))


def test_batches_of_known_size_give_the_results_of_fit():
    assert_same(both(plain, lambda: shuffled(drop_remainder=True)))


@pytest.mark.parametrize("drop", [False, True])
def test_steps_of_an_epoch_go_on_in_the_data_as_in_fit(drop):
    repeated = both(
        plain, lambda: shuffled(drop_remainder=drop).repeat(), epochs=4, steps_per_epoch=5
    )
    assert_same(repeated)


def test_steps_that_use_up_the_data_begin_anew_as_in_fit():
    assert_same(both(plain, lambda: shuffled(48), epochs=3, steps_per_epoch=6))


def test_data_that_ends_within_the_steps_of_an_epoch_is_said_and_trained_on():
    model = plain()
    with pytest.warns(UserWarning, match="the data ended") as caught:
        fit_compiled(model, shuffled(16), steps_per_epoch=5, jit_compile=False)
    assert str(caught[0].message) == (
        "fit_compiled: the data ended after 2 of the 5 steps of an epoch. "
        "Add .repeat() to the dataset."
    )
    assert int(model.optimizer.iterations) == 2


def test_sample_weights_named_inputs_and_weighted_losses_count_as_in_fit():
    def make():
        a, b = keras.Input((FEATURES,), name="a"), keras.Input((2,), name="b")
        hidden = keras.layers.Dense(4, name="hidden")(keras.layers.concatenate([a, b]))
        outputs = {
            "left": keras.layers.Dense(1, name="left")(hidden),
            "right": keras.layers.Dense(1, name="right")(hidden),
        }
        model = keras.Model({"a": a, "b": b}, outputs)
        model.compile(
            optimizer="adam",
            loss={"left": "mse", "right": "mae"},
            loss_weights={"left": 1.0, "right": 3.0},
            weighted_metrics={"left": ["mae"], "right": ["mse"]},
        )
        return model

    def dataset():
        x, y = numbers(48)
        weights = np.linspace(0, 2, 48, dtype="float32")
        tensors: Any = (
            {"a": x, "b": x[:, :2] ** 2},
            {"left": y, "right": -y},
            {"left": weights, "right": weights[::-1].copy()},
        )
        return tf.data.Dataset.from_tensor_slices(tensors).batch(8)

    assert_same(both(make, dataset))


def test_batches_that_change_their_size_within_an_epoch_stay_as_they_are():
    def dataset():
        return shuffled(20).concatenate(shuffled(30, size=6))

    assert_same(both(plain, dataset))


def test_what_an_epoch_leaves_of_a_block_begins_the_next_epoch():
    data = tf.data.Dataset.range(14).batch(2, drop_remainder=True).repeat()
    batches = Batches(data, steps=4, choose_length=lambda batch, steps: 3)
    epochs = [
        [
            int(block.batches[at, 0])
            for block in batches.epoch()
            for at in range(block.start, block.stop)
        ]
        for _ in range(3)
    ]
    assert epochs == [[0, 2, 4, 6], [8, 10, 12, 0], [2, 4, 6, 8]]


# Keras says so of the epoch in which it finds out where the data end.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_data_of_unknown_length_come_in_the_order_of_fit():
    # Only the order is compared: at such an end `fit` takes one more step, on no data.
    orders = []

    def recorded():
        order = []
        orders.append(order)

        def record(x):
            order.append(x[:, 0].tolist())
            return x

        def through_python(x, y):
            return tf.ensure_shape(tf.numpy_function(record, [x], tf.float32), x.shape), y

        return shuffled().map(through_python).filter(lambda x, y: True)

    both(plain, recorded)
    by_fit, by_loop = orders
    assert len(by_loop) == 3 * 7
    assert by_loop == by_fit


def test_few_batches_before_one_of_another_size_keep_their_order():
    sizes = [8, 8, 5, 8]
    rows = iter(range(100))
    batches = [[next(rows) for _ in range(size)] for size in sizes]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=tf.TensorSpec([None], tf.int32)
    )
    blocks = Batches(data, steps=None, choose_length=lambda batch, steps: 64).epoch()
    found = [block.batches[at] for block in blocks for at in range(block.start, block.stop)]
    assert [batch.numpy().tolist() for batch in found] == batches


def test_batches_that_fill_several_blocks_are_trained_on_in_order(monkeypatch):
    monkeypatch.setattr("batchnorm_mechanics.training.blocks.BLOCK_BYTES", 700)
    assert_same(both(plain, shuffled))


def test_statistics_are_reset_with_each_epoch():
    results = both(our_batch_norm, shuffled, callbacks=lambda: [ResetStatistics()])
    assert_same(results)
    layer = results[1][1].layers[1]
    assert set(layer.weights[-2].numpy()) == {ROWS}


def test_a_learning_rate_that_a_callback_changes_is_obeyed():
    rates = lambda: [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))]  # noqa: E731
    results = both(lambda: compiled(optimizer="sgd"), shuffled, callbacks=rates)
    assert_same(results)
    assert results[1][0]["learning_rate"] == pytest.approx([0.1, 0.05, 0.1 / 3])


class Recorder(keras.callbacks.Callback):
    """Write down every call, and what it came with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("on_") and "predict" not in name:
            return lambda *args, **kwargs: self.calls.append((name, *args))
        return super().__getattribute__(name)


def test_callbacks_are_called_as_in_fit_with_batches_a_block_at_a_time():
    def make():
        model = plain()
        model.steps_per_execution = 100
        return model

    recorders = []

    def callbacks():
        recorders.append(Recorder())
        return recorders[-1:]

    def without_remainder(rows=48):
        return shuffled(rows)

    both(make, without_remainder, callbacks=callbacks, validation_data=lambda: shuffled(16))
    by_fit, by_loop = ([call[0] for call in recorder.calls] for recorder in recorders)
    assert by_loop == by_fit
    ends = [call[1] for call in recorders[1].calls if call[0] == "on_train_batch_end"]
    assert ends == [5, 5, 5]
    logs = [call[2] for call in recorders[1].calls if call[0] == "on_epoch_end"]
    assert list(logs[0]) == ["loss", "mae", "val_loss", "val_mae"]
    assert all(type(value) is float for value in logs[0].values())
    assert recorders[1].params == {"verbose": 0, "epochs": 3, "steps": 6}


def test_a_model_that_was_stopped_before_is_trained_again():
    model = plain()
    model.stop_training = True
    assert len(fit_compiled(model, shuffled(), epochs=2, jit_compile=False).epoch) == 2


def test_training_that_broke_off_goes_on_from_its_backup(tmp_path):
    class BreakOff(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise InterruptedError

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    data, settings = shuffled(), {"epochs": 3, "jit_compile": False}
    with pytest.raises(InterruptedError):
        fit_compiled(plain(), data, callbacks=[backup(), BreakOff()], **settings)
    model = plain()
    assert fit_compiled(model, data, callbacks=[backup()], **settings).epoch == [1, 2]
    assert int(model.optimizer.iterations) == 3 * 7


def test_averages_of_weights_are_put_in_their_place_at_the_end_as_in_fit():
    def make():
        return compiled(optimizer=keras.optimizers.Adam(0.1, use_ema=True))

    assert_same(both(make, shuffled))


class StopAfterBlock(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = True


def test_stopping_is_obeyed_after_a_block_and_after_an_epoch(monkeypatch):
    model = plain()
    history = fit_compiled(
        model,
        shuffled(48),
        epochs=9,
        jit_compile=False,
        callbacks=[keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=1)],
    )
    assert len(history.history["loss"]) == 2
    monkeypatch.setattr("batchnorm_mechanics.training.blocks.BLOCK_BYTES", 700)
    model = plain()
    history = fit_compiled(
        model, shuffled(48), epochs=9, jit_compile=False, callbacks=[StopAfterBlock()]
    )
    assert len(history.history["loss"]) == 1
    assert int(model.optimizer.iterations) == 3


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_ctrl_c_leaves_a_model_that_can_be_trained_on():
    model = plain()
    with pytest.raises(KeyboardInterrupt):
        fit_compiled(model, shuffled(48), callbacks=[Interrupt()], jit_compile=False)
    fit_compiled(model, shuffled(48), jit_compile=False)
    assert int(model.optimizer.iterations) == 12


def test_another_call_compiles_nothing_until_the_model_is_compiled_anew():
    model = plain()
    fit_compiled(model, shuffled(), validation_data=shuffled(20), jit_compile=False)
    loops = loops_of(model, jit_compile=False)
    before = loops.train.traces, loops.test.traces
    fit_compiled(model, shuffled(), epochs=2, validation_data=shuffled(20), jit_compile=False)
    # Fewer whole batches go into the same block.
    fit_compiled(model, shuffled(34), jit_compile=False)
    assert loops_of(model, jit_compile=False) is loops
    assert (loops.train.traces, loops.test.traces) == before
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mae", metrics=[])
    weights = model.get_weights()
    history = fit_compiled(model, shuffled(), jit_compile=False)
    assert list(history.history) == ["loss"]
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_length_of_blocks_is_kept_until_an_epoch_would_have_too_many():
    loop = loops_of(plain(), jit_compile=False).train
    batch = tf.TensorSpec((8, FEATURES))
    assert [loop.length(batch, steps) for steps in (3, 48, 49, 3)] == [3, 3, 49, 49]


def test_a_trained_model_is_saved_and_loaded_as_ever(tmp_path):
    model = plain()
    fit_compiled(model, shuffled(), jit_compile=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, _ = numbers()
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)


def test_evaluation_is_that_of_keras():
    model = our_batch_norm()
    fit_compiled(model, shuffled(), jit_compile=False)
    expected = model.evaluate(shuffled(), return_dict=True, verbose=0)
    assert evaluate_compiled(model, shuffled(), jit_compile=False) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_model_that_xla_cannot_compile_is_refused_and_trained_without_it():
    def in_python(x):
        return tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), x.shape)

    def make():
        inputs = keras.Input((FEATURES,))
        outputs = keras.layers.Dense(1)(inputs)
        outputs = keras.layers.Lambda(lambda x: x + 0 * tf.stop_gradient(in_python(x)))(outputs)
        model = keras.Model(inputs, outputs)
        model.compile(optimizer="sgd", loss="mse")
        return model

    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`jit_compile` must be False for a model that XLA") as e:
        fit_compiled(model, shuffled(48))
    assert str(e.value).endswith("Pass jit_compile=False.")
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    history = fit_compiled(model, shuffled(48), jit_compile=False)
    assert np.isfinite(history.history["loss"][0])


def test_an_error_of_the_data_is_no_error_of_compilation():
    def fail(x, y):
        with tf.control_dependencies([tf.debugging.assert_less(x, 1e-9, "too large")]):
            return x, y

    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        fit_compiled(plain(), shuffled().map(fail))


REFUSED = {
    "no model": (
        lambda: ("model", shuffled()),
        TypeError,
        "fit_compiled: `model` must be a Keras model. Received: model='model'. "
        "Wrap layers in keras.Sequential or keras.Model.",
    ),
    "not compiled": (
        lambda: (keras.Sequential([keras.layers.Dense(1)], name="m"), shuffled()),
        ValueError,
        "fit_compiled: `model` must be compiled. Received: model=<Sequential name=m, built=False>. "
        "Call model.compile with an optimizer and a loss first.",
    ),
    "eager": (
        lambda: (compiled(run_eagerly=True), shuffled()),
        ValueError,
        "fit_compiled: `model` must not run eagerly. Received: model=<MODEL> with "
        "run_eagerly=True. Compile it without run_eagerly, or use model.fit.",
    ),
    "arrays": (
        lambda: (plain(), [1, 2]),
        TypeError,
        "fit_compiled: `dataset` must be a tf.data.Dataset of batches or RowBatches. Received: "
        "dataset=[1, 2]. Make one, as by tf.data.Dataset.from_tensor_slices((x, y)).batch(32).",
    ),
    "not batched": (
        lambda: (plain(), shuffled().unbatch()),
        ValueError,
        "fit_compiled: `dataset` must be batched. Received: dataset=<DATASET>. Add .batch(32).",
    ),
    "scalars": (
        lambda: (plain(), tf.data.Dataset.range(3)),
        ValueError,
        "fit_compiled: `dataset` must be batched. Received: dataset=<DATASET>. Add .batch(32).",
    ),
    "other shape": (
        lambda: (plain(), shuffled().map(lambda x, y: (x[:, :2], y))),
        ValueError,
        "fit_compiled: `dataset` must have the shapes that the model was built for, "
        f"(None, {FEATURES}). Received: dataset=<DATASET>. "
        "Reshape the data, or build the model for it.",
    ),
    "unknown rank": (
        lambda: (
            plain(),
            shuffled().map(lambda x, y: (tf.numpy_function(np.copy, [x], tf.float32), y)),
        ),
        ValueError,
        "fit_compiled: `dataset` must have tensors of known rank. Received: dataset=<DATASET>. "
        "Give them their shapes by tf.ensure_shape in the dataset's map.",
    ),
    "sparse": (
        lambda: (plain(), shuffled().map(lambda x, y: (tf.sparse.from_dense(x), y))),
        TypeError,
        "fit_compiled: `dataset` must hold dense tensors. Received: dataset=<DATASET>. "
        "Make them dense in the dataset's map.",
    ),
    "endless": (
        lambda: (plain(), shuffled().repeat()),
        ValueError,
        "fit_compiled: `dataset` must end where the steps of an epoch are not given. "
        "Received: dataset=<DATASET>. Take a part of it by .take, or pass steps_per_epoch.",
    ),
    "empty": (
        lambda: (plain(), shuffled(5, drop_remainder=True)),
        ValueError,
        "fit_compiled: `dataset` must have at least one batch. Received: dataset without any. "
        "Fewer rows than a batch, with drop_remainder=True, give none.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_with_what_to_do(case):
    make, kind, message = REFUSED[case]
    model, dataset = make()
    with pytest.raises(kind) as error:
        fit_compiled(model, dataset)
    expected = message.replace("<MODEL>", repr(model)).replace("<DATASET>", repr(dataset))
    assert str(error.value) == expected


NUMBERS: dict[str, Any] = {"epochs": {"epochs": 0}, "steps_per_epoch": {"steps_per_epoch": 0}}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match="must be an integer") as error:
        fit_compiled(plain(), shuffled(), **NUMBERS[name])
    assert str(error.value) == (
        f"fit_compiled: `{name}` must be an integer of 1 or more. Received: {name}=0. "
        "Leave it out for the default."
    )


def test_blocks_of_a_long_epoch_stay_within_the_budget_and_are_even():
    from batchnorm_mechanics.training.blocks import even_length

    batch = tf.TensorSpec((64, 1024))
    length = even_length(batch, 1000)
    assert length * 64 * 1024 * 4 <= BLOCK_BYTES
    assert -(-1000 // length) * length - 1000 < length / 8
