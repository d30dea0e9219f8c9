"""A training step by `fit` as the studies use it and as it comes, and the matrix products alone.

The studies have `fit` train an epoch at a time: what it takes for a step is one compiled loop.

The network is that of the studies, three dense layers of 100 units with batch norm, for rows of
784; a step is a later epoch divided by its steps. An engine that does something else than `fit` is
refused.
"""

import functools
import itertools
import time

import numpy as np
from runner import Runner

CLASSES = 10
WIDTHS = (784, 100, 100, 100, CLASSES)
# By batch size: steps of an epoch.
EPOCHS = {10: 300, 100: 300, 1000: 55}
EPOCH, FIT, FIT_LONG = "an epoch at a time", "fit", "fit, 128 steps at once"
ENGINES = (EPOCH, FIT, FIT_LONG)
# The batch size of the epoch that is timed with its compilation.
FIRST = 100
# Of the loss of the first epoch, which the same batches in the same order give to rounding.
_TOLERANCE = 0.02
# Where every step had the same batch, XLA would multiply it once, before the loop.
_BATCHES = 2


def later_epochs(loops, engine, batch_size):
    """Return the seconds of as many epochs after the first, which compiles."""
    _, ends = _checked(engine, batch_size, epochs=1 + loops)
    return ends[-1] - ends[0]


def first_epochs(loops, engine, batch_size):
    """Return the seconds of as many first epochs, each of a new network that must be compiled."""
    seconds = 0.0
    for _ in range(loops):
        start, ends = _checked(engine, batch_size, epochs=1)
        seconds += ends[0] - start
    return seconds


def _checked(engine, batch_size, epochs):
    start, ends, found = train(engine, batch_size, EPOCHS[batch_size], epochs=epochs)
    # All epochs have as many steps, so that one of `fit` tells how many.
    wrong = None if engine == FIT else disagreement(_right(batch_size), found, epochs)
    if wrong is not None:
        raise SystemExit(f"refused {engine} at batches of {batch_size}: {wrong}")
    return start, ends


@functools.cache
def _right(batch_size):
    return train(FIT, batch_size, EPOCHS[batch_size], epochs=1)[-1]


def train(engine, batch_size, steps, epochs):
    """Train the network from the same weights on the same batches.

    Returns:
        The time of the call, of the end of each epoch, and by what to recognize an engine that did
        something else: the number of steps and the loss of the first epoch.
    """
    import keras
    import tensorflow as tf

    from batchnorm_mechanics.studies.train import StudyModel

    keras.backend.clear_session()
    keras.utils.set_random_seed(100)
    model = _network(keras, StudyModel if engine == EPOCH else keras.Model)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size * steps, WIDTHS[0]), np.float32)
    y = rng.integers(0, CLASSES, len(x))
    # Something to be learnt, so that a step that does nothing shows in the loss.
    x[:, 0] += y
    rows = tf.data.Dataset.range(len(x)).batch(batch_size)
    if engine == EPOCH:
        x, y = tf.constant(x), tf.constant(y)
        data = rows.batch(steps).map(lambda numbers: (x, y, numbers, tf.constant(steps)))
    else:
        data = rows.map(lambda numbers: (tf.gather(x, numbers), tf.gather(y, numbers)))
        data = data.prefetch(tf.data.AUTOTUNE)
        model.steps_per_execution = 128 if engine == FIT_LONG else 1
    ends, losses = [], []

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ends.append(time.perf_counter())
            losses.append(float((logs or {}).get("loss", "nan")))

    start = time.perf_counter()
    model.fit(data, epochs=epochs, callbacks=[Clock()], verbose=0, shuffle=False)
    return start, ends, (int(model.optimizer.iterations), losses[0])


def _network(keras, kind):
    inputs = outputs = keras.Input((WIDTHS[0],))
    for units in WIDTHS[1:-1]:
        outputs = keras.layers.Dense(units)(outputs)
        outputs = keras.layers.BatchNormalization()(outputs)
        outputs = keras.layers.Activation("sigmoid")(outputs)
    model = kind(inputs, keras.layers.Dense(CLASSES)(outputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer="adam", loss=loss, metrics=[metric], jit_compile=False)
    return model


def disagreement(right, found, epochs=1):
    """Say how a training differs from an epoch with the same seed; None if it does not.

    Args:
        right: number of steps, and loss of the first epoch.
        found: likewise.
        epochs: how many epochs the steps found are of.
    """
    if found[0] != epochs * right[0]:
        return f"it took {found[0]} steps, not {epochs * right[0]}"
    # Not `> ...`, which NaN passes.
    if not abs(found[1] - right[1]) <= _TOLERANCE * abs(right[1]):
        return f"its first epoch has a loss of {found[1]:.3g}, not {right[1]:.3g}"
    return None


class Products:
    """The products of dense layers, forward and backward, many times in one XLA-compiled loop.

    Nothing else of a training step is in it: the layers are linear, the slopes of the loss are the
    logits, and no weight changes. The gradient of the inputs is left out, as in training.

    Args:
        widths: of the input, of each hidden layer and of the output.
        batch: rows of a batch.
        steps: how often.
    """

    def __init__(self, widths, batch, steps):
        import tensorflow as tf

        rng = np.random.default_rng(0)
        self.batches = rng.standard_normal((_BATCHES, batch, widths[0]), np.float32)
        self.kernels = [
            rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
            for shape in itertools.pairwise(widths)
        ]
        # An argument, not a constant, so that XLA cannot unroll the loop.
        self._inputs = (
            tf.constant(steps),
            tf.constant(self.batches),
            [tf.constant(kernel) for kernel in self.kernels],
        )
        self._loop = tf.function(_loop, jit_compile=True)

    def run(self):
        """Multiply, and return the kernels' gradients of the last step when they are there."""
        return [gradient.numpy() for gradient in self._loop(*self._inputs)]

    def compiled(self):
        """Return what XLA made of the loop, as text."""
        return self._loop.experimental_get_compiler_ir(*self._inputs)(stage="optimized_hlo")


def _loop(steps, batches, kernels):
    import tensorflow as tf

    # The loop carries every gradient: a product whose result nobody takes would be removed.
    _, gradients = tf.while_loop(
        lambda step, _: step < steps,
        lambda step, _: (step + 1, _gradients(batches[step % _BATCHES], kernels)),
        (tf.constant(0), [tf.zeros_like(kernel) for kernel in kernels]),
    )
    return gradients


def _gradients(batch, kernels):
    import tensorflow as tf

    inputs = [batch]
    for kernel in kernels:
        inputs.append(tf.matmul(inputs[-1], kernel))
    slopes = inputs.pop()
    gradients = []
    for number in reversed(range(len(kernels))):
        gradients.insert(0, tf.matmul(inputs[number], slopes, transpose_a=True))
        if number:
            slopes = tf.matmul(slopes, kernels[number], transpose_b=True)
    return gradients


def products(loops, batch_size):
    """Return the seconds of as many epochs of matrix products alone."""
    multiply = Products(WIDTHS, batch_size, EPOCHS[batch_size]).run
    multiply()  # compiles
    start = time.perf_counter()
    for _ in range(loops):
        multiply()
    return time.perf_counter() - start


def main():
    """Time steps and first epochs."""
    runner = Runner(processes=2, values=3)
    for size, steps in EPOCHS.items():
        for engine in ENGINES:
            name = f"training, step, batches of {size}: {engine}"
            runner.time(name, later_epochs, engine, size, inner_loops=steps)
        name = f"training, step, batches of {size}: limit"
        runner.time(name, products, size, inner_loops=steps)
    for engine in ENGINES:
        name = f"training, first epoch with its compilation: {engine}"
        runner.time(name, first_epochs, engine, FIRST)
    runner.finish()


if __name__ == "__main__":
    main()
