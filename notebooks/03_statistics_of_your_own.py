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

# %% [markdown] facts=["94.59", "93.71", "97.11"]
# # Statistics of your own
#
# In training a batch is normalized by its own mean and variance; in inference by something that
# was kept from training. By what? The source wrote two layers of its own, one that keeps the
# averages of Algorithm 2 and one with a momentum. They reached 94.59 and 93.71 % on test, where
# Keras's layer had reached 97.11 %. Here you write both, and find out why.

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import altair as alt
import keras
import numpy as np
import tensorflow as tf
from IPython.display import Markdown
from scipy import stats
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle

import batchnorm_mechanics as bnm
from batchnorm_mechanics.studies import dataset

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")

# %% [markdown] facts=["20.0", "21.5", "25.4167", "214.5", "194.5833", "150.5764"]
# ## Three batches, one population
#
# The source checks its idea on three batches of twelve numbers, with means 20.0, 21.5 and 25.4167,
# and biased variances 214.5, 194.5833 and 150.5764. What is the variance of all thirty-six numbers?
# Is it the mean of the three?

# %%
means = np.array([20.0, 21.5, 25.4167])
variances = np.array([214.5, 194.5833, 150.5764])
m = 12
print(f"mean of the variances:          {variances.mean():.4f}")
print(f"and the variance of the means:  {means.var():.4f}")
print(f"together, the variance of all:  {variances.mean() + means.var():.4f}")

# %% [markdown]
# The mean of the variances is too small: what lies between the batches is not in it. The paper
# (Algorithm 2, line 10) corrects for that by expectation:
#
# $$\operatorname{E}[x] = \operatorname{E}_B[\mu_B], \qquad
# \operatorname{Var}[x] = \frac{m}{m-1} \operatorname{E}_B[\sigma_B^2]$$
#
# Which is larger, this estimate or the variance of the very numbers?

# %%
print(f"Algorithm 2: {m / (m - 1) * variances.mean():.4f}")

# %% [markdown]
# It is larger here, as one draw may be; over many random batches it is right on average. The
# source's check multiplied by $11/(12-1)$ instead, which is one, so that no correction took place.
#
# The package has both as *policies*: pure functions from a state and a batch's moments to a new
# state. No variables, no Keras.

# %%
for policy in (bnm.AverageOfBatches(), bnm.PooledPopulation()):
    state = policy.init([1])
    for mean, variance in zip(means, variances, strict=True):
        state = policy.update(state, [mean], [variance], count=m)
    print(f"{type(policy).__name__:17} variance {policy.read(state).variance.numpy()[0]:.4f}")

# %% [markdown]
# ## Two layers by hand
#
# What both layers share: normalize by the batch and let `remember` see its moments, or normalize by
# what was remembered.


# %%
class ByHand(keras.layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros")
        still = {"shape": shape[-1:], "initializer": "zeros", "trainable": False}
        self.mean, self.variance = self.add_weight(**still), self.add_weight(**still)
        self.batches = self.add_weight(initializer="zeros", trainable=False)

    def call(self, x, training=False):
        mean, variance = tf.nn.moments(x, axes=[0]) if training else self.remembered()
        if training:
            self.remember(mean, variance, m=tf.cast(tf.shape(x)[0], tf.float32))
        return self.gamma * (x - mean) / tf.sqrt(variance + 0.001) + self.beta


# %% [markdown]
# Algorithm 2 adds up, and divides when it is asked. (The source did so at each epoch's end.)


# %%
class AlgorithmTwo(ByHand):
    def remember(self, mean, variance, m):
        self.mean.assign_add(mean)
        self.variance.assign_add(m / (m - 1) * variance)
        self.batches.assign_add(1.0)

    def remembered(self):
        batches = tf.maximum(self.batches, 1.0)
        return self.mean / batches, self.variance / batches


# %% [markdown]
# Momentum mixes the new into the old. But which of the two does `0.99` weigh? The source wrote
# `(1 - 0.99) * old + 0.99 * batch`.


# %%
class Momentum(ByHand):
    weight_of_old = 1 - 0.99

    def remember(self, mean, variance, m):
        for old, new in ((self.mean, mean), (self.variance, variance)):
            old.assign(self.weight_of_old * old + (1 - self.weight_of_old) * new)

    def remembered(self):
        return self.mean, self.variance


# %% [markdown]
# Do they remember what the policies would? Real digits tell. First the data, as in
# [the notebook before](02_keras_layer_on_mnist.ipynb): scaled, shuffled, those that validate set
# aside.

# %%
digits = dataset.load("mnist", minimum_rows=60_000)
images = digits.x_train.reshape(60_000, 784)
scaler = StandardScaler().fit(images)
order = shuffle(np.arange(60_000), random_state=100)[5000:]
x_train = scaler.transform(images[order]).astype(np.float32)
y_train = digits.y_train[order].astype(np.int32)
x_test = scaler.transform(digits.x_test.reshape(-1, 784)).astype(np.float32)
y_test = digits.y_test.astype(np.int32)
print(len(x_train), "to train,", len(x_train) // 60, "batches of 60")

# %%
kernel = keras.initializers.Orthogonal(seed=100)((784, 100))
activations = x_train[:6000] @ kernel.numpy()
ours = {
    "Algorithm 2": (AlgorithmTwo(), bnm.AverageOfBatches()),
    "reversed momentum": (Momentum(), bnm.ExponentialMovingAverage(decay=1 - 0.99)),
}
for name, (layer, policy) in ours.items():
    theirs = bnm.BatchNormalization(statistics=policy, moving_variance_initializer="zeros")
    for batch in np.split(activations, 100):
        layer(batch, training=True)
        theirs(batch, training=True)
    pair = zip(layer.remembered(), (theirs.moving_mean, theirs.moving_variance), strict=True)
    same = all(np.allclose(one, other, rtol=1e-3, atol=1e-3) for one, other in pair)
    print(f"{name}: by hand as by policy: {same}")

# %% [markdown] facts=["0.99"]
# `bnm.BatchNormalization(statistics=...)` is Keras's layer with a policy of your choice.
#
# ## What a reversed momentum keeps
#
# Keras's momentum 0.99 weighs the *old* value. Reversed, the new batch has nearly all the weight:
# the layer remembers its last batch and little else. What does that look like, for one channel over
# a hundred batches?

# %%
channel = activations[:, 0].reshape(100, 60)
policies = {
    "momentum 0.99": bnm.ExponentialMovingAverage(0.99),
    "reversed": bnm.ExponentialMovingAverage(1 - 0.99),
    "Algorithm 2": bnm.AverageOfBatches(),
}
course = []
for name, policy in policies.items():
    state = policy.init([])
    for number, batch in enumerate(channel, start=1):
        state = policy.update(state, batch.mean(), batch.var(), count=60)
        course.append({"batch": number, "policy": name, "variance": float(state.variance)})
truth = alt.Chart(alt.Data(values=[{"all": float(channel.var())}])).mark_rule(strokeDash=[4, 4])
alt.Chart(alt.Data(values=course)).mark_line().encode(
    alt.X("batch:Q"),
    alt.Y("variance:Q", title="variance that is remembered"),
    alt.Color("policy:N", sort=[*policies], title=None),
).properties(title="One channel; dashed: the variance of all 6,000 values") + truth.encode(
    alt.Y("all:Q")
)

# %% [markdown]
# Three ways to be wrong: the first is slow and still holds some of its start, the second jumps, and
# the third is at the truth, as long as the weights do not move. In training they do.
#
# ## Which of them costs accuracy?
#
# Between the published runs two things differ at once: the statistics, and a `take(100)`, by which
# the custom layers saw 100 of the 916 batches of an epoch. With two changes and one difference
# nobody can say which is to blame. So change **one factor at a time**.
#
# One observation makes that cheap. Does what a layer *remembers* change how it *trains*?

# %%
weights = []
for policy in (bnm.ExponentialMovingAverage(0.99), bnm.AverageOfBatches()):
    kernel = keras.initializers.Orthogonal(seed=100)
    layers = [keras.Input((784,)), keras.layers.Dense(10, kernel_initializer=kernel)]
    small = keras.Sequential([*layers, bnm.BatchNormalization(statistics=policy)])
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small.fit(x_train[:1200], y_train[:1200], batch_size=60, shuffle=False, verbose=0)
    weights.append(np.concatenate([np.ravel(weight) for weight in small.trainable_weights]))
print("equal after twenty steps:", np.allclose(*weights, atol=1e-6))

# %% [markdown]
# It does not change it: in training each batch is normalized by itself. So one training is enough
# for all policies, if the layer keeps several memories side by side.


# %%
class SeveralMemories(keras.layers.Layer):
    policies = {  # noqa: RUF012
        "moving average": bnm.ExponentialMovingAverage(0.99),
        "Algorithm 2": bnm.AverageOfBatches(),
        "reversed momentum": bnm.ExponentialMovingAverage(1 - 0.99),
    }
    reads = "moving average"

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros")
        starts = {name: policy.init(shape[-1:]) for name, policy in self.policies.items()}
        self.kinds = {name: type(start) for name, start in starts.items()}
        self.memories = {name: [*map(tf.Variable, start)] for name, start in starts.items()}

    def call(self, x, training=False):
        if training:
            mean, variance = tf.nn.moments(x, axes=[0])
            for name, policy in self.policies.items():
                before = self.kinds[name](*self.memories[name])
                after = policy.update(before, mean, variance, count=60)
                for variable, value in zip(self.memories[name], after, strict=True):
                    variable.assign(value)
        else:
            mean, variance = self.memories[self.reads][:2]
        return self.gamma * (x - mean) / tf.sqrt(variance + 0.001) + self.beta

    def forget(self, name):
        start = self.policies[name].init(self.gamma.shape)
        for variable, value in zip(self.memories[name], start, strict=True):
            variable.assign(value)


# %% [markdown]
# The network is the source's: three times dense, batch norm, tanh. A loop of your own, compiled
# whole, trains it in a fraction of `fit`'s time. What is smaller than in the source: two epochs, as
# in its first custom notebook, instead of ten. `bnm reproduce` runs all ten, by Keras's `fit`.


# %%
def network(seed):
    model = keras.Sequential([keras.Input((784,))])
    kernel = keras.initializers.Orthogonal(seed=seed)
    for _ in range(3):
        model.add(keras.layers.Dense(100, kernel_initializer=kernel))
        model.add(SeveralMemories())
        model.add(keras.layers.Activation("tanh"))
    model.add(keras.layers.Dense(10, kernel_initializer=kernel))
    return model


model, optimizer = network(0), keras.optimizers.Adam(0.001)
optimizer.build(model.trainable_variables)
untrained = [variable.numpy() for variable in optimizer.variables]
memories = [layer for layer in model.layers if isinstance(layer, SeveralMemories)]


@tf.function(jit_compile=True)
def train(x, y, rows, steps):
    for step in tf.range(steps):
        with tf.GradientTape() as tape:
            logits = model(tf.gather(x, rows[step]), training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(y, rows[step]), logits)
            loss = tf.reduce_mean(loss)
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)


# %%
x, y = tf.constant(x_train), tf.constant(y_train)


def accuracies(seed, batches, epochs=2):
    """Train once, and return the test accuracy of each memory, in percent."""
    model.set_weights(network(seed).get_weights())
    for variable, value in zip(optimizer.variables, untrained, strict=True):
        variable.assign(value)
    for layer in memories:
        for name in layer.policies:
            layer.forget(name)
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        for layer in memories:
            layer.forget("Algorithm 2")  # The source's sums start anew with each epoch.
        rows = draw.permutation(len(x_train))[: 916 * 60].reshape(916, 60)
        train(x, y, tf.constant(rows, tf.int32), tf.constant(batches))
    found = {}
    for name in SeveralMemories.policies:
        for layer in memories:
            layer.reads = name
        found[name] = 100 * float(np.mean(np.argmax(model(x_test), axis=1) == y_test))
    return found


seeds = range(4)
measured = {batches: [accuracies(seed, batches) for seed in seeds] for batches in (100, 916)}

# %%
values = [
    {"batches": f"{batches} of 916", "statistics": name, "accuracy": accuracy}
    for batches, runs in measured.items()
    for run in runs
    for name, accuracy in run.items()
]
alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=60).encode(
    alt.X("accuracy:Q", scale=alt.Scale(zero=False), title="test accuracy of each seed, %"),
    alt.Y("statistics:N", sort=[*SeveralMemories.policies], title=None),
    alt.Color("batches:N", title="batches an epoch"),
).properties(height=140, title="Two epochs, four seeds")

# %% [markdown]
# Look at the picture first: which of the two, colour or row, moves the points?
#
# ## An interval, step by step
#
# Four seeds give four numbers, and other seeds would give others. Both lengths were run with the
# same seeds, that is with the same first weights and the same order of the images. So take
# differences *within* a seed, and then their mean and how much it would vary:
#
# $$\bar d \pm t_{0.975,\,n-1} \cdot \frac{s_d}{\sqrt n}$$


# %%
def differences(name, batches, other_name, other_batches):
    pairs = zip(measured[batches], measured[other_batches], strict=True)
    return np.array([one[name] - other[other_name] for one, other in pairs])


def interval(d):
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


d = differences("moving average", 100, "moving average", 916)
print("differences:", d.round(2))
print(f"t with three degrees of freedom: {stats.t.ppf(0.975, 3):.3f}")
print(f"for large samples:               {stats.norm.ppf(0.975):.3f}")
mean, low, high = interval(d)
Markdown(f"**{mean:.2f}** points, 95 % interval {low:.2f} to {high:.2f}")

# %% [markdown]
# Why $t$, with 3.182 at three degrees of freedom, and not the 1.960 for large samples? Because
# $s_d$ is itself guessed from four numbers. See what happens without it, on numbers whose truth is
# known.

# %%
draws = np.random.default_rng(0).normal(size=(20_000, 4))
error = np.abs(draws.mean(axis=1)) / (draws.std(axis=1, ddof=1) / np.sqrt(4))
Markdown(
    "Of twenty thousand intervals with the number for large samples, "
    f"{np.mean(error < stats.norm.ppf(0.975)):.1%} hold the truth; with $t$, "
    f"{np.mean(error < stats.t.ppf(0.975, 3)):.1%}. They should be {0.95:.1%}."
)

# %% [markdown]
# ## One factor at a time
#
# Each line changes one thing and leaves the other as it is.

# %%
average, algorithm, reverse = SeveralMemories.policies
factors = {
    "100 of 916 batches, instead of all": (average, 100, average, 916),
    "Algorithm 2, instead of a moving average (100 batches)": (algorithm, 100, average, 100),
    "Algorithm 2, instead of a moving average (all)": (algorithm, 916, average, 916),
    "reversed momentum, instead of a moving average (100 batches)": (reverse, 100, average, 100),
    "reversed momentum, instead of a moving average (all)": (reverse, 916, average, 916),
}
effects = {name: interval(differences(*factor)) for name, factor in factors.items()}
values = [
    {"factor": name, "mean": mean, "low": low, "high": high}
    for name, (mean, low, high) in effects.items()
]
bars = alt.Chart(alt.Data(values=values)).encode(
    alt.Y("factor:N", sort=[*effects], title=None, axis=alt.Axis(labelLimit=400))
)
bars.mark_rule().encode(
    alt.X("low:Q", title="points of test accuracy, with 95 % interval"), alt.X2("high:Q")
) + bars.mark_point(filled=True, size=60).encode(alt.X("mean:Q"))


# %%
def sentence(name):
    mean, low, high = effects[name]
    told = "costs" if high < 0 else "gains" if low > 0 else "neither costs nor gains for sure"
    return f"- {name}: {told}; {mean:+.2f} points, interval {low:+.2f} to {high:+.2f}."


Markdown("\n".join(map(sentence, effects)))

# %%
batches = effects["100 of 916 batches, instead of all"]
others = [effect for name, effect in effects.items() if effect is not batches]
largest = max(others, key=lambda effect: abs(effect[0]))
share = abs(largest[0] / batches[0])
# The farthest that any interval of the statistics reaches, and the nearest that the batches' does.
farthest, nearest = max(max(-low, high) for _, low, high in others), -batches[2]
Markdown(
    f"The number of batches moves accuracy by {batches[0]:+.2f} points; the largest effect of the "
    f"statistics is {largest[0]:+.2f}, or {share:.0%} of that. "
    + (
        "So the published layers scored lower mainly because they had trained less, by the "
        "`take(100)`, and not for what they remembered."
        if farthest < nearest / 2
        else "The intervals leave room for more than half of it, so this run does not settle it."
    )
)

# %% [markdown]
# This is about two epochs of this network. `bnm reproduce` does the same with ten epochs and the
# flags of [the notebook before](02_keras_layer_on_mnist.ipynb), and sets it beside the published
# figures.
#
# How small are the intervals of the statistics, beside that of the batches? Two policies share one
# training, the same weights to the last bit, and differ in what they remember of it. The closer the
# pair, the less of chance is left in its difference.
#
# ## Exercise: which way round?
#
# Here is one step with a momentum, for a network from another library. The judge finds out which
# value it weighs. Turn it so that it is as in Keras.


# %%
def your_step(x, gamma, beta, moving_mean, moving_variance, *, momentum, epsilon, training):
    mean, variance = moving_mean, moving_variance
    if training:
        mean, variance = tf.nn.moments(x, axes=[0])
        moving_mean = (1 - momentum) * moving_mean + momentum * mean
        moving_variance = (1 - momentum) * moving_variance + momentum * variance
    y = gamma * (x - mean) / tf.sqrt(variance + epsilon) + beta
    return y, moving_mean, moving_variance


report = bnm.conform(your_step, cases="one step rank 2")
print(report.verdict.sentence, "Momentum weighs the", report.conventions.momentum_weighs, "value.")


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def answer(x, gamma, beta, moving_mean, moving_variance, *, momentum, epsilon, training):
    mean, variance = moving_mean, moving_variance
    if training:
        mean, variance = tf.nn.moments(x, axes=[0])
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = momentum * moving_variance + (1 - momentum) * variance
    y = gamma * (x - mean) / tf.sqrt(variance + epsilon) + beta
    return y, moving_mean, moving_variance


report = bnm.conform(answer, cases="one step rank 2")
print(report.verdict.sentence, "Momentum weighs the", report.conventions.momentum_weighs, "value.")

# %% [markdown]
# Both are right, and they are not the same: a momentum that is carried over between libraries must
# be turned into one minus itself.
