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
# # Backwards by hand
#
# How does a loss tell one sample of a batch which way to move, if moving it moves the batch's mean
# and variance, and with them all the others? The paper answers with six gradients. Here each is
# derived, computed by hand on four numbers, and written in NumPy; then a judge looks at your own.
#
# Before this one: [simple inputs](01_simple_inputs.ipynb).

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import altair as alt
import numpy as np
import tensorflow as tf
from IPython.display import Markdown, display

import batchnorm_mechanics as bnm
from batchnorm_mechanics import reference

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")
np.set_printoptions(precision=4, suppress=True)


def table(header, *rows):
    lines = (header, ["---"] * len(header), *rows)
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


# %% [markdown] facts=["1", "2015"]
# ## Forward, once more
#
# [Ioffe and Szegedy (2015)](https://arxiv.org/abs/1502.03167), Alg. 1:
#
# $$\mu = \frac1m\sum_i x_i \qquad \sigma^2 = \frac1m\sum_i (x_i-\mu)^2 \qquad
#   \hat x_i = \frac{x_i-\mu}{\sqrt{\sigma^2+\epsilon}} \qquad y_i = \gamma\hat x_i + \beta$$
#
# Four samples of one channel, chosen so that nothing has to be rounded: epsilon makes the root come
# out even. What are the mean, the variance and the root?

# %%
x = np.array([1.0, 2.0, 3.0, 6.0])
gamma, beta, epsilon = 2.0, 0.0, 0.5

m = len(x)
mean = x.mean()
variance = x.var()
std = np.sqrt(variance + epsilon)
x_hat = (x - mean) / std
y = gamma * x_hat + beta
print("mean", mean, "  variance", variance, "  root", std)
print("x_hat", x_hat, "  y", y)

# %% [markdown]
# The mean is 3, the variance 3.5, and the root of variance plus epsilon is 2.
#
# ## Who moves whom?
#
# Move the first sample up a little. How many of the four outputs change, and by how many times as
# much? Guess before you run on.


# %%
def forward_of(x):
    return gamma * (x - x.mean()) / np.sqrt(x.var() + epsilon) + beta


nudge = 1e-6
samples = ["first", "second", "third", "fourth"]
moved = [
    {"input": one, "output": other, "moves by": round(by, 4)}
    for one, unit in zip(samples, np.eye(m), strict=True)
    for other, by in zip(samples, (forward_of(x + nudge * unit) - y) / nudge, strict=True)
]
grid = alt.Chart(alt.Data(values=moved)).encode(
    alt.X("input:N", sort=samples, axis=alt.Axis(labelAngle=0, orient="top")),
    alt.Y("output:N", sort=samples),
)
squares = grid.mark_rect().encode(
    alt.Color("moves by:Q", scale=alt.Scale(scheme="blueorange", reverse=True, domain=[-1, 1]))
)
texts = grid.mark_text(fontSize=14, color="black").encode(alt.Text("moves by:Q", format=".4~f"))
(squares + texts).properties(width=320, height=200)

# %% [markdown]
# All four. A sample reaches its own output *straight*, and every output *through the mean* and
# *through the variance*. Without the last two the grid would have its diagonal only. Each column
# adds to nothing: what one output gains, the others lose.

# %% [markdown] facts=["3"]
# ## The six gradients
#
# Backwards we begin with $\partial\ell/\partial y_i$, which the layer above hands down. Let the
# loss want only the first output smaller: one for the first sample, nothing for the others.
#
# The paper lists six gradients (sec. 3). Each is the chain rule applied to one line of Alg. 1, read
# from the end.
#
# ### First: the normalized input
#
# $y_i = \gamma\hat x_i+\beta$, so a step of $\hat x_i$ is $\gamma$ times as large in $y_i$:
#
# $$\frac{\partial\ell}{\partial\hat x_i} = \frac{\partial\ell}{\partial y_i}\,\gamma
#   \qquad\text{(sec. 3, first of six)}$$

# %%
dy = np.array([1.0, 0.0, 0.0, 0.0])
d_x_hat = dy * gamma
d_x_hat

# %% [markdown] facts=["3"]
# ### Second: the variance
#
# The variance is in the denominator of *every* $\hat x_i = (x_i-\mu)(\sigma^2+\epsilon)^{-1/2}$.
# The power falls by one and brings $-\tfrac12$ down; what comes from all samples is added:
#
# $$\frac{\partial\ell}{\partial\sigma^2} = \sum_i \frac{\partial\ell}{\partial\hat x_i}\,(x_i-\mu)
#   \cdot\left(-\tfrac12\right)(\sigma^2+\epsilon)^{-3/2} \qquad\text{(sec. 3, second of six)}$$

# %%
d_variance = np.sum(d_x_hat * (x - mean)) * -0.5 * (variance + epsilon) ** -1.5
d_variance

# %% [markdown] facts=["3"]
# ### Third: the mean
#
# The mean stands in the numerator of every $\hat x_i$, and once more within the variance:
#
# $$\frac{\partial\ell}{\partial\mu} =
#   \sum_i \frac{\partial\ell}{\partial\hat x_i}\cdot\frac{-1}{\sqrt{\sigma^2+\epsilon}}
#   + \frac{\partial\ell}{\partial\sigma^2}\cdot\frac{\sum_i -2(x_i-\mu)}{m}
#   \qquad\text{(sec. 3, third of six)}$$
#
# How much does the second term bring?

# %%
straight = np.sum(d_x_hat * -1 / std)
within_the_variance = d_variance * np.sum(-2 * (x - mean)) / m
d_mean = straight + within_the_variance
straight, within_the_variance

# %% [markdown] facts=["3"]
# Nothing, and not by chance: $\sum_i (x_i-\mu)$ is zero for every batch. At the mean the variance
# is at its smallest, so it does not mind a small step of the mean. Most code leaves the term out.
#
# ### Fourth: the input
#
# Now the three ways meet. $x_i$ acts straight on $\hat x_i$; it is one of $m$ in the mean; and it
# is one of $m$ squares in the variance:
#
# $$\frac{\partial\ell}{\partial x_i} =
#   \frac{\partial\ell}{\partial\hat x_i}\cdot\frac{1}{\sqrt{\sigma^2+\epsilon}}
#   + \frac{\partial\ell}{\partial\sigma^2}\cdot\frac{2(x_i-\mu)}{m}
#   + \frac{\partial\ell}{\partial\mu}\cdot\frac1m \qquad\text{(sec. 3, fourth of six)}$$

# %%
ways = {
    "straight": d_x_hat / std,
    "through the variance": d_variance * 2 * (x - mean) / m,
    "through the mean": d_mean / m * np.ones(m),
}
d_x = sum(ways.values())
table(["way", *samples], *([way, *part] for way, part in {**ways, "**all three**": d_x}.items()))

# %% [markdown]
# The loss spoke of the first sample alone, and yet all four are pushed. What do the two ways
# through the statistics do to the straight one?

# %%
parts = [
    {"sample": sample, "way": way, "part": part[row], "sum": d_x[row]}
    for way, part in ways.items()
    for row, sample in enumerate(samples)
]
chart = alt.Chart(alt.Data(values=parts)).encode(
    alt.X("sample:N", sort=samples, axis=alt.Axis(labelAngle=0))
)
bars = chart.mark_bar().encode(
    alt.Y("part:Q", title="part of dx; diamond: all three"),
    alt.Color("way:N", sort=list(ways), title=None),
)
marks = chart.mark_point(
    shape="diamond", size=90, filled=True, color="black", stroke="white", opacity=1
).encode(alt.Y("sum:Q"))
(bars + marks).properties(width=320)

# %% [markdown] facts=["3"]
# They take away what would be wasted. Pushing all samples the same way changes no output, since the
# mean goes along; stretching them all changes (almost) none, since the variance goes along.
#
# ### Fifth and sixth: gamma and beta
#
# Both act on every sample of the channel, so both are sums, not averages:
#
# $$\frac{\partial\ell}{\partial\gamma} = \sum_i\frac{\partial\ell}{\partial y_i}\,\hat x_i \qquad
#   \frac{\partial\ell}{\partial\beta} = \sum_i\frac{\partial\ell}{\partial y_i}
#   \qquad\text{(sec. 3, fifth and sixth of six)}$$

# %%
d_gamma = np.sum(dy * x_hat)
d_beta = np.sum(dy)
d_gamma, d_beta

# %% [markdown]
# Play with it: below, the same four numbers, and beside them the same in another order, are a page
# where each gradient opens into its terms, and where the ways through the mean and the variance can
# be closed. (Where no JavaScript runs, only a picture of the forward pass is here; `bnm explore`
# writes the page.)

# %%
bnm.Explorer(
    [[1.0, 6.0], [2.0, 3.0], [3.0, 2.0], [6.0, 1.0]],
    gamma=gamma,
    beta=beta,
    epsilon=epsilon,
    address="#gradients?x=1,6;2,3;3,2;6,1&dy=1,0;0,0;0,0;0,0&gamma=2,2&epsilon=0.5",
)

# %% [markdown]
# ## Who says that this is right?
#
# Four easy numbers prove little. A harder batch: many samples, five channels, each with its own
# mean and spread, and a gradient from above that knows no zeros. First the six, now for every
# channel:

# %%
rng = np.random.default_rng(0)
X = rng.normal(rng.normal(0, 3, 5), rng.uniform(0.5, 2, 5), (60, 5))
DY = rng.normal(0.3, 1, X.shape)
GAMMA, EPSILON = rng.uniform(0.5, 1.5, 5), 1e-3


def six_gradients(dy, x, gamma, epsilon):
    m, mean, variance = len(x), x.mean(axis=0), x.var(axis=0)
    std = np.sqrt(variance + epsilon)
    d_x_hat = dy * gamma
    d_variance = np.sum(d_x_hat * (x - mean), axis=0) * -0.5 * std**-3
    d_mean = -np.sum(d_x_hat, axis=0) / std
    d_x = d_x_hat / std + d_variance * 2 * (x - mean) / m + d_mean / m
    d_gamma, d_beta = np.sum(dy * (x - mean) / std, axis=0), np.sum(dy, axis=0)
    return dict(zip(SIX, (d_x_hat, d_variance, d_mean, d_x, d_gamma, d_beta), strict=True))


SIX = ["d_x_hat", "d_variance", "d_mean", "d_x", "d_gamma", "d_beta"]
mine = six_gradients(DY, X, GAMMA, EPSILON)

# %% [markdown]
# **TensorFlow** knows nothing of our derivation. `tf.GradientTape` remembers each step of a forward
# pass and goes back through it, and may be asked for the steps in between as well.

# %%
inputs, scale, shift = tf.constant(X), tf.constant(GAMMA), tf.zeros(5, tf.float64)
with tf.GradientTape(persistent=True) as tape:
    tape.watch([inputs, scale, shift])
    batch_mean = tf.reduce_mean(inputs, axis=0)
    batch_variance = tf.reduce_mean((inputs - batch_mean) ** 2, axis=0)
    normalized = (inputs - batch_mean) / tf.sqrt(batch_variance + EPSILON)
    loss = tf.reduce_sum((scale * normalized + shift) * DY)

steps = [normalized, batch_variance, batch_mean, inputs, scale, shift]
of_the_tape = dict(zip(SIX, tape.gradient(loss, steps), strict=True))

# %% [markdown]
# **The package** has the six as functions of tensors, `bnm.gradients`, and a second time in NumPy
# and float64, written from the paper to judge by: `batchnorm_mechanics.reference`. How far are ours
# from each of the three, at worst?

# %%
_, cache = bnm.forward(X, GAMMA, axes=[0], epsilon=EPSILON)
others = {
    "the tape": of_the_tape,
    "bnm.gradients": bnm.gradients(DY, cache)._asdict(),
    "the reference": reference.gradients(DY, X, GAMMA, axes=0, epsilon=EPSILON),
}
worst = {
    name: [np.abs(mine[each] - np.asarray(their[each])).max() for each in SIX]
    for name, their in others.items()
}
largest = max(np.abs(value).max() for value in mine.values())
farthest = max(max(row) for row in worst.values())
rounding = farthest / (largest * np.finfo(np.float64).eps)
display(table(["", *SIX], *([name, *(f"{far:.0e}" for far in row)] for name, row in worst.items())))
Markdown(
    f"The largest gradient is {largest:.0f} and the largest difference {farthest:.0e}: "
    f"{rounding:.1f} times what float64 rounds at that size. "
    + ("All agree." if rounding < 100 else "**Something is wrong.**")
)

# %% [markdown]
# ## If there is no tape
#
# A derivative is a difference: move one input by $h$ both ways and see what the loss does,
# $\frac{\ell(x+h)-\ell(x-h)}{2h}$. This checks any backward pass, in any language. How small should
# $h$ be? The smaller the better, one would think.

# %%


def loss_at(x):
    return np.sum(DY * GAMMA * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + EPSILON))


unit = np.zeros_like(X)
unit[0, 0] = 1
lengths = 10.0 ** np.arange(-13, 1)
errors = [
    abs((loss_at(X + h * unit) - loss_at(X - h * unit)) / (2 * h) - mine["d_x"][0, 0])
    for h in lengths
]
points = [{"h": h, "error": error} for h, error in zip(lengths, errors, strict=True)]
alt.Chart(alt.Data(values=points)).mark_line(point=True).encode(
    alt.X("h:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e")),
    alt.Y("error:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e"), title="error of dx"),
)

# %%
best = int(np.argmin(errors))
Markdown(
    f"Best is h = {lengths[best]:.0e}, with an error of {errors[best]:.0e}. To the right the loss "
    "is not straight over so long a step; to the left two nearly equal losses are subtracted, and "
    f"rounding is what remains. At h = {lengths[0]:.0e} the error is {errors[0]:.0e}."
)

# %% [markdown]
# ## What dx cannot be
#
# Moving a whole channel changes no output, and stretching it hardly does. So dx must not ask for
# either: along the batch its sum must vanish, and so must its sum with $\hat x$. Does it?

# %%
normal = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + EPSILON)
for name, along in {"moving": np.ones_like(X), "stretching": normal}.items():
    dx, straight = mine["d_x"], mine["d_x_hat"]
    print(f"{name:10}  d_x_hat:", np.sum(straight * along, axis=0), "  d_x:", np.sum(dx * along, 0))

# %% [markdown]
# It does for moving. For stretching a little is left, the more the smaller a channel's
# variance: that is epsilon, which does not stretch along.
#
# ## Exercise: in one line
#
# Put the second and the third gradient into the fourth. With $\overline{\,\cdot\,}$ for the mean
# over the batch and $g_i=\partial\ell/\partial\hat x_i$, what remains is short:
#
# $$\frac{\partial\ell}{\partial x_i} = \frac{1}{\sqrt{\sigma^2+\epsilon}}
#   \left(g_i - \overline{g} - \dots\right)$$
#
# Complete it. The forward pass is written as in courses: it returns what backwards needs.


# %%
def bn_forward(x, gamma, beta, epsilon=1e-3):
    mean, std = x.mean(axis=0), np.sqrt(x.var(axis=0) + epsilon)
    x_hat = (x - mean) / std
    return gamma * x_hat + beta, (x_hat, gamma, std)


def bn_backward(dy, cache):
    x_hat, gamma, std = cache
    g = dy * gamma
    dx = (g - g.mean(axis=0)) / std  # your turn: something is missing here
    return dx, np.sum(dy * x_hat, axis=0), np.sum(dy, axis=0)


# %% [markdown]
# And is it right? `bnm.conform` takes the forward pass, finds `bn_backward` beside it by its name,
# asks both on many batches, and compares with the reference. It does not only say *that* something
# is wrong:

# %%
bnm.conform(bn_forward, cases="steps").verdict.sentence

# %% [markdown]
# What stands there lacks the way through the variance. Complete it and ask again; an answer is
# below, folded up.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def bn_backward(dy, cache):
    x_hat, gamma, std = cache
    g = dy * gamma
    dx = (g - g.mean(axis=0) - x_hat * np.mean(g * x_hat, axis=0)) / std
    return dx, np.sum(dy * x_hat, axis=0), np.sum(dy, axis=0)


bnm.conform(bn_forward, cases="steps").verdict.sentence

# %% [markdown]
# ## Mistakes that people make
#
# Each line below is a right answer with one thing changed. Before you run it: which of them could a
# short training hide from you? Which would you find by looking at shapes?

# %%
right = bn_backward
slips = {
    "the statistics are constants": lambda g, x_hat, std: g / std,
    "no way through the mean": lambda g, x_hat, std: (g - x_hat * np.mean(g * x_hat, 0)) / std,
    "a sign": lambda g, x_hat, std: (g - g.mean(0) + x_hat * np.mean(g * x_hat, 0)) / std,
    "the two of the square": lambda g, x_hat, std: (
        (g - g.mean(0) - x_hat * np.mean(g * x_hat, 0) / 2) / std
    ),
}


def judged(backward):
    """Have the judge look at `bn_forward` with another function in the place of `bn_backward`."""
    globals()["bn_backward"] = backward  # by its name it is found
    sentence = bnm.conform(bn_forward, cases="one step rank 2").verdict.sentence
    globals()["bn_backward"] = right
    return sentence


def with_dx(formula):
    return lambda dy, cache: (formula(dy * cache[1], cache[0], cache[2]), *right(dy, cache)[1:])


verdicts = {what: judged(with_dx(formula)) for what, formula in slips.items()}
verdicts["gamma forgotten"] = judged(
    lambda dy, cache: (right(dy, cache)[0] / cache[1], *right(dy, cache)[1:])
)
verdicts["averages for dgamma and dbeta"] = judged(
    lambda dy, cache: (right(dy, cache)[0], *(each / len(dy) for each in right(dy, cache)[1:]))
)
verdicts["dbeta before dgamma"] = judged(
    lambda dy, cache: (right(dy, cache)[0], right(dy, cache)[2], right(dy, cache)[1])
)
table(["what was changed", "what the judge says"], *verdicts.items())

# %% [markdown] facts=["2"]
# All have the right shapes. Two names stand in the first line since both give these very gradients.
# And where no mistake that it knows gives your numbers, the judge says so instead of guessing.
#
# ## What if the statistics are held constant?
#
# The paper begins with that (sec. 2): a layer adds a bias $b$, the mean is then subtracted, and the
# gradient ignores that the mean depends on $b$. What will gradient descent do to $b$? Let the loss
# ask for outputs one larger than they are.

# %%
wanted = x - x.mean() + 1
walks = {"mean held constant": [0.0], "through the mean": [0.0]}
for way, biases in walks.items():
    for _ in range(50):
        u = x + biases[-1]
        g = (u - u.mean()) - wanted  # of half the squared distance
        d_u = g if way == "mean held constant" else g - g.mean()
        biases.append(biases[-1] - 0.1 * d_u.sum())

walked = [
    {"gradient": way, "step": step, "bias": bias}
    for way, biases in walks.items()
    for step, bias in enumerate(biases)
]
alt.Chart(alt.Data(values=walked)).mark_line().encode(
    alt.X("step:Q"), alt.Y("bias:Q", title="bias b"), alt.Color("gradient:N", title=None)
)

# %%
gone = walks["mean held constant"][-1]
outputs = [u - u.mean() for u in (x, x + gone)]
Markdown(
    f"After fifty steps the bias is {gone:.1f} and still climbs, while the outputs have moved by "
    f"{np.abs(outputs[1] - outputs[0]).max():.0g}: each step is undone by the mean. With the whole "
    f"gradient it stays at {walks['through the mean'][-1]:.1f}, for it knows that $b$ does nothing."
)

# %% [markdown] facts=["3.2"]
# This is why a Dense layer before batch normalization needs no bias, and why the way through the
# statistics is no detail.
#
# ## Exercise: images
#
# In a convolutional layer all positions of a channel share one mean: $m' = m\cdot p\cdot q$ for $m$
# images of $p\times q$ (sec. 3.2). Below, forwards is right for any rank. Backwards was copied from
# above. What has to change?


# %%
def image_bn_forward(x, gamma, beta, epsilon=1e-3):
    axes = tuple(range(x.ndim - 1))
    mean, std = x.mean(axes), np.sqrt(x.var(axes) + epsilon)
    x_hat = (x - mean) / std
    return gamma * x_hat + beta, (x_hat, gamma, std)


def image_bn_backward(dy, cache):
    x_hat, gamma, std = cache
    g = dy * gamma  # your turn: from here on
    dx = (g - g.mean(axis=0) - x_hat * np.mean(g * x_hat, axis=0)) / std
    return dx, np.sum(dy * x_hat, axis=0), np.sum(dy, axis=0)


bnm.conform(image_bn_forward, cases="one step rank 4").verdict.sentence

# %% [markdown]
# No mistake of the list explains that. What is wrong, then, in the smallest case with images?

# %%
[case] = bnm.conform(image_bn_forward, cases="one step rank 4").cases
for check in case.wrong:
    print(check.what, "-", check.reason or "wrong numbers")


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def image_bn_backward(dy, cache):
    x_hat, gamma, std = cache
    axes = tuple(range(dy.ndim - 1))
    g = dy * gamma
    dx = (g - g.mean(axes) - x_hat * np.mean(g * x_hat, axes)) / std
    return dx, np.sum(dy * x_hat, axes), np.sum(dy, axes)


bnm.conform(image_bn_forward, cases="steps").verdict.sentence

# %% [markdown]
# Where this leads: [why it works](05_why_does_it_work.ipynb), which needs these gradients, and
# [judge a layer](07_judge_a_layer.ipynb), where the forward pass and the statistics are judged too.
