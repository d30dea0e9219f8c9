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

# %% [markdown] facts=["2015"]
# # Why does it work?
#
# That batch normalization helps, everybody agrees since
# [Ioffe and Szegedy (2015)](https://arxiv.org/abs/1502.03167). Why, nobody quite does. Six answers
# are in public. Here each becomes an experiment of seconds on real digits, with an interval, and
# with a fair word on what it shows and what it does not.
#
# The gradients behind all of this: [backwards by hand](04_backwards_by_hand.ipynb).

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import functools
from itertools import pairwise

import altair as alt
import numpy as np
import tensorflow as tf
from IPython.display import Markdown
from scipy import stats

import batchnorm_mechanics as bnm
from batchnorm_mechanics.studies import dataset

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")
tf.random.set_seed(0)

# %% [markdown]
# ## The set-up
#
# Real MNIST, made small: each image is halved by averaging squares of four pixels, and a part of
# the rows is used.

# %%
digits = dataset.load("mnist", minimum_rows=60_000)


def halved(images):
    return images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)


pixels = halved(digits.x_train[:8000])
parts = pixels, halved(digits.x_test[:2000])
scaled = [(each - pixels.mean()) / pixels.std() for each in parts]
x_train, x_test = (tf.constant(each, tf.float32) for each in scaled)
y_train, y_test = (
    tf.constant(each, tf.int32) for each in (digits.y_train[:8000], digits.y_test[:2000])
)

# %% [markdown]
# Four hidden layers of ReLU units. All seeds are trained side by side: each array has one more axis
# in front, the seed. `normalize` is the only difference between two networks; the scale and shift,
# gamma and beta, are in all of them.

# %%
SEEDS, UNITS, HIDDEN = 8, 50, 4


def start(seeds=SEEDS, gain=1.0):
    sizes = [196] + [UNITS] * HIDDEN + [10]
    drawn = [np.random.default_rng(seed) for seed in range(seeds)]
    return {
        "kernel": [
            tf.constant([rng.normal(0, gain * np.sqrt(2 / n), (n, m)) for rng in drawn], tf.float32)
            for n, m in pairwise(sizes)
        ],
        "gamma": [tf.ones((seeds, 1, UNITS)) for _ in range(HIDDEN)],
        "beta": [tf.zeros((seeds, 1, UNITS)) for _ in range(HIDDEN)],
    }


def layers(parameters, x, normalize):
    """Return what each hidden layer hands on, before its ReLU, and then the logits."""
    outputs = []
    *hidden, last = parameters["kernel"]
    for kernel, gamma, beta in zip(hidden, parameters["gamma"], parameters["beta"], strict=True):
        outputs.append(normalize(x @ kernel, kernel) * gamma + beta)
        x = tf.nn.relu(outputs[-1])
    return [*outputs, x @ last]


def plain(h, kernel):
    return h


def batch_norm(h, kernel):
    return bnm.forward(h, axes=[1], epsilon=1e-5)[0]


# %% [markdown]
# Gradient descent without further tricks. The same seed has the same first weights and the same
# batches in every network: differences are taken seed by seed.


# %%
def everywhere(rate):
    """Return the learning rate, or one for each seed, in the place of each array."""
    rate = tf.reshape(tf.constant(rate, tf.float32), (-1, 1, 1))
    return tf.nest.map_structure(lambda _: rate, start(1))


def batch_of(seed, number, size=32, rows=8000):
    return np.random.default_rng([seed, number]).integers(0, rows, size, dtype=np.int32)


def cross_entropy(logits, labels):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses, axis=-1)


ANY_SEEDS = tf.nest.map_structure(lambda p: tf.TensorSpec([None, *p.shape[1:]]), start(1))


@functools.cache
def slopes_of(normalize):
    @tf.function(input_signature=[ANY_SEEDS, tf.TensorSpec([None, None], tf.int32)])
    def slopes(parameters, rows):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            logits = layers(parameters, tf.gather(x_train, rows), normalize)[-1]
            # Where there are more rows than a batch, the others only help to normalize.
            losses = cross_entropy(logits[:, :32], tf.gather(y_train, rows[:, :32]))
        return losses, tape.gradient(losses, parameters)

    return slopes


def descend(parameters, slopes, rates):
    return tf.nest.map_structure(lambda p, slope, r: p - r * slope, parameters, slopes, rates)


def train(normalize, parameters, rates, steps=100, batches=batch_of, look=None):
    replicas, losses = len(parameters["beta"][0]), []
    for number in range(steps):
        rows = np.stack([batches(seed, number) for seed in range(SEEDS)])
        rows = np.repeat(rows, replicas // SEEDS, axis=0)
        loss, slopes = slopes_of(normalize)(parameters, rows)
        if look is not None:
            look(number, parameters, rows, slopes)
        parameters = descend(parameters, slopes, rates)
        losses.append(loss)
    return parameters, np.transpose(losses)


# %% [markdown] facts=["3.1"]
# In inference, test rows are normalized by the statistics of training rows, layer by layer
# (sec. 3.1); the test rows are the last.


# %%
def population(h, kernel):
    mean, variance = bnm.moments(h[:, :-2000], axes=[1])[:2]
    return bnm.infer(h, mean, variance, axes=[1], epsilon=1e-5)


def accuracy(parameters, normalize, known=1000):
    """Return the percentage of right answers in the test rows, of each seed."""
    rows = tf.concat([x_train[:known], x_test], axis=0)[None]
    logits = layers(parameters, rows, normalize)[-1][:, -2000:]
    return 100 * np.mean(np.argmax(logits, axis=-1) == y_test, axis=1)


# %% [markdown]
# One number from each seed gives a mean and an interval, by the t distribution: over many such
# notebooks, ninety-five in a hundred intervals hold the true mean. One that excludes zero is a
# difference; one that does not leaves it open.


# %%
def interval(values):
    values = np.asarray(values, float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def shown(values, form=".2f", to=lambda value: value):
    mean, low, high = (format(to(each), form) for each in interval(values))
    return f"{mean} ({low} to {high})"


def chosen(values, above, below, undecided):
    _, low, high = interval(values)
    return above if low > 0 else below if high < 0 else undecided


def curves(series, across, x_title, y_title, y_scale=None, x_scale=None):
    """Draw a line for the mean over the seeds, and a band for its interval."""
    points = [
        {"which": which, "x": float(x), "y": mean, "low": low, "high": high}
        for which, values in series.items()
        for x, column in zip(across, np.transpose(values), strict=True)
        for mean, low, high in [interval(column)]
    ]
    chart = alt.Chart(alt.Data(values=points)).encode(
        alt.X("x:Q", title=x_title, scale=x_scale or alt.Scale())
    )
    scale, names = y_scale or alt.Scale(), list(series)
    band = chart.mark_area(opacity=0.25).encode(
        alt.Y("low:Q", scale=scale),
        alt.Y2("high:Q"),
        alt.Color("which:N", sort=names, legend=None),
    )
    lines = chart.mark_line().encode(
        alt.Y("y:Q", title=y_title, scale=scale),
        alt.Color("which:N", sort=names, title=None, legend=alt.Legend(labelLimit=0)),
        # Where two lines are one, the dashes show it.
        alt.StrokeDash("which:N", sort=names, title=None, legend=alt.Legend(labelLimit=0)),
    )
    return band + lines


# %% [markdown] facts=["2015", "2018"]
# ## Internal covariate shift
#
# **The claim.** Each layer's inputs change their distribution whenever the layers below learn, and
# must be followed; batch normalization holds them still
# ([Ioffe and Szegedy 2015](https://arxiv.org/abs/1502.03167), sec. 1).
#
# **The objection.** [Santurkar et al. (2018)](https://arxiv.org/abs/1805.11604) add noise *after*
# the normalization, with another mean and another spread at each step. If stillness is what helps,
# the noise must take the help away. Does it? The first weights are half as large as they should be,
# as where nobody tuned them: there batch normalization helps.


# %%
def noisy_batch_norm(h, kernel):
    y = batch_norm(h, kernel)
    of_this_step = tf.shape(y[:, :1])
    spread = tf.random.uniform(of_this_step, 1.0, 1.25)
    return (
        y * spread + tf.random.uniform(of_this_step, -1.0, 1.0) + tf.random.normal(tf.shape(y)) / 10
    )


three = {
    "no normalization": plain,
    "batch norm": batch_norm,
    "batch norm, then noise": noisy_batch_norm,
}
probe = x_train[:200][None]
means = {name: [] for name in three}
losses, trained = {}, {}
for name, normalize in three.items():
    last = tf.function(lambda p, each=normalize: layers(p, probe, each)[-2])

    def look(number, parameters, rows, slopes, last=last, name=name):
        if number >= 70:
            handed_on = last(parameters)
            means[name].append([tf.reduce_mean(handed_on, 1), tf.math.reduce_std(handed_on, 1)])

    trained[name], losses[name] = train(normalize, start(gain=0.5), everywhere(1 / 4), look=look)

# %%
smoothed = {name: each.reshape(SEEDS, 10, 10).mean(axis=2) for name, each in losses.items()}
curves(smoothed, np.arange(5, 100, 10), "step", "training loss, means of ten steps")

# %% [markdown]
# And how still is the last hidden layer? Take what comes out of it for the same two hundred images
# at each of the last thirty steps: by how many of its standard deviations does a unit's mean move
# from one step to the next?

# %%
shift = {}
for name, seen in means.items():
    mean, deviation = np.swapaxes(np.array(seen), 0, 1)
    moves = np.abs(np.diff(mean, axis=0)) / (deviation[:-1] + 1e-6)
    shift[name] = np.log(moves.mean(axis=(0, 2)))
late = {name: each[:, -30:].mean(axis=1) for name, each in losses.items()}
bare, normed, noisy = three
stiller, shakier = shift[normed] - shift[bare], shift[noisy] - shift[bare]
helped, still_helped = late[normed] - late[bare], late[noisy] - late[bare]
Markdown(
    "Against no normalization, with intervals: with batch norm the means move "
    f"{shown(stiller, '.2g', np.exp)} times as far, with the noise {shown(shakier, '.2g', np.exp)} "
    f"times. The loss of the last thirty steps differs by {shown(helped, '+.2f')} with batch norm, "
    f"and by {shown(still_helped, '+.2f')} with batch norm and noise. "
    + chosen(
        shakier,
        "So with the noise the layers are less still than without any normalization; ",
        "So even with the noise the layers are stiller than without normalization; ",
        "Whether with the noise they are less still than without normalization is open; ",
    )
    + chosen(
        still_helped,
        "such a network learns more slowly than the bare one.",
        "such a network learns faster than the bare one.",
        "whether such a network learns faster than the bare one is open.",
    )
)

# %% [markdown]
# **Fair to say.** Where a network with more shift learns faster, shift in this sense cannot be what
# holds the other back. It does not show that shift never hurts: means and spreads are a crude
# measure, the noise does harm of its own, and this network is small. What is certain without any
# experiment is that batch normalization fixes mean and variance of what it gives, by Alg. 1.

# %% [markdown] facts=["2018", "3"]
# ## A smoother landscape
#
# **The claim.** With batch normalization loss and gradient change less along the way, so a
# gradient tells more about the next step ([Santurkar et al.
# 2018](https://arxiv.org/abs/1805.11604), sec. 3). At points on the way of training, go along the
# gradient by half the step, the step, twice and four times as far: over which range is the loss,
# and by which part of its length has the gradient changed?


# %%
def length(slopes):
    squares = [tf.reduce_sum(each**2, axis=(1, 2)) for each in tf.nest.flatten(slopes)]
    return np.sqrt(np.sum(squares, axis=0))


def along(normalize):
    ranges, changes = [], []

    def look(number, parameters, rows, slopes):
        if number % 10 == 5:
            found = [
                slopes_of(normalize)(descend(parameters, slopes, everywhere(rate)), rows)
                for rate in np.array([0.5, 1, 2, 4]) / 8
            ]
            ranges.append(np.ptp([loss for loss, _ in found], axis=0))
            differences = [tf.nest.map_structure(tf.subtract, there, slopes) for _, there in found]
            changes.append(np.max([length(each) for each in differences], axis=0) / length(slopes))

    train(normalize, start(), everywhere(1 / 8), look=look)
    return np.log(np.transpose(ranges)), np.log(np.transpose(changes))


ranges, changes = {}, {}
for name in (bare, normed):
    ranges[name], changes[name] = along(three[name])

# %%
curves(
    {name: np.exp(each) for name, each in ranges.items()},
    np.arange(5, 100, 10),
    "step",
    "range of the loss along the gradient",
)

# %%
of_loss = (ranges[normed] - ranges[bare]).mean(axis=1)
of_gradient = (changes[normed] - changes[bare]).mean(axis=1)
Markdown(
    f"With batch norm the range of the loss is {shown(of_loss, '.2g', np.exp)} times that without, "
    f"and the gradient's change {shown(of_gradient, '.2g', np.exp)} times (geometric means). "
    + chosen(
        of_loss,
        "Along these steps the loss is rougher with batch norm; ",
        "Along these steps the loss is smoother with batch norm; ",
        "Of the loss no difference is certain; ",
    )
    + chosen(
        of_gradient,
        "the gradient is the less reliable one.",
        "the gradient is the more reliable one.",
        "of the gradient none.",
    )
)

# %% [markdown]
# **Fair to say.** This compares equal steps, and what an equal step is depends on how long the
# weights are: further below, a network with batch normalization gets weights four times as long
# without changing what it computes, and its gradient becomes four times as short. Smoothness in
# terms of weights is a fact about the function *and* how it is written down.

# %% [markdown] facts=["2018", "3.3", "2015"]
# ## Larger learning rates
#
# **The claim.** Without normalization a large step lets activations grow from layer to layer until
# the loss diverges. Batch normalization permits larger rates, and that is what makes it faster
# and better ([Bjorck et al. 2018](https://arxiv.org/abs/1806.02375); so already [Ioffe and Szegedy
# 2015](https://arxiv.org/abs/1502.03167), sec. 3.3). Which rates still train? And is it better at
# small rates, too?
#
# A third network goes along: *weight normalization*, which divides by the length of a unit's
# weights and looks at no batch ([Salimans and Kingma 2016](https://arxiv.org/abs/1602.07868)).


# %%
def weight_norm(h, kernel):
    return h / tf.norm(kernel, axis=1, keepdims=True) * np.sqrt(2)


rates = 2.0 ** np.arange(-5, 3)
accuracies = {}
for name, normalize, in_inference in (
    (bare, plain, plain),
    ("weight norm", weight_norm, weight_norm),
    (normed, batch_norm, population),
):
    copies = tf.nest.map_structure(lambda p: tf.repeat(p, len(rates), axis=0), start())
    found, _ = train(normalize, copies, everywhere(np.tile(rates, SEEDS)), steps=50)
    accuracies[name] = accuracy(found, in_inference).reshape(SEEDS, -1)

# %%
curves(
    accuracies,
    rates,
    "learning rate",
    "test accuracy after fifty steps, %",
    y_scale=alt.Scale(domain=[0, 100], clamp=True),
    x_scale=alt.Scale(type="log", base=2),
)

# %%
largest = {
    name: np.array([np.log2(rates[each > 50]).max(initial=np.log2(rates[0])) for each in found])
    for name, found in accuracies.items()
}
best = {name: found.max(axis=1) for name, found in accuracies.items()}
rises = largest[normed] - largest[bare]
better = best[normed] - best[bare]
small = (accuracies[normed] - accuracies[bare])[:, 0]
Markdown(
    "The largest rate that still gets half of the test rows right is "
    f"{shown(rises, '.1f', np.exp2)} times as large with batch norm. Each at its own best rate, "
    f"the difference is {shown(better, '+.1f')} percentage points; both at the smallest, "
    f"{shown(small, '+.1f')}. "
    + chosen(rises, "Larger rates: yes. ", "Larger rates: no, smaller. ", "Larger rates: open. ")
    + chosen(
        better,
        "Better at its best: yes. ",
        "Better at its best: no, worse. ",
        "Better at its best: open. ",
    )
    + chosen(
        small,
        "At the smallest rate it is ahead already, so rates are not all of it.",
        "At the smallest rate it is behind: without large rates it brings nothing here.",
        "At the smallest rate no difference is certain, as the claim has it.",
    )
)

# %% [markdown]
# **Fair to say.** That larger rates are possible is plain to see here. That *they* are why a
# network with batch normalization ends better takes the long training of the paper, and images on
# which networks overfit; fifty steps only show who is faster. And only rates were tuned, not the
# first weights.

# %% [markdown] facts=["3.3", "2018"]
# ## Length and direction
#
# **The claim.** Batch normalization takes no notice of how long a unit's weights are: stretched by
# $a$, they give the same output, and the gradient is $a$ times as short,
# $\frac{\partial\,\mathrm{BN}((aW)u)}{\partial (aW)} =
# \frac1a\cdot\frac{\partial\,\mathrm{BN}(Wu)}{\partial W}$ (sec. 3.3). So the gradient is
# orthogonal to the weights, and descent only turns them: [Kohler et al.
# (2018)](https://arxiv.org/abs/1805.10694) prove that this decoupling speeds up simple problems.
# Is the gradient orthogonal?


# %%
def cosines(normalize):
    parameters = start()
    rows = np.stack([batch_of(seed, 0) for seed in range(SEEDS)])
    _, slopes = slopes_of(normalize)(parameters, rows)
    found = []
    for kernel, slope in zip(parameters["kernel"][:-1], slopes["kernel"][:-1], strict=True):
        product = tf.reduce_sum(kernel * slope, axis=1)
        lengths = tf.norm(kernel, axis=1) * tf.norm(slope, axis=1) + 1e-12
        found.append(np.abs(product / lengths).mean(axis=1))
    return np.mean(found, axis=0)


Markdown(
    "Mean absolute cosine between a unit's weights and their gradient: "
    f"{shown(cosines(plain), '.3f')} without, {shown(cosines(batch_norm), '.1e')} with batch norm. "
    "What is left is epsilon, which does not stretch along, and rounding."
)

# %% [markdown]
# Two consequences. A step at a right angle makes the weights *longer*, always, so the same rate
# turns them less and less: the rate that counts is $\eta/\lVert w\rVert^2$. And if weights four
# times as long get a rate sixteen times as large, nothing at all should change. Does it?


# %%
def stretched(by, rate):
    first = start()
    *hidden, last = first["kernel"]
    first["kernel"] = [by * kernel for kernel in hidden] + [last]
    rates = everywhere(1 / 8)
    rates["kernel"] = [rate * each for each in rates["kernel"][:-1]] + rates["kernel"][-1:]
    return train(batch_norm, first, rates, steps=60)[1]


once, both, longer = stretched(1, 1), stretched(4, 16), stretched(4, 1)
curves(
    {
        "as they are": once.reshape(SEEDS, 12, 5).mean(axis=2),
        "4 times as long, 16 times the rate": both.reshape(SEEDS, 12, 5).mean(axis=2),
        "4 times as long": longer.reshape(SEEDS, 12, 5).mean(axis=2),
    },
    np.arange(2.5, 60, 5),
    "step",
    "training loss, means of five steps",
)

# %%
first, final = start(gain=0.5)["kernel"][1], trained[normed]["kernel"][1]
growth = np.log(tf.norm(final, axis=1) / tf.norm(first, axis=1)).mean(axis=1)
apart = np.abs(both - once).mean(axis=1)
slower = (longer - once).mean(axis=1)
gained = best[normed] - best["weight norm"]
Markdown(
    "In the first experiment the weights of the second layer grew to "
    f"{shown(growth, '.3f', np.exp)} times their length. Longer weights with the rate to "
    f"match change the loss by {shown(apart, '.1e')}; with the old rate by "
    f"{shown(slower, '+.2f')}. But is the decoupling what helps? "
    "Weight norm has it and looks at no batch: at its best rate in the picture above, batch norm "
    f"differs from it by {shown(gained, '+.1f')} points. "
    + chosen(
        gained,
        "So the batch's statistics bring something that length and direction alone do not.",
        "So here the decoupling alone does better.",
        "Which of the two is better is open.",
    )
)

# %% [markdown]
# **Fair to say.** The orthogonality is no finding but a theorem, true for every network with a
# normalization after the weights, and the measurement only shows how little epsilon spoils it.
# That it makes training *faster* is proven for simple problems. One more consequence is practical:
# weight decay on such weights cannot make the function simpler; it only raises the rate that
# counts ([van Laarhoven 2017](https://arxiv.org/abs/1706.05350)).

# %% [markdown] facts=["2019", "3.4"]
# ## Regularization by noise
#
# **The claim.** An image is normalized together with others drawn by chance, so it never looks
# twice the same, and the network overfits less (Ioffe and Szegedy, sec. 3.4; [Luo et al.
# 2019](https://arxiv.org/abs/1809.00846) take this apart into statistics of the population plus a
# penalty on gamma). So keep all else, and take only the chance away: the loss is of the same
# thirty-two images, but they are normalized among many more. There are three hundred images only.
# Which network is better on the test rows?


# %%
def among(beside):
    """Return batches of 32 of the first 300 rows, with others beside them to normalize with."""

    def batches(seed, number):
        others = batch_of(seed + SEEDS, number, beside, 300)
        return np.concatenate([batch_of(seed, number, 32, 300), others])

    return batches


few, known = {}, tf.reshape(tf.range(300), (1, 300))
for beside in (0, 96):
    few[beside], _ = train(batch_norm, start(), everywhere(1 / 4), batches=among(beside))

tested = {beside: accuracy(found, population, known=300) for beside, found in few.items()}
fitted = {
    beside: cross_entropy(
        layers(found, x_train[:300][None], batch_norm)[-1],
        tf.repeat(y_train[None, :300], SEEDS, axis=0),
    )
    for beside, found in few.items()
}

# %%
pairs = [
    {"seed": str(seed + 1), "normalized among": among, "accuracy": float(value)}
    for among, beside in (("32 images", 0), ("128 images", 96))
    for seed, value in enumerate(tested[beside])
]
alt.Chart(alt.Data(values=pairs)).mark_point(filled=True, size=80, opacity=1).encode(
    alt.X("accuracy:Q", title="test accuracy, %", scale=alt.Scale(zero=False)),
    alt.Y("seed:N", sort=None),
    alt.Color("normalized among:N", title="normalized among", sort=None),
)

# %%
noise_helps = tested[0] - tested[96]
noise_hinders = fitted[0].numpy() - fitted[96].numpy()
Markdown(
    "With the noise of small batches the loss on the three hundred training rows differs by "
    f"{shown(noise_hinders, '+.3f')}, and the test accuracy by {shown(noise_helps, '+.2f')} "
    "points. "
    + chosen(
        noise_hinders,
        "The noise makes the training rows harder to fit; ",
        "The noise makes the training rows easier to fit; ",
        "Of fitting the training rows no difference is certain; ",
    )
    + chosen(
        noise_helps,
        "and it helps on new ones: it regularizes.",
        "and it hurts on new ones: no regularization here.",
        "and on new ones none is certain: an effect, if any, is smaller than the interval.",
    )
)

# %% [markdown]
# **Fair to say.** Only the statistics differ: weights, images of the loss and steps are the same.
# But noise that regularizes in long training of large networks may do nothing, or harm, in a
# hundred steps of a small one.

# %% [markdown] facts=["2017", "2018", "2020"]
# ## Batch size
#
# **The claim.** Small batches cost: their statistics are noisy in training, and in inference
# others take their place. Remedies: [batch renormalization](https://arxiv.org/abs/1702.03275)
# (Ioffe 2017) normalizes in training by what inference will use; [group
# normalization](https://arxiv.org/abs/1803.08494) (Wu and He 2018) and [filter response
# normalization](https://arxiv.org/abs/1911.09737) (Singh and Krishnan 2020) look at one image
# alone.
#
# To change the statistics and nothing else, each step takes the same thirty-two images; only, they
# are normalized in groups of two, of four, or all together. And the two remedies beside them.

# %%
size = tf.Variable(32)  # a variable, so that one graph serves all sizes


def in_groups(h, kernel):
    grouped = tf.reshape(h, (-1, tf.shape(h)[1] // size, size, UNITS))
    return tf.reshape(bnm.forward(grouped, axes=[2], epsilon=1e-5)[0], tf.shape(h))


def renormalized_fours(h, kernel):
    """Normalize fours, and undo by constants what that differs from the whole batch's way."""
    fours = tf.reshape(h, (-1, 8, 4, UNITS))
    mean, variance = (each[:, :, None] for each in bnm.moments(fours, axes=[2])[:2])
    whole_mean, whole_variance = (each[:, None, None] for each in bnm.moments(h, axes=[1])[:2])
    deviation, whole = tf.sqrt(variance + 1e-5), tf.sqrt(whole_variance + 1e-5)
    r, d = tf.stop_gradient(deviation / whole), tf.stop_gradient((mean - whole_mean) / whole)
    return tf.reshape((fours - mean) / deviation * r + d, tf.shape(h))


def group_norm(h, kernel):
    """Normalize the units of one image in ten groups of five."""
    grouped = tf.reshape(h, (-1, tf.shape(h)[1], 10, UNITS // 10))
    return tf.reshape(bnm.forward(grouped, axes=[3], epsilon=1e-5)[0], tf.shape(h))


by_size, fours_in_training_mode = {}, None
for number in (2, 4, 32):
    size.assign(number)
    found, _ = train(in_groups, start(), everywhere(1 / 4))
    by_size[f"batch norm, {number}"] = accuracy(found, population)
    if number == 4:
        fours_in_training_mode = accuracy(found, in_groups)
found, _ = train(renormalized_fours, start(), everywhere(1 / 4))
by_size["renormalized, 4"] = accuracy(found, population)
found, _ = train(group_norm, start(), everywhere(1 / 4))
by_size["group norm"] = accuracy(found, group_norm)

# %%
bars = [
    {"how": how, "mean": mean, "low": low, "high": high}
    for how, values in by_size.items()
    for mean, low, high in [interval(values)]
]
chart = alt.Chart(alt.Data(values=bars)).encode(alt.Y("how:N", sort=list(by_size), title=None))
ends = alt.Scale(zero=False)
lines = chart.mark_rule(strokeWidth=3, opacity=0.5, color="#3b8fd6").encode(
    alt.X("low:Q", title="test accuracy in inference, %", scale=ends), alt.X2("high:Q")
)
lines + chart.mark_point(filled=True, size=80, opacity=1).encode(alt.X("mean:Q", scale=ends))

# %%
whole, fours = by_size["batch norm, 32"], by_size["batch norm, 4"]
pairs_cost, cost = whole - by_size["batch norm, 2"], whole - fours
gain, alone = by_size["renormalized, 4"] - fours, by_size["group norm"] - whole
gap = fours - fours_in_training_mode
Markdown(
    f"Against thirty-two together, fours cost {shown(cost)} points, and pairs {shown(pairs_cost)}. "
    f"Renormalizing changes fours by {shown(gain, '+.2f')}. In training mode, where each test row "
    f"is normalized with three others, fours get {shown(-gap, '+.2f')} points compared with "
    f"inference. Group norm differs from thirty-two together by {shown(alone, '+.2f')}. "
    + chosen(cost, "Small batches cost. ", "Small batches gain here. ", "Their cost is open. ")
    + chosen(
        gap,
        "Inference does better than training mode: what it normalizes by is not the harm. ",
        "In training mode it is better: that inference normalizes otherwise is part of the harm. ",
        "That inference normalizes otherwise makes no certain difference. ",
    )
    + chosen(
        gain,
        "Renormalizing helps. ",
        "Renormalizing makes it worse. ",
        "Whether renormalizing helps is open. ",
    )
    + chosen(
        alone,
        "Group norm is ahead of the large batch.",
        "Group norm does not reach the large batch here.",
        "Between group norm and the large batch no difference is certain.",
    )
)

# %% [markdown]
# Pairs are a case of their own: two numbers, normalized, are $\hat x=\pm1$, whatever they were.
# What an image looks like goes through only as which of the two is larger, and no gradient comes
# back.

# %% [markdown]
# **Fair to say.** The renormalization here is the idea in its purest form: it takes the statistics
# of all thirty-two, where Ioffe takes moving averages and holds the constants within bounds. Group
# norm is made for convolutions, where a group has many positions; five units are few. And a small
# batch in practice has noisier gradients, too, which were kept the same here on purpose.
#
# ## All together

# %%
table = (
    ("holds layers still", "against none, how often as far", shown(stiller, ".2g", np.exp)),
    ("stillness is what helps", "loss with noise, against none", shown(still_helped)),
    ("smoother landscape", "range of the loss, against none", shown(of_loss, ".2g", np.exp)),
    ("larger rates", "largest rate, against none", shown(rises, ".2g", np.exp2)),
    ("length and direction", "points above weight norm", shown(gained, ".1f")),
    ("regularization by noise", "points on the test rows", shown(noise_helps)),
    ("small batches cost", "points that fours lose", shown(cost)),
)
rows = (("claim", "measured here", "mean and interval"), ("---",) * 3, *table)
Markdown("\n".join("| " + " | ".join(row) + " |" for row in rows))

# %% [markdown]
# None of these experiments says why batch normalization works in a large network that is trained
# for days. Each says what to expect of an explanation: that it gives an experiment which could
# have gone the other way. Change the seeds, the depth, the rate above, and run it again: which of
# the sentences turn?
#
# When it fails instead: [a model that fails in
# inference](06_a_model_that_fails_in_inference.ipynb).
