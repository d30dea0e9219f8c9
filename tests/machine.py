"""What the machine at hand can do, asked of TensorFlow itself: it depends on the processor."""

import functools

import keras
import tensorflow as tf


@functools.cache
def why_no_channels_first():
    """Train a convolution in channels_first by one step: TensorFlow's own CPU kernels cannot.

    Return None if it works, and else why a test that needs it is skipped.
    """
    layer = keras.layers.Conv2D(2, 2, data_format="channels_first")
    x = tf.ones((1, 1, 3, 3))
    try:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
        tape.gradient(outputs, [x, layer.kernel])
    except tf.errors.OpError as error:
        return f"TensorFlow has no convolutions in channels_first here ({type(error).__name__})"
    return None
