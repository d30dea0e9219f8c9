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
# # Judge a layer
#
# Batch norm is written anew in every textbook, course and lecture. Each version trains a network.
# Which of them are right, and what would you have to know before you take one over? Here are some,
# in our words, with the conventions and the slips that such code has. You guess, then a judge
# looks.
#
# Before this one: [simple inputs](01_simple_inputs.ipynb); for gradients,
# [backwards by hand](04_backwards_by_hand.ipynb).

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import warnings

import altair as alt
import numpy as np
from IPython.display import Markdown

import batchnorm_mechanics as bnm
from batchnorm_mechanics.studies import dataset

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")
np.set_printoptions(precision=4, suppress=True)
# The judge asks about a batch without samples, too, and NumPy would warn each time.
warnings.filterwarnings("ignore", "Mean of empty slice|Degrees of freedom")

# %% [markdown]
# ## The test that everyone writes
#
# Normalize something. If every channel comes out with mean zero and standard deviation one, it
# works. We try it on real digits: sixty images, and the pixels of one row through their middle.
# Does the test notice that raw pixels are not normalized, and that normalized ones are?

# %%
digits = dataset.load("mnist", minimum_rows=6_000)
rows = digits.x_train[:60, 14, 8:20] / 255
ones, zeros = np.ones(rows.shape[1]), np.zeros(rows.shape[1])


def looks_normal(y):
    return bool(np.all(np.abs(y.mean(axis=0)) < 0.02) and np.all(np.abs(y.std(axis=0) - 1) < 0.02))


looks_normal(rows), looks_normal((rows - rows.mean(axis=0)) / rows.std(axis=0))

# %% [markdown]
# It does. We collect what each piece of code below makes of these pixels, and put it to this test
# at the end.

# %%
outputs, reports = {}, {}

# %% [markdown]
# ## A textbook's function
#
# Everything goes in as an argument, new statistics come out. Only the mode does not: as
# `torch.is_grad_enabled()` in some books, it is a switch for the whole program.


# %%
class Recording:
    on = True


def batch_norm(x, gamma, beta, moving_mean, moving_var, eps, momentum):
    if not Recording.on:
        return gamma * (x - moving_mean) / np.sqrt(moving_var + eps) + beta, moving_mean, moving_var
    over = 0 if x.ndim == 2 else (0, 2, 3)
    mean = x.mean(axis=over, keepdims=x.ndim == 4)
    var = np.square(x - mean).mean(axis=over, keepdims=x.ndim == 4)
    y = gamma * (x - mean) / np.sqrt(var + eps) + beta
    return (
        y,
        momentum * moving_mean + (1 - momentum) * mean,
        momentum * moving_var + (1 - momentum) * var,
    )


outputs["textbook"] = batch_norm(rows, ones, zeros, zeros, ones, 1e-5, 0.9)[0]

# %% [markdown]
# Is it right? `bnm.conform` looks at the signature, tries the function out, and asks it through a
# table of cases: shapes, axes, types, batch sizes, large means, many steps. It compares with a
# reference in float64, within what rounding explains. What will it say about the mode, which it
# cannot see?

# %%
bnm.conform(batch_norm)

# %% [markdown]
# Read it from the top:
#
# - **taken as** is what the judge took it for. If that is wrong, the rest is about something else.
#   Here it is half of the truth: `training alone`.
# - then the **verdict**, in one sentence;
# - **limits** are what the code does not take. A limit is no mistake: nobody promised `float16`.
#   But `no inference` is not true, is it?
# - **conventions** are free choices, found out from what it does: no mistakes either, and what you
#   have to know before you carry weights from one library to another.
#
# An argument for the mode takes two lines. We fix a momentum on the way.


# %%
def with_a_mode(x, gamma, beta, moving_mean, moving_var, eps, training):
    Recording.on = training
    return batch_norm(x, gamma, beta, moving_mean, moving_var, eps, momentum=0.9)


reports["textbook"] = bnm.conform(with_a_mode, name="with_a_mode")
reports["textbook"]

# %% [markdown]
# Now inference was judged as well. A function whose mode is global cannot be told from one that has
# none; nor can you tell it, reading a line that calls it.

# %% [markdown]
# ## A course's forward and backward
#
# One dictionary has the settings, the mode and the statistics, and is written to. What backwards
# will need comes back as a `cache`.


# %%
def batchnorm_forward(x, gamma, beta, bn_param):
    eps, momentum = bn_param.get("eps", 1e-5), bn_param.get("momentum", 0.9)
    moving = {"running_mean": np.zeros(x.shape[1]), "running_var": np.zeros(x.shape[1])}
    moving = {name: bn_param.get(name, start) for name, start in moving.items()}
    if bn_param["mode"] == "test":
        std = np.sqrt(moving["running_var"] + eps)
        return gamma * (x - moving["running_mean"]) / std + beta, None
    batch = {"running_mean": x.mean(axis=0), "running_var": x.var(axis=0)}
    for name, new in batch.items():
        bn_param[name] = momentum * moving[name] + (1 - momentum) * new
    std = np.sqrt(batch["running_var"] + eps)
    x_hat = (x - batch["running_mean"]) / std
    return gamma * x_hat + beta, (x_hat, gamma, std)


def batchnorm_backward(dout, cache):
    x_hat, gamma, std = cache
    d = dout * gamma
    dx = (d - d.mean(axis=0) - x_hat * np.mean(d * x_hat, axis=0)) / std
    return dx, np.sum(dout * x_hat, axis=0), np.sum(dout, axis=0)


outputs["course"] = batchnorm_forward(rows, ones, zeros, {"mode": "train"})[0]

# %% [markdown]
# The judge finds `batchnorm_backward` by its name, and so judges gradients too.

# %%
reports["course"] = bnm.conform(batchnorm_forward)
print(reports["course"].taken_as, reports["course"].verdict.sentence, sep="\n")

# %% [markdown]
# A classmate hands in the same forward pass and a shorter backward pass. "The variance is divided
# by, it is a constant," the classmate says. Is it? And would the training show it?


# %%
def classmates_forward(x, gamma, beta, bn_param):
    return batchnorm_forward(x, gamma, beta, bn_param)


def classmates_backward(dout, cache):
    x_hat, gamma, std = cache
    d = dout * gamma
    return (d - d.mean(axis=0)) / std, np.sum(dout * x_hat, axis=0), np.sum(dout, axis=0)


outputs["classmate"] = classmates_forward(rows, ones, zeros, {"mode": "train"})[0]
reports["classmate"] = bnm.conform(classmates_forward)
reports["classmate"]

# %% [markdown]
# The variance is no constant: every sample moves it. What is missing is the second term of
# $\partial\ell/\partial x_i$
# ([Ioffe and Szegedy 2015, sec. 3](https://arxiv.org/abs/1502.03167), fourth gradient of six):
#
# $$\frac{\partial\ell}{\partial x_i} =
#   \frac{\partial\ell}{\partial\hat x_i}\frac{1}{\sqrt{\sigma^2+\epsilon}}
#   + \frac{\partial\ell}{\partial\sigma^2}\frac{2(x_i-\mu)}{m}
#   + \frac{\partial\ell}{\partial\mu}\frac1m$$
#
# The report has the smallest case in which it shows, and the line that asks about that case alone.

# %% [markdown]
# ## A lecture's class
#
# Statistics live in the object, `training` is an attribute. The lecturer takes one variance for
# both purposes, the biased one.


# %%
class BatchNorm1d:
    def __init__(self, dim, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)
        self.running_mean, self.running_var = np.zeros(dim), np.ones(dim)

    def variance(self, x):
        return x.var(axis=0)

    def __call__(self, x):
        if self.training:
            mean, var = x.mean(axis=0), self.variance(x)
            keep = 1 - self.momentum
            self.running_mean = keep * self.running_mean + self.momentum * mean
            self.running_var = keep * self.running_var + self.momentum * var
        else:
            mean, var = self.running_mean, self.running_var
        return self.gamma * (x - mean) / np.sqrt(var + self.eps) + self.beta


outputs["lecture"] = BatchNorm1d(rows.shape[1])(rows)
reports["lecture"] = bnm.conform(BatchNorm1d)
reports["lecture"]

# %% [markdown]
# Right; compare the conventions with those of the textbook. The same word, momentum, weighs the
# *new* value here and the *old* one there. Carry `0.9` from one to the other, and inference
# follows the last batch: [a model that fails in
# inference](06_a_model_that_fails_in_inference.ipynb) shows what such things do.
#
# Next year the lecture is held in PyTorch, where `x.var(0)` divides by $m-1$. Is that a convention
# or a mistake?


# %%
class Unbiased(BatchNorm1d):
    def variance(self, x):
        return x.var(axis=0, ddof=1)


outputs["next year"] = Unbiased(rows.shape[1])(rows)
reports["next year"] = bnm.conform(Unbiased)
print(reports["next year"].verdict.sentence)
for cause in reports["next year"].verdict.causes:
    print(f"- {cause.failures}: {cause.words}; smallest case: {cause.case}")

# %% [markdown]
# Both, and that is the trap. For the *moving* variance it is a convention: Alg. 2 of the paper
# wants the unbiased one, PyTorch keeps it, and Keras keeps the biased one. In the *normalization*
# of a batch it is a mistake: Alg. 1 divides by $m$, and so do Keras's and PyTorch's own layers.
# (The check without a name is a batch of one, of which zero divided by zero is left.)
#
# How far off is it? The output is $\sqrt{(m-1)/m}$ of what it should be, so it depends on the
# batch:

# %%
for m in (2, 8, 60):
    print(f"batch of {m:2}: {np.sqrt((m - 1) / m):.3f} of what is due")

# %% [markdown]
# With sixty samples nobody sees it. With two, everything shrinks to 0.707 of what is due.

# %% [markdown]
# ## A variance in one pass
#
# "$\mathrm{Var}[x]=\mathrm{E}[x^2]-\mathrm{E}[x]^2$, so one loop over the data is enough." True on
# paper. When does it go wrong on a computer?


# %%
class OnePass(BatchNorm1d):
    def variance(self, x):
        return np.mean(x * x, axis=0) - np.mean(x, axis=0) ** 2


outputs["one pass"] = OnePass(rows.shape[1])(rows)
reports["one pass"] = bnm.conform(OnePass)
reports["one pass"].verdict.sentence

# %% [markdown]
# Two large numbers that are nearly equal are subtracted, and their leading digits cancel. To see
# it on real data, measure the ink of our pixels from another zero: the same spread, a larger mean.
# How large may the mean be, in standard deviations, before float32 has no digit left?

# %%
ink = rows[:, 6]
true = ink.var()
errors = []
for deviations in 10.0 ** np.arange(0, 6.1, 0.25):
    shifted = (ink + deviations * ink.std()).astype("float32")
    two_passes = np.mean(np.square(shifted - shifted.mean()))
    one = np.mean(shifted * shifted) - shifted.mean() ** 2
    for way, value in {"two passes": two_passes, "one pass": one}.items():
        errors.append(
            {
                "mean in deviations": float(deviations),
                "way": way,
                "relative error": max(float(abs(value / true - 1)), 1e-8),
            }
        )
logarithmic = alt.Scale(type="log")
power = alt.Axis(format=".0e", tickCount=6)
alt.Chart(alt.Data(values=errors)).mark_line().encode(
    alt.X("mean in deviations:Q", scale=logarithmic, axis=power),
    alt.Y("relative error:Q", scale=logarithmic, axis=power, title="error of the variance"),
    alt.Color("way:N"),
)

# %%
lost = [
    row["mean in deviations"]
    for row in errors
    if row["way"] == "one pass" and row["relative error"] > 1
]
Markdown(
    (
        f"At a mean of {min(lost):,.0f} deviations the error is larger than the variance itself, "
        "and where that comes out below zero, the root is NaN. "
        if lost
        else "Here no variance is lost as a whole. "
    )
    + "Does it matter to you? For pixels, whose mean is about as large as their spread: hardly. "
    "For times in seconds since some year long ago: very much. That is why the verdict has a "
    "*but*, and says from where on."
)

# %% [markdown]
# ## Epsilon outside the root
#
# The last one has a slip that is hard to see: $\hat x=(x-\mu)/(\sigma+\epsilon)$. Find it in the
# code first.


# %%
def outside_the_root(x, gamma, beta, running_mean, running_var, training, eps=1e-3):
    if training:
        mean, std = x.mean(axis=0), x.std(axis=0)
        running_mean = 0.9 * running_mean + 0.1 * mean
        running_var = 0.9 * running_var + 0.1 * std**2
    else:
        mean, std = running_mean, np.sqrt(running_var)
    return gamma * (x - mean) / (std + eps) + beta, running_mean, running_var


outputs["outside"] = outside_the_root(rows, ones, zeros, zeros, ones, True)[0]
reports["outside"] = bnm.conform(outside_the_root)
reports["outside"].verdict.sentence

# %% [markdown]
# Alg. 1 has $\sqrt{\sigma^2+\epsilon}$. For a variance of about one the two agree to three digits.
# On which pixels of MNIST do they not? Here is by how much the output of the one is larger than
# that of the other, pixel by pixel.

# %%
every = digits.x_train[:6_000].reshape(6_000, -1) / 255
variance, epsilon = every.var(axis=0), 1e-3
times = np.sqrt(variance + epsilon) / (np.sqrt(variance) + epsilon)
image = [
    {"row": number // 28, "column": number % 28, "times": float(times[number])}
    for number in np.flatnonzero(variance)
]
alt.Chart(alt.Data(values=image)).mark_rect().encode(
    alt.X("column:O", axis=None),
    alt.Y("row:O", axis=None),
    alt.Color("times:Q", scale=alt.Scale(scheme="blues", type="log"), title="times as large"),
).properties(width=alt.Step(10), height=alt.Step(10))

# %%
Markdown(
    f"In the middle the two agree. At the border, where ink is rare, an output is up to "
    f"{times[variance > 0].max():.0f} times as large as it should be: there epsilon has to hold a "
    "small variance back, and outside the root it is too small for that."
)

# %% [markdown]
# ## Two libraries
#
# Names of built-in subjects will do for these: `"keras"` and, if it is installed, `"torch"`. What
# will differ, if both are right? A few cases are enough to find out conventions.

# %%
libraries = {"Keras": bnm.conform("keras", cases="steps")}
if importlib.util.find_spec("torch") is not None:
    libraries["PyTorch"] = bnm.conform("torch", cases="steps")
else:
    print("PyTorch is not installed here, so Keras stands alone.")
for name, report in libraries.items():
    print(f"{name}: {report.verdict.sentence}")

# %% [markdown]
# All of them side by side. Now the test that everyone writes has its say, too.


# %%
def line(name, report):
    found, causes = report.conventions, report.verdict.causes
    test = (
        {True: "passed", False: "failed"}[looks_normal(outputs[name])] if name in outputs else "–"
    )
    conventions = found.momentum_weighs, found.moving_variance, found.epsilon_place
    cells = name, test, "right" if report else causes[0].words, *conventions
    return f"| {' | '.join(cells)} |"


Markdown(
    "| | test | verdict | momentum weighs | moving variance | epsilon |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
    + "\n".join(line(name, report) for name, report in (reports | libraries).items())
)

# %%
passed = sum(map(looks_normal, outputs.values()))
right = sum(map(bool, reports.values()))
Markdown(
    f"Of {len(reports)} pieces of code, {passed} pass the test that everyone writes, and {right} "
    "are right. "
    + ("**The test tells nothing.**" if passed == len(reports) else "The test tells something.")
)

# %% [markdown]
# What momentum weighs and which variance is kept are *conventions*: know them, convert, done. The
# documentation's page of conventions has them for many more libraries, and says how to carry
# weights from one to another. Where epsilon stands is found out in the same way, and yet it is no
# free choice: the paper says it. Those are *mistakes*, and the verdict names them.

# %% [markdown]
# ## Exercise: yours
#
# Here is a batch norm as one writes it in a hurry. It looks normal, and it trains. What is wrong
# with it? Say it before you run the judge; then mend it. Or put your own in its place: a Keras
# layer, a module of PyTorch or JAX, a function.


# %%
class Mine:
    def __init__(self, dim, eps=1e-5, momentum=0.9):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)
        self.running_mean, self.running_var = np.zeros(dim), np.ones(dim)

    def __call__(self, x):
        mean, var = x.mean(axis=0), x.var(axis=0)  # your turn
        self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
        self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        if not self.training:
            mean, var = self.running_mean, self.running_var
        return self.gamma * (x - mean) / np.sqrt(var + self.eps) + self.beta


bnm.conform(Mine)

# %% [markdown]
# What would this have cost? Validate once an epoch, and the validation images move the statistics:
# the model knows something of the data that it is validated on, and gives another answer each time
# it is asked. The answer is folded up below.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
class Answer:
    def __init__(self, dim, eps=1e-5, momentum=0.9):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)
        self.running_mean, self.running_var = np.zeros(dim), np.ones(dim)

    def __call__(self, x):
        if self.training:  # in training alone do batches count, and move what is remembered
            mean, var = x.mean(axis=0), x.var(axis=0)
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        else:
            mean, var = self.running_mean, self.running_var
        return self.gamma * (x - mean) / np.sqrt(var + self.eps) + self.beta


bnm.conform(Answer).verdict.sentence

# %% [markdown]
# ## Exercise: fool the judge
#
# Break the answer in a way that the judge does not notice. A beta that is forgotten, an axis too
# many, a variance that is never below some floor, statistics that move every other time? Change
# `Fooling` and see whether your mistake has a name. This one forgets gamma in inference alone:


# %%
class Fooling(BatchNorm1d):
    def __call__(self, x):
        y = super().__call__(x)
        return y if self.training else (y - self.beta) / self.gamma + self.beta


bnm.conform(Fooling).verdict.sentence

# %% [markdown]
# If you find one that passes as right and is not, please tell us: the table of cases lacks a line.

# %% [markdown]
# ## In your own tests
#
# A report is true if nothing is wrong. So one line in a test is enough,
# `assert bnm.conform(MyBatchNorm)`. Here for the lecture's class, on a part of the cases:

# %%
bool(bnm.conform(BatchNorm1d, cases="batch"))

# %% [markdown]
# - `@bnm.conform_cases(MyBatchNorm)` above `def test_batch_norm(case): case()` makes each case a
#   test of pytest;
# - `bnm.conform(MyBatchNorm, require="axes, float64")` makes a limit a failure;
# - `bnm conform my_layers.py:MyBatchNorm` does it in a terminal, in a process of its own.
#
# Back to the [first notebook](01_simple_inputs.ipynb), or to
# [a model that fails in inference](06_a_model_that_fails_in_inference.ipynb).
