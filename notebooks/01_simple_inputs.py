# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Simple inputs, step by step
#
# What does batch normalization do to six numbers? Here you do it by hand, write it as a Keras layer
# from nothing, try it along every set of axes, and compare it with TensorFlow's functions. Keras's
# own layer at first gives something quite different from the same six numbers. Why?

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import itertools

import altair as alt
import keras
import numpy as np
import tensorflow as tf
from IPython.display import Markdown

import batchnorm_mechanics as bnm

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")
np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## Six numbers
#
# Two samples of three channels. The paper (Ioffe and Szegedy, Algorithm 1) wants each channel to
# have mean zero and variance one within the batch, and then lets the network choose a scale
# $\gamma$ and an offset $\beta$:
#
# $$\mu_B = \frac1m \sum_i x_i, \qquad \sigma_B^2 = \frac1m \sum_i (x_i - \mu_B)^2, \qquad
# \hat x_i = \frac{x_i - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}}, \qquad
# y_i = \gamma \hat x_i + \beta$$
#
# Each channel has two values here. What are their means? Say it before you run the cell.

# %%
a = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
gamma, beta, epsilon = 2.0, 1.0, 0.001

mean = a.mean(axis=0)
mean

# %% [markdown]
# And their variances? Is it the same for all three channels, and should you divide by the number
# of samples or by one less?

# %%
variance = ((a - mean) ** 2).mean(axis=0)
print("divided by m:    ", variance)
print("divided by m - 1:", a.var(axis=0, ddof=1))

# %% [markdown]
# The paper normalizes with the first, 2.25, which is called the *biased* variance. The second,
# 4.5, estimates the variance of the population that the batch came from; it has its use in
# inference (Algorithm 2, line 10).
#
# Now the last two steps. After normalizing, what remains of the difference between the channels?

# %%
x_hat = (a - mean) / np.sqrt(variance + epsilon)
y = gamma * x_hat + beta
print("x_hat\n", x_hat)
print("y\n", y)

# %% [markdown]
# Nothing remains: all three columns are equal, since they differed in their means alone. The
# normalized values are not quite one, 0.9998, because of the $\epsilon$ under the root. Try it:
# drag a number, or $\gamma$.

# %%
bnm.Explorer(a, gamma=gamma, beta=beta)

# %% [markdown]
# ## The same steps, traced
#
# `bnm.trace` does one computation and keeps each step with its place in the paper. Is every one
# of them what you have by hand?

# %%
trace = bnm.trace(a, axes=[0], gamma=gamma, beta=beta, epsilon=epsilon)
own = {"mean": mean, "variance": variance, "x_hat": x_hat, "y": y}
rows = [
    f"| `{name}` | {trace[name].source} | `{value.ravel()}` | `{trace[name].value.ravel()}` |"
    for name, value in own.items()
]
head = ["| step | in the paper | by hand | traced |", "| --- | --- | --- | --- |"]
Markdown("\n".join([*head, *rows]))

# %% [markdown]
# ## TensorFlow's functions
#
# `tf.nn.moments` and `tf.nn.batch_normalization` do the same in two calls. Are they equal to yours
# to the last bit?

# %%
tf_mean, tf_variance = tf.nn.moments(a, axes=[0])
tf_y = tf.nn.batch_normalization(a, tf_mean, tf_variance, beta, gamma, epsilon).numpy()
apart = np.abs(tf_y - y).max()
sentence = "equal to the last bit" if apart == 0 else f"at most {apart:.0e} apart"
print(tf_y)
Markdown(f"By hand and by TensorFlow they are {sentence}, in float32, which has seven digits.")

# %% [markdown]
# The formula is the same, but not the order of its operations: TensorFlow computes
# $x \cdot s + (\beta - \mu s)$ with $s = \gamma / \sqrt{\sigma^2 + \epsilon}$. That saves work, and
# costs digits where the mean is large. How many?

# %%
far = a + 10_000
far_mean, far_variance = tf.nn.moments(far, axes=[0])
shortcut = tf.nn.batch_normalization(far, far_mean, far_variance, beta, gamma, epsilon).numpy()
in_order = bnm.forward(far, gamma, beta, axes=[0], epsilon=epsilon)[0].numpy()
print("largest error of the shortcut:", f"{np.abs(shortcut - y).max():.0e}")
print("of subtracting first:         ", f"{np.abs(in_order - y).max():.0e}")

# %% [markdown]
# Moving all numbers by the same amount should change nothing. It does if the mean is taken away
# last, and what it changes is no longer in the last digits alone.
#
# ## Which axes?
#
# Six numbers can be averaged down the columns, along the rows, or all together. The axes that are
# *reduced* share one mean; those that are *kept* have a mean for each of their entries. Along the
# rows, how many means are there?

# %%
rows = bnm.moments(a, axes=[1])
row_y, _ = bnm.forward(a, gamma, beta, axes=[1], epsilon=epsilon)
print("means", rows.mean.numpy(), "variances", rows.variance.numpy())
print(row_y.numpy())

# %% [markdown]
# Two means, 2 and 5, one for each row. Both rows now come out the same. Real data have more axes:
# here are 24 numbers with four.

# %%
b = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
b.shape, b.size

# %% [markdown]
# A convolution's output has such a shape: samples, height, width, channels. Batch norm then reduces
# all axes but the last, so that each mean has $m' = m \cdot p \cdot q$ values behind it (sec. 3.2).
# For each set of axes: how many means, and of how many values?

# %%
sets = [axes for size in range(1, 5) for axes in itertools.combinations(range(4), size)]
lines = []
for axes in sets:
    found = bnm.moments(b, axes=axes)
    theirs = tf.nn.moments(b, axes=axes)
    same = all(np.allclose(one, other) for one, other in zip(found, theirs, strict=False))
    means = found.mean.numpy().size
    lines.append(f"| {axes} | {means} | {b.size // means} | {'yes' if same else 'no'} |")
head = [
    "| axes reduced | means | values behind each | as TensorFlow |",
    "| --- | --- | --- | --- |",
]
Markdown("\n".join([*head, *lines]))

# %% [markdown]
# ## One axis after another
#
# Can you take the mean along one axis, and then the mean of these means along the next? Yes, where
# all groups have the same size. Can you do the same with the variance?

# %%
step_mean, step_variance = b.mean(axis=0), b.var(axis=0)
print("mean of the means:        ", step_mean.mean(axis=1).ravel())
print("mean of the variances:    ", step_variance.mean(axis=1).ravel())
print("variance over both axes:  ", b.var(axis=(0, 2)).ravel())

# %% [markdown]
# The mean of the variances is 36, but the variance over both axes is larger. What is missing is the
# variance *between* the groups, that of their means. It is called the law of total variance:
#
# $$\operatorname{Var}[x] = \operatorname{E}[\operatorname{Var}[x \mid g]]
# + \operatorname{Var}[\operatorname{E}[x \mid g]]$$

# %%
within, between = step_variance.mean(axis=1).ravel()[0], step_mean.var(axis=1).ravel()[0]
print(f"{within:.3f} + {between:.3f} = {within + between:.3f}")
bnm.moments_one_axis_at_a_time(b, axes=[0, 2])[-1].variance.numpy().ravel()

# %% [markdown]
# Keep this in mind: [the statistics of many batches](03_statistics_of_your_own.ipynb) are the same
# question, with the batches as groups.
#
# ## A layer from nothing
#
# A layer must remember two things besides: $\gamma$ and $\beta$, which training changes, and the
# statistics that inference uses, for then a single sample may come, and has no batch to be
# normalized by (sec. 3.1).


# %%
class OwnBatchNorm(keras.layers.Layer):
    def __init__(self, momentum=0.99, epsilon=0.001):
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros")
        still = {"shape": shape[-1:], "trainable": False}
        self.moving_mean = self.add_weight(initializer="zeros", **still)
        self.moving_variance = self.add_weight(initializer="ones", **still)

    def call(self, x, training=False):
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = tf.nn.moments(x, axes=[*range(x.shape.rank - 1)])
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(self.momentum * moving + (1 - self.momentum) * now)
        return self.gamma * (x - mean) / tf.sqrt(variance + self.epsilon) + self.beta


# %% [markdown]
# Twenty lines. Are they right? `bnm.conform` asks a layer many questions, in float64 beside it, and
# finds out its conventions. The whole set takes some seconds; here is one group.

# %%
report = bnm.conform(OwnBatchNorm, cases="steps")
print(report)

# %% [markdown]
# ## Why is Keras's output different?
#
# Keras's layer is the same, surely. Give it the same six numbers, $\gamma$ and $\beta$.

# %%
layer = keras.layers.BatchNormalization(
    gamma_initializer=keras.initializers.Constant(gamma), beta_initializer="ones"
)
layer(a).numpy()

# %% [markdown]
# That is not the output above, whose values were $-1$ and $3$ throughout. Before you read on: which
# mean, and which variance, would give these numbers? The trace of that very call says it.

# %%
for sentence in bnm.trace(layer, a).why:
    print("-", sentence)

# %% [markdown]
# A layer that is called without `training` is in *inference*: it uses its moving statistics. They
# are still the initial ones. So ask for training:

# %%
in_training = layer(a, training=True).numpy()
print(in_training)
print("as by hand:", np.allclose(in_training, y, atol=1e-6))

# %% [markdown]
# And does one such call change what inference does? How much of the batch's mean, 2.5 in the first
# channel, has it taken in?

# %%
print("moving mean:    ", layer.moving_mean.numpy())
print("moving variance:", layer.moving_variance.numpy())

# %% [markdown]
# One hundredth, 0.025. After how many such batches does inference give what training gives?

# %%
distances = []
for batches in range(2, 602):
    layer(a, training=True)
    if batches % 20 == 0:
        apart = float(np.abs(layer(a).numpy() - y).max())
        distances.append({"batches": batches, "apart": apart})
alt.Chart(alt.Data(values=distances)).mark_line().encode(
    alt.X("batches:Q", title="batches in training mode"),
    alt.Y("apart:Q", title="largest distance, inference to training"),
).properties(title="Inference comes to training, at 1 % a batch")

# %% [markdown]
# It takes hundreds of batches, and that with data that never change. While a network trains, they
# do change, and the moving statistics run after them.
# [The third notebook](03_statistics_of_your_own.ipynb) is about that.
#
# ## Exercise: write it yourself
#
# This function is to normalize a batch of shape (samples, channels) over the samples, as
# Algorithm 1 does. It runs, and its output looks right. What does the judge say? Mend it until it
# is satisfied.


# %%
def your_batch_norm(x, gamma, beta, epsilon):
    mean = tf.reduce_mean(x, axis=0)
    variance = tf.reduce_mean((x - mean) ** 2, axis=0)
    return gamma * (x - mean) / (tf.sqrt(variance) + epsilon) + beta


print(bnm.conform(your_batch_norm, cases="one step rank 2").verdict.sentence)

# %% [markdown]
# The next cell, which is hidden, has the answer. What had to move, and by how far?


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def answer(x, gamma, beta, epsilon):
    mean = tf.reduce_mean(x, axis=0)
    variance = tf.reduce_mean((x - mean) ** 2, axis=0)
    return gamma * (x - mean) / tf.sqrt(variance + epsilon) + beta


print(bnm.conform(answer, cases="one step rank 2").verdict.sentence)

# %% [markdown]
# Next: [Keras's layer on MNIST](02_keras_layer_on_mnist.ipynb), where these few lines stand between
# real layers.
