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
# What does batch normalization do to six numbers? Here it is done by hand, written as a Keras
# layer of twenty lines, and compared with TensorFlow's functions and with Keras's layer, which at
# first gives something else.

# %%
import importlib.util

if importlib.util.find_spec("batchnorm_mechanics") is None:
    print("Installing batchnorm-mechanics")
    # %pip install -q "batchnorm-mechanics[notebook]"

# %%
import altair as alt
import numpy as np
import tensorflow as tf

alt.theme.enable("batchnorm_mechanics")
alt.renderers.enable("svg")
np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## Six numbers
#
# Two samples, three channels. How would you bring each channel to mean zero and variance one?

# %%
a = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
a.numpy().mean(axis=0)

# %% [markdown]
# The means are 2.5, 3.5 and 4.5.
