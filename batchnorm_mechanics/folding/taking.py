"""The layers that take a scale and an offset into their weights, and what that makes of these."""

from typing import Any, NamedTuple

import keras
import numpy as np

from batchnorm_mechanics.folding.einsum import (
    EinsumWeights,
    bias_like,
    equation_of,
    read_einsum,
)
from batchnorm_mechanics.folding.passing import Placed, step_of
from batchnorm_mechanics.layers.intercept import own_call
from batchnorm_mechanics.models import linear
from batchnorm_mechanics.models.linear import Affine, Weights, channel_axis

Taken = Weights | EinsumWeights
_EINSUM = keras.layers.EinsumDense
_NO_WEIGHTS = "has no weights along the axis of its channels"


class Taker(NamedTuple):
    """A layer with a kernel in a graph.

    Attributes:
        layer: the one that has the kernel.
        host: what the graph calls: the layer, or a `TimeDistributed` that calls it for each step.
    """

    layer: Any
    host: Any

    @property
    def by_steps(self) -> bool:
        """Whether it is called for each step of its input's first axis behind the samples."""
        return self.host is not self.layer

    def obstacle(self) -> str | None:
        """Return why the weights are not simply a kernel and a bias, or None."""
        if self.by_steps and self.host.compute_dtype != self.layer.compute_dtype:
            return f"gives its steps in {self.host.compute_dtype} to what computes in another type"
        own = equation_of(self.layer).obstacle if type(self.layer) is _EINSUM else None
        return linear.obstacle(self.layer) or own


def taker_of(operation: Any) -> Taker | None:
    """Return the layer that can take a batch norm in, or None where a call is of no such layer."""
    layer = step_of(operation) or operation
    if type(layer) is not _EINSUM and not linear.takes_a_norm(layer):
        return None
    return Taker(layer, operation) if own_call(layer) is None else None


def read(layer: Any) -> Taken:
    """Return the weights of a layer that takes a norm in."""
    return read_einsum(layer) if type(layer) is _EINSUM else linear.read(layer)


def store(layer: Any, weights: Taken) -> None:
    """Give such a layer weights, each rounded once to the type of its variable."""
    if isinstance(weights, Weights):
        linear.store(layer, weights)
        return
    pairs = [(layer.kernel, weights.kernels[0])]
    if weights.bias_axes:
        pairs.append((layer.bias, bias_like(weights, tuple(layer.bias.shape))))
    for variable, value in pairs:
        variable.assign(value.astype(keras.backend.standardize_dtype(variable.dtype)))


def settings_of(weights: Taken) -> dict[str, Any]:
    """Return what a layer with these weights has other in its configuration."""
    return {"use_bias": weights.has_bias} if isinstance(weights, Weights) else weights.settings


def what_it_gets(
    taker: Taker, what: Placed, shape: tuple[int | None, ...]
) -> Affine | Placed | str:
    """Return a scale and an offset in the form in which a layer takes them, or why it cannot.

    Args:
        taker: the layer.
        what: beside its call.
        shape: of the tensor there, the axis of samples included.
    """
    if taker.by_steps:
        within = what.within_steps()
        if within is None:
            return "does the same at each step, which it does not"
        what, shape = within, shape[1:]
    if type(taker.layer) is _EINSUM:
        return what
    theirs = channel_axis(taker.layer, len(shape))
    others = [axis for axis in what.axes if axis != theirs]
    size = shape[theirs]
    if not others and size is not None:
        return what.along(theirs, size)
    shift = int(taker.by_steps)
    if what.axes == tuple(others) and len(others) == 1:
        return f"has its channels on axis {theirs + shift}, it on axis {others[0] + shift}"
    return "has the same weights at each place, which it has not"


def behind(weights: Taken, got: Any) -> Taken | str:
    """Return the weights that do what a layer and `got` behind it do, or why there are none."""
    return weights.followed_by(got) or _NO_WEIGHTS


def ahead(taker: Taker, weights: Taken, got: Any) -> Taken | str:
    """Return the weights that do what `got` before a layer and the layer do, or why not."""
    if isinstance(weights, Weights) and (reason := linear.offset_obstacle(taker.layer, got)):
        return reason
    return weights.preceded_by(got) or _NO_WEIGHTS


def is_alike(one: Affine | Placed, other: Affine | Placed) -> bool:
    """Say whether two calls of a layer would get the same."""
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))
