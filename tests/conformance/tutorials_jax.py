"""The same in JAX and flax: see `tutorials`."""

from flax import linen, nnx
from jax import numpy as jnp


def batchnorm(x, params, state, is_training=True, decay=0.9, eps=1e-5):
    """Right: dictionaries of parameters and of state."""
    axes = tuple(range(x.ndim - 1))
    if is_training:
        mean, var = x.mean(axes), x.var(axes)
        state = {
            "mean": decay * state["mean"] + (1 - decay) * mean,
            "var": decay * state["var"] + (1 - decay) * var,
        }
    else:
        mean, var = state["mean"], state["var"]
    y = (x - mean) / jnp.sqrt(var + eps) * params["gamma"] + params["beta"]
    return y, state


def batchnorm_one_pass(x, gamma, beta, eps=1e-5):
    """Its variance is E[x^2] - E[x]^2."""
    mean = jnp.mean(x, 0)
    var = jnp.mean(x * x, 0) - mean**2
    return gamma * (x - mean) / jnp.sqrt(var + eps) + beta


class OfLinen(linen.Module):
    """Around flax's own."""

    momentum: float = 0.9

    @linen.compact
    def __call__(self, x, train: bool):
        return linen.BatchNorm(use_running_average=not train, momentum=self.momentum)(x)


class OfNnx(nnx.Module):
    """Epsilon outside the root."""

    def __init__(self, features, *, rngs, eps=1e-3, momentum=0.9):
        self.gamma = nnx.Param(jnp.ones(features))
        self.beta = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.eps, self.momentum = eps, momentum

    def __call__(self, x, training=True):
        axes = tuple(range(x.ndim - 1))
        mean, var = self.mean[...], self.var[...]
        if training:
            mean, var = x.mean(axes), x.var(axes)
            m = self.momentum
            self.mean[...] = m * self.mean[...] + (1 - m) * mean
            self.var[...] = m * self.var[...] + (1 - m) * var
        return (x - mean) / (jnp.sqrt(var) + self.eps) * self.gamma[...] + self.beta[...]


linen_class = linen.BatchNorm
linen_instance = linen.BatchNorm(epsilon=1e-3)
nnx_class = nnx.BatchNorm
