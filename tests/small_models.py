"""Small models and data that tests of training share."""

import keras
import numpy as np
import tensorflow as tf

ROWS, FEATURES = 50, 6


def numbers(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (rows, FEATURES)).astype("float32")
    return x, (x[:, :1] - x[:, 1:2] ** 2 / 4).astype("float32")


def compiled(*layers, optimizer="adam", **settings):
    model = keras.Sequential([keras.layers.Input((FEATURES,)), *layers, keras.layers.Dense(1)])
    model.compile(optimizer=optimizer, loss="mse", metrics=["mae"], **settings)
    return model


def plain():
    return compiled(keras.layers.Dense(5, activation="tanh"))


def keras_batch_norm():
    return compiled(keras.layers.Dense(5), keras.layers.BatchNormalization(momentum=0.8))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, activation="tanh")
        self.out = keras.layers.Dense(1)

    def call(self, inputs, training=None):
        return self.out(self.dense(inputs))


class OwnStep(Subclassed):
    """A step whose logs are not the metrics."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"last": loss, "largest": tf.reduce_max(gradients[0])}


def own_step():
    model = OwnStep()
    model.compile(optimizer="adam", loss="mse")
    return model
