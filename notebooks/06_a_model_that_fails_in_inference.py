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
# # A model that fails in inference
#
# A network learns well, and predicts badly, on the very images that it learnt from. Here it is
# trained, the fault is found, explained, repaired and checked, and at the end batch norm is folded
# away altogether. A second fault, which hides better, is yours.
#
# Before this one: [simple inputs](01_simple_inputs.ipynb) and
# [statistics of your own](03_statistics_of_your_own.ipynb).

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import warnings

import altair as alt
import keras
import numpy as np
from IPython.display import Markdown

import batchnorm_mechanics as bnm
from batchnorm_mechanics.studies import dataset

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")
np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## A small network
#
# MNIST: some thousand digits to train on, and two thousand that the network will not see before we
# ask how good it is.

# %%
digits = dataset.load("mnist", minimum_rows=6_000)


def prepared(images, labels):
    return (images[..., None] / 255).astype("float32"), labels.astype("int32")


x, y = prepared(digits.x_train[:6_000], digits.y_train[:6_000])
x_new, y_new = prepared(digits.x_test[:2_000], digits.y_test[:2_000])
x.shape, x_new.shape

# %% [markdown]
# Two convolutions, a dense layer, and batch norm after each. A momentum has to be chosen. Keras's
# own MobileNetV2 and MobileNetV3 have `momentum=0.999`; what was good for them should be good for
# us?

# %%
layers = keras.layers


def network(momentum):
    model = keras.Sequential(name="digits")
    model.add(layers.Input((28, 28, 1)))
    for number, filters in enumerate((8, 16), start=1):
        model.add(layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"conv_{number}"))
        model.add(layers.BatchNormalization(momentum=momentum, name=f"bn_{number}"))
        model.add(layers.ReLU())
    model.add(layers.Flatten())
    model.add(layers.Dense(32, use_bias=False, name="dense"))
    model.add(layers.BatchNormalization(momentum=momentum, name="bn_3"))
    model.add(layers.ReLU())
    model.add(layers.Dense(10, name="logits"))
    return model


def train(model, x, y, epochs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model.fit(x, y, batch_size=64, epochs=epochs, verbose=0).history["accuracy"]


# %%
keras.utils.set_random_seed(0)
model = network(momentum=0.999)
learnt = train(model, x, y, epochs=3)
Markdown(f"In its last epoch it was right about **{learnt[-1]:.1%}** of the training images.")

# %% [markdown]
# How many of the new images will it get right?


# %%
def is_right(model, x, y):
    return model.predict(x, batch_size=500, verbose=0).argmax(axis=-1) == y


before = is_right(model, x_new, y_new)
Markdown(f"**{before.mean():.1%}**.")

# %% [markdown]
# ## Is it overfitting?
#
# That is what everyone suspects first. If it were, the network would still know the images that it
# was trained on. Ask it about those again, in the same way as about the new ones.

# %%
known = is_right(model, x, y)
asked = ["training images, while training", "the same, by predict", "new images, by predict"]
bars = zip(asked, (learnt[-1], known.mean(), before.mean()), strict=True)
chart = alt.Chart(alt.Data(values=[{"asked": a, "accuracy": float(right)} for a, right in bars]))
chart.mark_bar().encode(
    alt.X("accuracy:Q", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(domain=[0, 1])),
    alt.Y("asked:N", sort=asked, title=None, axis=alt.Axis(labelLimit=240)),
).properties(height=110)

# %%
lost, apart = learnt[-1] - known.mean(), known.mean() - before.mean()
Markdown(
    f"Between training and `predict` the same images lose {100 * lost:.1f} points; between known "
    f"and new ones lie {100 * abs(apart):.1f}. "
    + (
        "So it is not overfitting: the network knows its images, and *something changes when it "
        "predicts*."
        if lost > 2 * abs(apart)
        else "**Here overfitting is part of it.**"
    )
)

# %% [markdown]
# What changes? In training each batch is normalized by its own mean and variance. In inference the
# moving statistics stand in for them
# ([Ioffe and Szegedy 2015, Alg. 2, l. 11](https://arxiv.org/abs/1502.03167)):
#
# $$y = \frac{\gamma}{\sqrt{\mathrm{Var}[x]+\epsilon}}\,x
#   + \left(\beta - \frac{\gamma\,\mathrm{E}[x]}{\sqrt{\mathrm{Var}[x]+\epsilon}}\right)$$
#
# The weights are the same in both. So the suspects are the two numbers that each channel remembers.

# %% [markdown]
# ## Find
#
# `bnm.diagnose` runs the model in both modes on some data and looks at every batch norm layer.
# (In a terminal: `bnm doctor model.keras --data train.npz`.) Which layers will it name?

# %%
some = slice(0, 1_000)
diagnosis = bnm.diagnose(model, x[some], labels=y[some], batch_size=64)
diagnosis

# %% [markdown]
# Read it from the top. The first lines say what happens to the *model*: how far apart the outputs
# of both modes are, in spreads of the output, and how many predictions change. Then the cause,
# with what was seen and what to do. `So` says what follows from it: the gap between both modes is
# no second fault. `bnm doctor --explain BN106` tells a rule's whole story, with its thresholds.

# %% [markdown]
# ## Explain
#
# A moving average with momentum $p$ takes in each batch by
#
# $$\text{new} = p\cdot\text{old} + (1-p)\cdot\text{batch}$$
#
# and begins at mean zero and variance one. After $n$ batches that beginning still weighs $p^n$. How
# much is that here?

# %%
steps = int(model.optimizer.iterations.numpy())
{momentum: round(momentum**steps, 4) for momentum in (0.9, 0.99, 0.999)}

# %%
curves = [
    {"batches": n, "momentum": str(momentum), "weight": momentum**n}
    for momentum in (0.9, 0.99, 0.999)
    for n in range(0, 1_001, 10)
]
lines = alt.Chart(alt.Data(values=curves)).mark_line()
here = alt.Chart(alt.Data(values=[{"batches": steps}])).mark_rule(
    color="#8c8c8c", strokeDash=[4, 4], size=2
)
lines.encode(
    alt.X("batches:Q", axis=alt.Axis(tickCount=5)),
    alt.Y("weight:Q", title="weight of the beginning", axis=alt.Axis(format="%")),
    alt.Color("momentum:N"),
) + here.encode(alt.X("batches:Q"))

# %% [markdown]
# The dashed line is where our training stopped, after 282 batches. Three quarters of what inference
# uses was never measured: it is the zero and the one that the layer was made with. A momentum of
# `0.999` is for trainings of many thousand steps.
#
# Play with it: other momenta, a jump in the data, other policies. (Where no JavaScript runs, only a
# picture of the page's first room is here; `bnm explore` writes the page.)

# %%
bnm.Explorer(address="#statistics?momentum=0.999")

# %% [markdown]
# ### What it does to one layer
#
# `bnm.trace` runs the model and shows one layer's computation. We take the first layer that the
# diagnosis names, and ask: which statistics did it use, and why?

# %%
named = diagnosis.findings[0].layer
batch = x[:64]
inference = bnm.trace(model, batch, layer=named)
training = bnm.trace(model, batch, layer=named, training=True)
Markdown("\n".join(f"- {sentence}" for sentence in inference.why))

# %% [markdown]
# In training, $\hat x$ has standard deviation one in each channel, or a little less by epsilon:
# that is what normalizing means. And in inference?

# %%
spreads = [
    {"channel": channel, "mode": mode, "spread": float(spread)}
    for mode, traced in {"training": training, "inference": inference}.items()
    for channel, spread in enumerate(traced["x_hat"].value.std(axis=(0, 1, 2)))
]
alt.Chart(alt.Data(values=spreads)).mark_bar().encode(
    alt.X("channel:O", axis=alt.Axis(labelAngle=0)),
    alt.XOffset("mode:N", sort=["training", "inference"]),
    alt.Y("spread:Q", title="standard deviation of x̂"),
    alt.Color("mode:N", sort=["training", "inference"]),
).properties(title=f"What {named} hands on")

# %%
small = np.mean([row["spread"] for row in spreads if row["mode"] == "inference"])
really = training["variance"].value.mean()
Markdown(
    f"On average {small:.2f}. The true variance of these channels is about {really:.2f}, and what "
    "the layer remembers is for the most part the one that it began with. "
    + (
        "So it divides by too much and hands on too little, and the next layer, which learnt to "
        "expect a spread of one, adds an error of its own."
        if small < 0.8
        else "**Here that hardly matters.**"
    )
)

# %% [markdown]
# ## Repair
#
# Nothing is wrong with the weights; the two remembered numbers have to be estimated anew.
# `bnm.repair` does what the findings call for, and diagnoses again. A thousand images do for that.
# (In a terminal: `bnm repair model.keras --data train.npz --out repaired.keras`.)

# %%
repair = bnm.repair(model, x[some], labels=y[some], batch_size=64)
repair

# %% [markdown]
# ### By hand
#
# What did it do? Let us take it back, and do the same step ourselves, this time with all training
# images. `bnm.recalibrate` is the one tool that the repair needed: a pass over the data with the
# weights as they are, after training, as in
# [Alg. 2, l. 8 to 10](https://arxiv.org/abs/1502.03167). It pools all samples as if they were one
# batch; `method="average"` averages over batches, to the paper's letter.

# %%
repair.undo()
change = bnm.recalibrate(model, x, batch_size=64)
change

# %% [markdown]
# For the first layer a few lines of NumPy can check that: run the convolution over all images, and
# take mean and variance of each channel. Do they agree?

# %%
convolved = np.concatenate([np.asarray(model.layers[0](part)) for part in np.split(x, 12)])
pixels = convolved.reshape(-1, convolved.shape[-1]).astype("float64")
ours = {"moving_mean": pixels.mean(axis=0), "moving_variance": pixels.var(axis=0)}
first = change.layers[0]
farthest = max(
    float(np.max(np.abs(first.after[name] - value) / np.sqrt(ours["moving_variance"])))
    for name, value in ours.items()
)
Markdown(
    f"Farthest apart by {farthest:.0e} standard deviations of a channel: "
    + ("rounding. They agree." if farthest < 1e-5 else "**they do not agree.**")
)

# %% [markdown]
# Why was that so easy, and why would it be wrong for the second layer? Because what the second
# layer gets depends on what the first one normalizes by. In training that was the *batch*; so
# while the statistics are estimated, each layer has to go on normalizing by the batch, with
# everything else as in inference. `recalibrate` sees to that.

# %% [markdown]
# ## Verify
#
# The repair looked at training images only. What do the new ones say? The same images are asked
# before and after, so the interval is that of their *differences*.


# %%
def gain(before, after):
    """Return the mean difference in points, and its 95 % interval over images."""
    difference = 100 * (after.astype(float) - before)
    error = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    return difference.mean(), difference.mean() - error, difference.mean() + error


def in_words(before, after):
    points, low, high = gain(before, after)
    return (
        f"{before.mean():.1%} before and **{after.mean():.1%}** after: {points:+.1f} points, "
        f"95% interval from {low:.1f} to {high:.1f}. "
        + ("The interval excludes zero." if low > 0 or high < 0 else "It does not exclude zero.")
    )


after = is_right(model, x_new, y_new)
Markdown("New images: " + in_words(before, after))

# %% [markdown]
# That interval is about images: two thousand others would give another number. It says nothing of
# other seeds of the training; for these, train again with several, as
# [statistics of your own](03_statistics_of_your_own.ipynb) does.
#
# And are both modes the same now? The last question to the doctor is about new images, of which the
# repair knew nothing.

# %%
healed = bnm.diagnose(model, x_new[some], labels=y_new[some], batch_size=64)
measured = {
    "sick, training images": diagnosis,
    "repaired, training images": repair.after,
    "repaired, new images": healed,
}
rows = {
    "gap": "largest gap of a layer",
    "output_change": "distance of the outputs",
    "predictions_changed": "predictions changed",
}
Markdown(
    f"| | {' | '.join(measured)} |\n| --- | ---: | ---: | ---: |\n"
    + "\n".join(
        f"| {words} | {' | '.join(f'{one.measures[name]:.3f}' for one in measured.values())} |"
        for name, words in rows.items()
    )
)

# %% [markdown]
# Gap and distance are in standard deviations: of what a layer hands on, and of the outputs among
# samples. New images keep a little of both, since the statistics are not theirs.

# %% [markdown]
# ## Fold
#
# In inference batch norm is one multiplication and one addition a channel, with numbers that no
# longer change. The layer before multiplies and adds as well, so it can do both at once:
#
# $$W' = \frac{\gamma}{\sqrt{\mathrm{Var}[x]+\epsilon}}\,W \qquad
#   b' = \beta - \frac{\gamma\,\mathrm{E}[x]}{\sqrt{\mathrm{Var}[x]+\epsilon}}$$
#
# This is exact but for rounding. `bnm.fold` makes such a model, and compares the two. (In a
# terminal: `bnm fold repaired.keras --out folded.keras`.)

# %%
folded = bnm.fold(model, x_new, batch_size=64)
folded

# %%
quicker = folded.speed
otherwise = int(np.sum(is_right(folded.model, x_new, y_new) != after))
Markdown(
    f"{len(model.layers)} layers became {len(folded.model.layers)}. The outputs differ by "
    f"{folded.difference:.0e} of the largest at most, and of {len(after):,} new images "
    f"{otherwise or 'none'} went from right to wrong or back. Speed: {quicker:.2f} times as fast, "
    "measured once, on this machine, for a batch of this size. "
    + (
        "So small a difference may come out the other way when it is measured again."
        if 0.85 < quicker < 1.15
        else "Measure again before you count on it; and on the machine that is to predict."
    )
)

# %% [markdown]
# Fold last. A folded model has no batch norm left to recalibrate, and folding the sick model would
# have made its wrong statistics part of the weights.

# %% [markdown]
# ## Exercise: fold by hand
#
# Complete `merged`, which returns the kernel and the bias of a dense layer that does batch norm's
# work as well. The kernel has shape (inputs, channels); all else has one number for each channel.


# %%
def merged(kernel, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance)  # your turn: what is missing,
    return kernel * scale, beta  # in both lines?


# %% [markdown]
# To judge it, we put it where it belongs: into the inference of a batch norm whose training is
# right. A kernel of ones on the diagonal hands the input on as it is. `bnm.conform` compares with
# a reference and looks for a mistake that gives the very numbers that it got. (It asks about a
# batch without samples, too; of that NumPy would warn.)


# %%
warnings.filterwarnings("ignore", "Mean of empty slice|Degrees of freedom")


def judged(merged):
    def batch_norm(x, gamma, beta, moving_mean, moving_var, eps, training):
        if training:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            moving_mean = 0.9 * moving_mean + 0.1 * mean
            moving_var = 0.9 * moving_var + 0.1 * variance
            y = gamma * (x - mean) / np.sqrt(variance + eps) + beta
        else:
            identity = np.eye(x.shape[1], dtype=x.dtype)
            kernel, bias = merged(identity, gamma, beta, moving_mean, moving_var, eps)
            y = x @ kernel + bias
        return y, moving_mean, moving_var

    return bnm.conform(batch_norm, name="merged", cases="steps").verdict.sentence


judged(merged)

# %% [markdown]
# What it says depends on what you wrote. Mend one line, and look again; the answer is folded up
# below.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def answer(kernel, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance + epsilon)
    return kernel * scale, beta - mean * scale


only_epsilon = judged(lambda k, g, b, m, v, e: (k * g / np.sqrt(v + e), b))
only_mean = judged(lambda k, g, b, m, v, e: (k * g / np.sqrt(v), b - m * g / np.sqrt(v)))
print("With epsilon, without the mean: ", only_epsilon)
print("With the mean, without epsilon: ", only_mean)
print("With both:                      ", judged(answer))

weights = [model.get_layer(name).get_weights() for name in ("dense", "bn_3")]
kernel, bias = answer(*weights[0], *weights[1], model.get_layer("bn_3").epsilon)
theirs = folded.model.get_layer("dense").get_weights()
apart = max(np.abs(a - b).max() for a, b in zip((kernel, bias), theirs, strict=True))
print(f"And from the dense layer that bnm.fold made it is {apart:.0e} away at most.")

# %% [markdown]
# ## Exercise: a fault that hides
#
# The healthy network is to read ink on paper now, dark on light. We turn the images over and train
# on for an epoch, from the weights that we have. And we have learnt: the momentum is Keras's own
# default this time.

# %%
paper, paper_y, paper_new = 1 - x[:3_840], y[:3_840], 1 - x_new
keras.utils.set_random_seed(1)
fine_tuned = network(momentum=0.99)
fine_tuned.set_weights(model.get_weights())
train(fine_tuned, paper, paper_y, epochs=1)
on_paper = is_right(fine_tuned, paper_new, y_new)
looked_at = bnm.diagnose(fine_tuned, paper[some], labels=paper_y[some], batch_size=64)
Markdown(
    f"Right on new paper: **{on_paper.mean():.1%}**. Right on paper it was trained on: "
    f"{looked_at.measures['accuracy']:.1%} by `predict`, "
    f"{looked_at.measures['accuracy_by_batch']:.1%} when normalized by the batch."
)

# %% [markdown]
# The same picture again. But is it the same cause? Three questions before you look:
#
# - How much does the beginning of *this* training weigh, and what is that beginning?
# - Will the rule that found the first fault find this one?
# - The first finding names the first layer. Is it the only one that has to be changed?
#
# Then mend `mend`. It gets the model and the paper images, and changes what has to be changed.


# %%
def mend(model, x):
    bnm.recalibrate(model, x, batch_size=64, only=["bn_1"])  # your turn: is this enough?


# %%
def checked(mend):
    """Mend a copy of the model, and say what is still wrong with it."""
    patient = network(momentum=0.99)
    patient.set_weights(fine_tuned.get_weights())
    mend(patient, paper)
    left = bnm.diagnose(patient, paper[some], labels=paper_y[some], batch_size=64)
    wrong = [found for found in left.findings if found.severity != "note" and found.root is None]
    said = "".join(f"\n- **{one.code} {one.name}** in {one.layer}: {one.cause}" for one in wrong)
    verdict = f"Still wrong:{said}" if wrong else "Nothing is wrong any more."
    return Markdown(
        f"{verdict}\n\nNew paper: {in_words(on_paper, is_right(patient, paper_new, y_new))}"
    )


checked(mend)

# %% [markdown]
# The answer is folded up below, with the words for it.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def answered(model, x):
    # These are the images of the training, so their statistics replace the old ones as a whole.
    bnm.recalibrate(model, x, batch_size=64)


checked(answered)

# %% jupyter={"source_hidden": true} tags=["hide-input"]
batches = len(paper) // 64
causes = [found.code for found in looked_at.findings if found.root is None]
Markdown(
    f"- After {batches} batches at momentum 0.99 the beginning weighs {0.99**batches:.0%}. But it "
    "is not zero and one: it is the statistics of *light digits on dark ground*, and these were "
    "right there.\n"
    + (
        "- So BN106 is silent: its variances are not what is left of a one. "
        if "BN106" not in causes
        else "- BN106 speaks up here as well. "
    )
    + f"The cause that is named is {', '.join(causes)}: to whoever sees the model alone, these are "
    "data of another kind than its statistics.\n"
    "- Each layer remembers the old images, so each has to be estimated anew. Whether the "
    "statistics should follow the data, or the data were prepared wrongly, only you can know: that "
    "is why the finding asks you to compare them first."
)

# %% [markdown]
# ## What would have prevented it?
#
# Any of these:
#
# - `callbacks=[bnm.Recalibrate(x, batch_size=64)]` in `fit`: one more pass over the data, and the
#   statistics belong to the last weights;
# - a smaller momentum for a short training, or `bnm.DebiasedMovingAverage`, whose beginning weighs
#   nothing;
# - `bnm.Watch(data=x)`, which logs the gap of each layer while you train.
#
# Next: [judge a layer](07_judge_a_layer.ipynb).
