"""Say in words which statistics a layer used in one call, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._keras import functional_of, nodes_in
from batchnorm_mechanics.core import moments
from batchnorm_mechanics.layers.freeze import follows_batches
from batchnorm_mechanics.tracing.capture import Call
from batchnorm_mechanics.tracing.computation import Computation, array, wide_array


@dataclass(frozen=True, eq=False)
class Circumstances:
    """What is known about a call besides its numbers.

    Attributes:
        layer: the layer that was called.
        model: the model that it was called in, or None.
        asked: the `training` argument that the caller of the trace gave, or None.
        call: the call.
        fresh: whether the layer had no weights before, so that it cannot have seen a batch.
    """

    layer: Any
    model: Any
    asked: bool | None
    call: Call
    fresh: bool


def reasons(about: Circumstances, computation: Computation) -> tuple[str, ...]:
    """Return sentences on which statistics the call used, why, and what follows.

    Args:
        about: the circumstances of the call.
        computation: what the layer computed, in the mode that it was in.
    """
    training = computation.mode == "training"
    used = (
        "Training mode: the layer normalized by the mean and the biased variance of this batch, "
        "and then moved its moving statistics towards them."
        if training
        else "Inference mode: the layer normalized by its moving statistics, not by the mean and "
        "variance of this batch, and left them as they were."
    )
    found = [used, *(_frozen(about) or _argument(about))]
    if not training:
        found += _initial(about, computation)
        found += _batch(about, computation)
    return tuple(found)


def _argument(about: Circumstances) -> Iterator[str]:
    arrived, asked = about.call.training, about.asked
    called = "the model was" if about.model is not None else "it was"
    own, giver = _baked(about)
    if asked is not None:
        yield f"Why: {called} called with training={asked}."
        if about.model is not None and bool(arrived) != asked:
            yield (
                f"But training={arrived} is what arrived at the layer: the code of the model gives "
                "it another value."
            )
        elif own is not None and own != asked:
            yield (
                f"The graph has training={own} baked in at this layer. The argument of the model "
                "overrides it, as fit, evaluate and predict do; model(x) alone obeys it."
            )
    elif arrived is None:
        yield (
            f"Why: `training` was left out when {called} called, and nothing else set it, so Keras "
            "takes inference mode."
        )
    elif own is not None:
        yield (
            f"Why: `training` was left out, but training={own} was given to this layer when the "
            "model's graph was built, and is baked into it. In Keras 3 model(x) obeys such a "
            "flag, while fit, evaluate and predict override it, so the same model gives different "
            "results. It survives saving."
        )
    elif giver is not None and not arrived:
        yield (
            f"Why: `training` was left out when {called} called. The layer got training=False from "
            f"{giver!r}, which ran before it and has that value in the graph, as its default or "
            "baked in."
        )
    elif giver is not None:
        yield (
            f"Why: `training` was left out, but training={arrived} is baked into the graph at "
            f"{giver!r}. In model(x), Keras 3 hands such a flag on to the layers that run inside "
            "and after that layer, and so it reached this one. fit, evaluate and predict override "
            "it."
        )
    else:
        yield (
            f"Why: `training` was left out, but the code of the model called the layer with "
            f"training={arrived}."
        )


def _baked(about: Circumstances) -> tuple[bool | None, str | None]:
    """Return the flag baked in at the layer itself, and the layer that handed one on to it.

    Keras keeps the `training` of the last layer that was given one, and the next layer that is
    given none takes it.
    """
    last = None
    for node in _in_order(about.model):
        flag = node.arguments.kwargs.get("training")
        if node.operation is about.layer:
            return (None if flag is None else bool(flag)), last
        if flag is not None:
            last = node.operation.name
    return None, None


def _in_order(model: Any) -> Iterator[Any]:
    """Return the nodes of a model's graph as they run, those of a nested model after its own."""
    graph = functional_of(model)
    for node in () if graph is None else nodes_in(graph):
        yield node
        yield from _in_order(node.operation)


def _frozen(about: Circumstances) -> list[str]:
    """Return why a frozen layer did not obey training=True; nothing where that is not the case."""
    if follows_batches(about.layer) or not about.call.training:
        return []
    if about.layer.trainable:
        return [
            "Why: the statistics of the layer were frozen by bnm.freeze. Then it uses them and "
            "never updates them, even with training=True, which is what it was called with."
        ]
    return [
        "Why: the layer is frozen (trainable=False). Then it uses its moving statistics and never "
        "updates them, even with training=True, which is what it was called with."
    ]


def _initial(about: Circumstances, computation: Computation) -> Iterator[str]:
    start = initial_statistics(about.layer)
    if start is None:
        return
    mean, variance = start
    before = about.call.before
    if not (np.all(array(before.mean) == mean) and np.all(array(before.variance) == variance)):
        return
    words = f"the initial moving statistics, mean {mean:g} and variance {variance:g}, were used"
    if about.fresh:
        yield f"The layer is new and has seen no batch, so {words}."
    else:
        yield (
            f"They are exactly what they are before the first batch: {words}. No training batch "
            "has moved them."
        )
    if (mean, variance) == (0, 1):
        yield (
            "This is why the output is not the normalized batch: with mean 0 and variance 1 "
            f"nothing is taken away, and x_hat = x / √(1 + {computation.epsilon:g}) is almost x."
        )


def initial_statistics(layer: Any) -> tuple[float, float] | None:
    """Return the mean and variance that a layer's initializers give, None where they vary.

    Args:
        layer: a batch-norm layer.
    """
    plain = (
        keras.initializers.Zeros,
        keras.initializers.Ones,
        keras.initializers.Constant,
    )
    values = []
    for name in ("moving_mean_initializer", "moving_variance_initializer"):
        initializer = getattr(layer, name)
        if not isinstance(initializer, plain):
            return None
        values.append(float(array(initializer((), dtype="float32"))))
    return values[0], values[1]


def _batch(about: Circumstances, computation: Computation) -> Iterator[str]:
    if 0 in computation.x.shape:
        return
    batch = moments(computation.x, computation.axes, mask=computation.mask)
    mean, variance = (wide_array(value) for value in (batch.mean, batch.variance))
    moving_mean, moving_variance = (
        wide_array(value) for value in (computation.mean, computation.variance)
    )
    frozen = "" if follows_batches(about.layer) else " (on a layer that is not frozen)"
    yield (
        f"With training=True{frozen} it would have used this batch's own: mean {in_words(mean)}, "
        f"variance {in_words(variance)}."
    )
    with np.errstate(all="ignore"):
        gap = np.abs(mean - moving_mean) / np.sqrt(moving_variance + computation.epsilon)
        ratio = variance / moving_variance
    if np.all(np.isfinite(gap)) and np.all(np.isfinite(ratio)):
        yield (
            f"The batch's mean is up to {np.max(gap):.3g} moving standard deviations from the "
            f"moving mean; its variance is {in_words(ratio)} times the moving variance."
        )


def in_words(values: np.ndarray) -> str:
    """Return a few numbers as they are, and many by their range.

    Example:
        >>> in_words(np.array([2.5, 3.5])), in_words(np.arange(10.0))
        ('[2.5, 3.5]', 'from 0 to 9')
    """
    if values.size == 1 or (values.size and np.all(values == values.flat[0])):
        return f"{values.flat[0]:.4g}"
    if values.size <= 4:
        return f"[{', '.join(f'{value:.4g}' for value in values.flat)}]"
    return f"from {np.min(values):.4g} to {np.max(values):.4g}"
