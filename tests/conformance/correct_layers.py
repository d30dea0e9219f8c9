"""Correct batch normalization, written in different ways, as their authors would each write it."""

import keras
import tensorflow as tf
from keras import ops


class Layer(keras.layers.Layer):
    """What all layers here share: arguments, weights, shapes. Statistics are float32 at least."""

    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.momentum, self.epsilon = axis, momentum, epsilon
        self.supports_masking = True

    def get_config(self):
        own = {"axis": self.axis, "momentum": self.momentum, "epsilon": self.epsilon}
        return {**super().get_config(), **own}

    def build(self, input_shape):
        shape = (input_shape[self.axis],)
        # Parameters stay in their own type when the rest is computed in half precision.
        common = {"shape": shape, "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **common)
        self.beta = self.add_weight(name="beta", initializer="zeros", **common)
        common["trainable"] = False
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **common)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **common)

    def reduced(self, x):
        kept = self.axis % x.shape.rank
        return [axis for axis in range(x.shape.rank) if axis != kept]

    def spread(self, value, x):
        shape = [1] * x.shape.rank
        shape[self.axis] = -1
        return tf.reshape(tf.cast(value, x.dtype), shape)

    def wide(self, x):
        return tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)

    def blend(self, variable, value):
        variable.assign(self.momentum * variable + (1 - self.momentum) * value)


class TwoPass(Layer):
    """Plain TensorFlow, step by step, masks included; the broken layers each change one step."""

    def moments(self, x, mask, axes):
        mean, count = self.mean(x, mask, axes)
        variance, _ = self.mean((x - mean) ** 2, mask, axes)
        return mean, variance, count

    def mean(self, x, mask, axes):
        weights = tf.ones_like(x) if mask is None else tf.broadcast_to(mask, tf.shape(x))
        count = tf.reduce_sum(weights, axes, keepdims=True)
        counted = tf.where(weights > 0, x, tf.zeros_like(x))
        return tf.math.divide_no_nan(tf.reduce_sum(counted, axes, keepdims=True), count), count

    def as_weights(self, mask, x):
        if mask is None:
            return None
        mask = tf.cast(mask, x.dtype)
        return tf.reshape(
            mask, tf.concat([tf.shape(mask), [1] * (x.shape.rank - mask.shape.rank)], 0)
        )

    def normalize(self, x, mean, variance):
        return (x - mean) / tf.sqrt(variance + self.epsilon)

    def scale(self, x_hat, gamma, beta):
        return x_hat * gamma + beta

    def update(self, mean, variance, count):
        seen = tf.reshape(count, [-1])[0] > 0
        for variable, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = tf.identity(variable.value)
            self.blend(variable, tf.reshape(value, [-1]))
            variable.assign(tf.where(seen, variable.value, old))

    def in_training(self, x, mask):
        mean, variance, count = self.moments(x, mask, self.reduced(x))
        self.update(mean, variance, count)
        return mean, variance

    def in_inference(self, x):
        return self.spread(self.moving_mean, x), self.spread(self.moving_variance, x)

    def call(self, inputs, training=False, mask=None):
        x = self.wide(inputs)
        if training:
            mean, variance = self.in_training(x, self.as_weights(mask, x))
        else:
            mean, variance = self.in_inference(x)
        x_hat = self.normalize(x, mean, variance)
        y = self.scale(x_hat, self.spread(self.gamma, x), self.spread(self.beta, x))
        return tf.cast(y, inputs.dtype)


class Moments(Layer):
    """The two functions that TensorFlow offers, as most tutorials use them."""

    def call(self, inputs, training=False):
        x = self.wide(inputs)
        if training:
            if 0 in inputs.shape:
                raise ValueError("Moments: cannot train on an empty batch.")
            mean, variance = tf.nn.moments(x, self.reduced(x))
            self.blend(self.moving_mean, mean)
            self.blend(self.moving_variance, variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        mean, variance = self.spread(mean, x), self.spread(variance, x)
        gamma, beta = self.spread(self.gamma, x), self.spread(self.beta, x)
        # Centred first: batch_normalization alone computes x * s - mean * s.
        y = tf.nn.batch_normalization(
            x - mean, tf.zeros_like(mean), variance, beta, gamma, self.epsilon
        )
        return tf.cast(y, inputs.dtype)


class OwnGradient(Layer):
    """A forward pass with the gradient of the paper written out below it."""

    def call(self, inputs, training=False):
        x = self.wide(inputs)
        gamma, beta = self.spread(self.gamma, x), self.spread(self.beta, x)
        if not training:
            mean, variance = self.spread(self.moving_mean, x), self.spread(self.moving_variance, x)
            y = gamma * (x - mean) * tf.math.rsqrt(variance + self.epsilon) + beta
            return tf.cast(y, inputs.dtype)
        if 0 in inputs.shape:
            raise ValueError("OwnGradient: cannot train on an empty batch.")
        axes, epsilon = self.reduced(x), self.epsilon

        @tf.custom_gradient
        def normalized(x, gamma, beta):
            mean = tf.reduce_mean(x, axes, keepdims=True)
            variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=True)
            inverse = tf.math.rsqrt(variance + epsilon)
            x_hat = (x - mean) * inverse

            def gradient(dy, *_):
                dgamma = tf.reduce_sum(dy * x_hat, axes, keepdims=True)
                dbeta = tf.reduce_sum(dy, axes, keepdims=True)
                m = tf.cast(tf.size(x) // tf.size(mean), x.dtype)
                dx = gamma * inverse * (dy - dbeta / m - x_hat * dgamma / m)
                return dx, dgamma, dbeta

            return (gamma * x_hat + beta, mean, variance), gradient

        y, mean, variance = normalized(x, gamma, beta)
        self.blend(self.moving_mean, tf.reshape(mean, [-1]))
        self.blend(self.moving_variance, tf.reshape(variance, [-1]))
        return tf.cast(y, inputs.dtype)


class Fused(Layer):
    """The one-kernel operation of TensorFlow, whose moving variance is the unbiased one.

    It takes the last axis of float32; float64, for which there is no kernel, takes the long way.
    """

    def __init__(self, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(axis=-1, momentum=momentum, epsilon=epsilon, **kwargs)

    def get_config(self):
        config = super().get_config()
        config.pop("axis")
        return config

    def call(self, inputs, training=False):
        if training and 0 in inputs.shape:
            raise ValueError("Fused: cannot train on an empty batch.")
        channels = inputs.shape[-1]
        x = tf.reshape(self.wide(inputs), [-1, 1, 1, channels])
        run = self.in_pieces if x.dtype == tf.float64 else self.in_one
        y, mean, variance = run(x, training)
        if training:
            self.blend(self.moving_mean, mean)
            if x.shape[0] > 1:
                self.blend(self.moving_variance, variance)
        return tf.cast(tf.reshape(y, tf.shape(inputs)), inputs.dtype)

    def in_one(self, x, training):
        moving = [tf.convert_to_tensor(v) for v in (self.moving_mean, self.moving_variance)]
        mean, variance = ([], []) if training else moving
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=bool(training),
        )
        return y, mean, variance

    def in_pieces(self, x, training):
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
        y = tf.nn.batch_normalization(x - mean, 0.0, variance, self.beta, self.gamma, self.epsilon)
        m = float(x.shape[0])
        return y, mean, variance * (m / max(m - 1, 1))


class KerasOps(Layer):
    """Nothing but `keras.ops`, to run on any backend."""

    def call(self, inputs, training=False):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        kept = self.axis % len(x.shape)
        axes = [axis for axis in range(len(x.shape)) if axis != kept]
        shape = [-1 if axis == kept else 1 for axis in range(len(x.shape))]
        if training:
            if 0 in x.shape:
                raise ValueError("KerasOps: cannot train on an empty batch.")
            mean = ops.mean(x, axes)
            variance = ops.mean(ops.square(x - ops.reshape(mean, shape)), axes)
            self.blend(self.moving_mean, mean)
            self.blend(self.moving_variance, variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        x_hat = (x - ops.reshape(mean, shape)) / ops.sqrt(
            ops.reshape(variance, shape) + self.epsilon
        )
        y = ops.reshape(self.gamma, shape) * x_hat + ops.reshape(self.beta, shape)
        return ops.cast(y, inputs.dtype)


def function(
    x,
    gamma,
    beta,
    moving_mean,
    moving_variance,
    *,
    axis=-1,
    momentum=0.99,
    epsilon=1e-3,
    training=False,
):
    """The whole algorithm as one function of tensors."""
    wide = tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)
    kept = axis % x.shape.rank
    axes = [other for other in range(x.shape.rank) if other != kept]
    shape = [-1 if other == kept else 1 for other in range(x.shape.rank)]
    mean, variance = moving_mean, moving_variance
    if training:
        if 0 in x.shape:
            raise ValueError("function: `x` must hold a sample to train on.")
        mean = tf.reduce_mean(wide, axes)
        variance = tf.reduce_mean(tf.math.squared_difference(wide, tf.reshape(mean, shape)), axes)
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    scale = tf.math.rsqrt(tf.reshape(variance, shape) + epsilon) * tf.reshape(gamma, shape)
    y = (wide - tf.reshape(mean, shape)) * scale + tf.reshape(beta, shape)
    return tf.cast(y, x.dtype), moving_mean, moving_variance


CORRECT = (TwoPass, Moments, OwnGradient, Fused, KerasOps, function)
