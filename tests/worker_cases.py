"""What workers do in tests, and what one process does that has all of the batch."""

import contextlib
import functools
import io
import os
import signal
import warnings

import keras
import numpy as np
import tensorflow as tf

import batchnorm_mechanics as bnm
from batchnorm_mechanics.models.joining import _shared_data

# An epoch is 20 batches of 16 and one of 1: two workers have 8 and 8 samples, then 1 and nothing;
# three have 6, 5 and 5, then 1, nothing and nothing. Five epochs are 105 steps.
SIZE, BATCH, EPOCHS = 321, 16, 5

# Set where a process is to be several devices.
DEVICES = "DEVICES_OF_A_TEST"


@functools.cache
def strategy():
    """Return the strategy of this process: a worker, or several devices, or one alone."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if DEVICES in os.environ:
        devices = [tf.config.LogicalDeviceConfiguration()] * int(os.environ[DEVICES])
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, devices)
        return tf.distribute.MirroredStrategy([f"CPU:{at}" for at in range(len(devices))])
    return tf.distribute.get_strategy()


class Steps(keras.callbacks.Callback):
    """Keeps the loss after each step, and what the optimizer made of the first gradients."""

    def on_train_begin(self, logs=None):
        self.losses, self.first = [], None

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        if self.first is None:
            # Of a descent with momentum: minus the gradients, clipped, by the learning rate.
            self.first = arrays(self.model.optimizer.momentums)


def arrays(variables):
    return [strategy().experimental_local_results(one.value)[0].numpy() for one in variables]


def sequences():
    """Return steps in time of mean 1e4, many of them masked, labels, and weights of samples."""
    rng = np.random.default_rng(7)
    x = rng.normal(1e4, 2.0, (SIZE, 4, 3)).astype("float32")
    x[rng.random((SIZE, 4)) < 0.3] = 0
    # Of the second batch all but the first worker have hardly anything.
    x[24:32, 1:] = 0
    y = rng.normal(size=(SIZE, 4, 1)).astype("float32")
    return x, y, rng.uniform(0.2, 3.0, (SIZE, 4)).astype("float32")


def train_on_sequences(*, evaluates):
    """Train by `fit` on what a batch can be, and return what came of it."""
    keras.utils.set_random_seed(3)
    with strategy().scope():
        inputs = keras.Input((4, 3))
        masked = keras.layers.Masking(0.0)(inputs)
        # Its output comes to nothing, and its statistics are the batch's all the same.
        apart = bnm.BatchNormalization(name="apart", momentum=0.9)
        nothing = keras.layers.Rescaling(0.0)(apart(masked))
        h = bnm.BatchNormalization(momentum=0.9, synchronized=True)(masked)
        h = keras.layers.Dense(5, activation="tanh")(h)
        outputs = keras.layers.Dense(1)(keras.layers.Concatenate()([h, nothing]))
        model = keras.Model(inputs, outputs)
        # The norm of all gradients is that of the whole batch's.
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9, global_clipnorm=0.5)
        model.compile(optimizer, "mse", weighted_metrics=["mae"])
    x, y, weights = sequences()
    joined = join(model)
    steps = Steps()
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        sample_weight=weights,
        callbacks=[steps],
        validation_data=(x[:17], y[:17]) if evaluates else None,
    )
    return {
        "joined": joined,
        "losses": np.array(steps.losses),
        "gradients": steps.first,
        "weights": arrays([one for one in model.weights if "apart" not in one.path]),
        "statistics": arrays(model.get_layer("apart").weights),
        "history": history.history,
        "outputs": model.predict(x, batch_size=BATCH, verbose=0) if evaluates else None,
    }


def join(model):
    """Join a model where there are several; one process alone runs Keras as it is."""
    if strategy().num_replicas_in_sync == 1:
        return None
    return bnm.join_replicas(model)


def train_in_half_precision():
    """Train with a scaled loss and several steps an execution; then one worker overflows."""
    keras.utils.set_random_seed(3)
    half = {"dtype": "mixed_float16"}
    with strategy().scope():
        layers = [
            keras.layers.Dense(5, activation="tanh", **half),
            bnm.BatchNormalization(synchronized=True, **half),
            keras.layers.Dense(1, **half),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05))
        model.compile(optimizer, "mse", steps_per_execution=2)
    join(model)
    rng = np.random.default_rng(7)
    x = rng.normal(size=(SIZE, 3)).astype("float32")
    y = (x @ [1.0, -2.0, 0.5])[:, None].astype("float32")
    fit = functools.partial(model.fit, batch_size=BATCH, shuffle=False, verbose=0)
    history = fit(x, y, epochs=EPOCHS).history["loss"]
    before = arrays(model.trainable_variables), int(optimizer.iterations.numpy())
    # The last of the first batch, which the last worker has.
    y[BATCH - 1] = 6e4
    fit(x[:BATCH], y[:BATCH])
    after = arrays(model.trainable_variables), int(optimizer.iterations.numpy())
    scale = float(optimizer.dynamic_scale.numpy())
    return {"losses": np.array(history), "before": before, "after": after, "scale": scale}


def samples_of_two_epochs():
    """Return which samples this worker gets in two epochs of shuffled arrays."""
    rows = np.arange(SIZE, dtype="float32")
    given = _shared_data(strategy(), {"x": rows, "batch_size": BATCH})
    divided = strategy().experimental_distribute_dataset(given["x"])
    local = strategy().experimental_local_results
    return [np.concatenate([local(part)[0] for (part,) in divided]) for _ in range(2)]


def warned_of_another_order():
    """Return what is said of a dataset of which each worker has its own order, and of others."""
    rows = tf.data.Dataset.range(SIZE)
    off = tf.data.Options()
    off.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    said = {}
    for name, data in {
        # As without a seed, were the one of all random numbers not set here.
        "own": rows.shuffle(SIZE, seed=os.getpid()).batch(BATCH),
        "seed": rows.shuffle(SIZE, seed=1).batch(BATCH),
        "off": rows.shuffle(SIZE, seed=os.getpid()).batch(BATCH).with_options(off),
        "text": rows.map(tf.strings.as_string).batch(BATCH),
    }.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _shared_data(strategy(), {"x": data})
        said[name] = [str(one.message)[:59] for one in caught if one.category is UserWarning]
    return said


def of_two():
    """Do in one process what two workers are asked."""
    return train_on_sequences(evaluates=True), train_in_half_precision()


def of_three():
    """Do in one process what three workers are asked."""
    trained = train_on_sequences(evaluates=False)
    return trained, samples_of_two_epochs(), warned_of_another_order()


class Dies(keras.callbacks.Callback):
    """Kills its process in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


class Stops(keras.callbacks.Callback):
    """Stops training after an epoch, where it is called."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 3


def train_with_a_backup(folder, dies):
    """Train, and let the second worker die or want to stop; return the epochs and the weights."""
    keras.utils.set_random_seed(3)
    first = strategy().num_replicas_in_sync == 1 or bool(strategy().extended.should_checkpoint)
    with strategy().scope():
        layers = [bnm.BatchNormalization(synchronized=True), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    join(model)
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(SIZE, 3)), rng.normal(size=(SIZE, 1))
    callbacks = [
        keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.keras")),
        keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
    ]
    if not first:
        callbacks.append(Dies(2) if dies else Stops())
    elif strategy().num_replicas_in_sync == 1:
        callbacks.append(Stops())
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "epochs": 6}
    history = model.fit(x, y, callbacks=callbacks, **options)
    return history.epoch, history.history["loss"], arrays(model.weights)


def run_program(code, folder):
    """Run what a page shows, in a folder, and return what it prints."""
    os.chdir(folder)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<shown to users>", "exec"), {"__name__": "__main__"})
    return out.getvalue()
