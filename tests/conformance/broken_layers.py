"""Broken batch normalization: each layer has one mistake of the kind that porters make.

`BROKEN` lists them with the name of the mistake that the harness must give.
"""

import tensorflow as tf
from conformance.correct_layers import TwoPass, function


class BesselInNormalization(TwoPass):
    """The variance of torch.var, which divides by m - 1, put where the biased one belongs."""

    def in_training(self, x, mask):
        mean, variance = super().in_training(x, mask)
        m = self.moments(x, mask, self.reduced(x))[2]
        return mean, variance * m / (m - 1)


class VarianceStopped(TwoPass):
    def in_training(self, x, mask):
        mean, variance = super().in_training(x, mask)
        return mean, tf.stop_gradient(variance)


class MeanStopped(TwoPass):
    def in_training(self, x, mask):
        mean, variance = super().in_training(x, mask)
        return tf.stop_gradient(mean), variance


class BothStopped(TwoPass):
    """The statistics come from variables just assigned: TensorFlow differentiates neither."""

    def in_training(self, x, mask):
        mean, variance = super().in_training(x, mask)
        return tf.stop_gradient(mean), tf.stop_gradient(variance)


class EpsilonOutside(TwoPass):
    def normalize(self, x, mean, variance):
        return (x - mean) / (tf.sqrt(variance) + self.epsilon)


class EpsilonMissing(TwoPass):
    def normalize(self, x, mean, variance):
        return (x - mean) / tf.sqrt(variance)


class EpsilonTwice(TwoPass):
    """Added to the variance when it is computed, and again at the root."""

    def normalize(self, x, mean, variance):
        return super().normalize(x, mean, variance + self.epsilon)


class EpsilonFixed(TwoPass):
    """The argument is stored and never read: the number of PyTorch stands in the code."""

    def normalize(self, x, mean, variance):
        return (x - mean) / tf.sqrt(variance + 1e-5)


class VarianceNeverUpdated(TwoPass):
    def blend(self, variable, value):
        if variable is self.moving_mean:
            super().blend(variable, value)


class MeanNeverUpdated(TwoPass):
    def blend(self, variable, value):
        if variable is self.moving_variance:
            super().blend(variable, value)


class NeverUpdated(TwoPass):
    """The new values are computed and thrown away."""

    def blend(self, variable, value):
        return self.momentum * variable + (1 - self.momentum) * value


class UpdatedInInference(TwoPass):
    def in_inference(self, x):
        used = super().in_inference(x)
        self.update(*self.moments(x, None, self.reduced(x)))
        return used


class MomentumReversed(TwoPass):
    """PyTorch's formula under Keras's name."""

    def blend(self, variable, value):
        variable.assign((1 - self.momentum) * variable + self.momentum * value)


class MomentumTwice(TwoPass):
    def blend(self, variable, value):
        super().blend(variable, value)
        super().blend(variable, value)


class DeviationInNormalization(TwoPass):
    def normalize(self, x, mean, variance):
        return super().normalize(x, mean, tf.sqrt(variance))


class DeviationInMovingAverage(TwoPass):
    def update(self, mean, variance, count):
        super().update(mean, tf.sqrt(variance), count)


class VarianceAsDeviation(TwoPass):
    def normalize(self, x, mean, variance):
        return (x - mean) / (variance + self.epsilon)


class BatchAxisOnly(TwoPass):
    """Right for rank 2: every pixel of a picture gets statistics of its own."""

    def reduced(self, x):
        return [0]

    def update(self, mean, variance, count):
        axes = [axis for axis in super().reduced(mean) if axis != 0]
        kept = [tf.reduce_mean(value, axes, keepdims=True) for value in (mean, variance)]
        super().update(*kept, count)


class AllAxes(TwoPass):
    """One mean for all channels."""

    def reduced(self, x):
        return list(range(x.shape.rank))

    def update(self, mean, variance, count):
        ones = tf.ones_like(self.spread(self.moving_mean, mean))
        super().update(mean * ones, variance * ones, count)


class GammaBetaExchanged(TwoPass):
    def scale(self, x_hat, gamma, beta):
        return x_hat * beta + gamma


class GammaIgnored(TwoPass):
    def scale(self, x_hat, gamma, beta):
        return x_hat + beta


class BetaIgnored(TwoPass):
    def scale(self, x_hat, gamma, beta):
        return x_hat * gamma


class ShiftBeforeScale(TwoPass):
    def scale(self, x_hat, gamma, beta):
        return gamma * (x_hat + beta)


class MeanNotSubtracted(TwoPass):
    def normalize(self, x, mean, variance):
        return x / tf.sqrt(variance + self.epsilon)


class AroundZero(TwoPass):
    def moments(self, x, mask, axes):
        mean, count = self.mean(x, mask, axes)
        return mean, self.mean(x**2, mask, axes)[0], count


class OnePass(TwoPass):
    """E[x^2] - E[x]^2, right on paper, and clipped because it went below zero once."""

    def moments(self, x, mask, axes):
        mean, count = self.mean(x, mask, axes)
        variance = tf.maximum(self.mean(x**2, mask, axes)[0] - mean**2, 0)
        return mean, variance, count


class BatchInInference(TwoPass):
    def in_inference(self, x):
        return self.moments(x, None, self.reduced(x))[:2]


class MovingInTraining(TwoPass):
    def in_training(self, x, mask):
        used = self.in_inference(x)
        super().in_training(x, mask)
        return used


class UpdatedBeforeUse(TwoPass):
    """Updates first and normalizes with what it has just written."""

    def in_training(self, x, mask):
        super().in_training(x, mask)
        return self.in_inference(x)


class MovingExchanged(TwoPass):
    """Loaded in the order of another library."""

    def in_inference(self, x):
        mean, variance = super().in_inference(x)
        return variance, mean


class MaskIgnored(TwoPass):
    def as_weights(self, mask, x):
        return None


class MaskedAsZeros(TwoPass):
    def moments(self, x, mask, axes):
        return super().moments(x if mask is None else x * mask, None, axes)


class HalfOutput(TwoPass):
    """Half precision for speed, and cast back so that nobody sees it."""

    def scale(self, x_hat, gamma, beta):
        half = [tf.cast(value, tf.float16) for value in (x_hat, gamma, beta)]
        return tf.cast(super().scale(*half), x_hat.dtype)


class HalfStatistics(TwoPass):
    def moments(self, x, mask, axes):
        moments = super().moments(tf.cast(x, tf.float16), mask, axes)
        return tuple(tf.cast(value, x.dtype) for value in moments)

    def as_weights(self, mask, x):
        return super().as_weights(mask, tf.cast(x, tf.float16))


class EpsilonNotSaved(TwoPass):
    def get_config(self):
        config = super().get_config()
        config.pop("epsilon")
        return config


class MomentumNotSaved(TwoPass):
    def get_config(self):
        config = super().get_config()
        config.pop("momentum")
        return config


class OwnGradientAveraged(TwoPass):
    """A gradient written by hand, with means where the sums of gamma and beta belong."""

    def scale(self, x_hat, gamma, beta):
        axes = self.reduced(x_hat)

        @tf.custom_gradient
        def scaled(x_hat, gamma, beta):
            def gradient(dy):
                mean = [tf.reduce_mean(part, axes, keepdims=True) for part in (dy * x_hat, dy)]
                return dy * gamma, *mean

            return x_hat * gamma + beta, gradient

        return scaled(x_hat, gamma, beta)


class EpsilonOutsideAndMeanStopped(TwoPass):
    def in_training(self, x, mask):
        mean, variance = super().in_training(x, mask)
        return tf.stop_gradient(mean), variance

    def normalize(self, x, mean, variance):
        return (x - mean) / (tf.sqrt(variance) + self.epsilon)


def exchanged_parameters(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    """Hand gamma and beta on in the order of another library."""
    return function(
        x,
        beta,
        gamma,
        moving_mean,
        moving_variance,
        axis=axis,
        momentum=momentum,
        epsilon=epsilon,
        training=training,
    )


def reversed_momentum(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    """Weigh the new value by momentum."""
    return function(
        x,
        gamma,
        beta,
        moving_mean,
        moving_variance,
        axis=axis,
        momentum=1 - momentum,
        epsilon=epsilon,
        training=training,
    )


def training_reversed(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    """Read the flag the wrong way round."""
    return function(
        x,
        gamma,
        beta,
        moving_mean,
        moving_variance,
        axis=axis,
        momentum=momentum,
        epsilon=epsilon,
        training=not training,
    )


BROKEN = (
    (BesselInNormalization, "variance divided by m'-1 in the normalization itself"),
    (VarianceStopped, "gradient through the variance missing"),
    (MeanStopped, "gradient through the mean missing"),
    (BothStopped, "gradient through both statistics missing"),
    (EpsilonOutside, "epsilon outside the root"),
    (EpsilonMissing, "epsilon missing"),
    (EpsilonTwice, "epsilon added twice"),
    (EpsilonFixed, "epsilon 1e-05 used whatever is set"),
    (VarianceNeverUpdated, "moving variance never updated"),
    (MeanNeverUpdated, "moving mean never updated"),
    (NeverUpdated, "moving statistics never updated"),
    (UpdatedInInference, "statistics updated in inference"),
    (MomentumReversed, "momentum reversed against the declared convention"),
    (MomentumTwice, "moving statistics updated twice for each batch"),
    (
        DeviationInNormalization,
        "standard deviation used where variance belongs, in the normalization",
    ),
    (
        DeviationInMovingAverage,
        "standard deviation used where variance belongs, in the moving average",
    ),
    (VarianceAsDeviation, "variance used where the standard deviation belongs"),
    (BatchAxisOnly, "reduced over the wrong axes"),
    (AllAxes, "reduced over the wrong axes"),
    (GammaBetaExchanged, "gamma and beta exchanged"),
    (GammaIgnored, "gamma ignored"),
    (BetaIgnored, "beta ignored"),
    (ShiftBeforeScale, "shift before scale: gamma * (x_hat + beta)"),
    (MeanNotSubtracted, "mean not subtracted"),
    (AroundZero, "variance around zero instead of around the mean"),
    (OnePass, "variance computed as E[x^2] - E[x]^2"),
    (BatchInInference, "batch statistics used in inference"),
    (MovingInTraining, "moving statistics used in training"),
    (UpdatedBeforeUse, "moving statistics used in training, updated before they are used"),
    (MovingExchanged, "moving mean and variance exchanged"),
    (MaskIgnored, "mask ignored"),
    (MaskedAsZeros, "masked samples counted as zeros"),
    (HalfOutput, "output computed in half precision"),
    (HalfStatistics, "statistics computed in half precision"),
    (EpsilonNotSaved, "not restored by saving and loading: epsilon"),
    (MomentumNotSaved, "not restored by saving and loading: momentum"),
    (OwnGradientAveraged, "dgamma and dbeta averaged instead of summed"),
    (
        EpsilonOutsideAndMeanStopped,
        "epsilon outside the root, and gradient through the mean missing",
    ),
    (exchanged_parameters, "gamma and beta exchanged"),
    (reversed_momentum, "momentum reversed against the declared convention"),
    (training_reversed, "training and inference exchanged"),
)
