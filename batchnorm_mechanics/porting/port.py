"""`port` puts the batch norms of another library's model into a Keras model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.words import counted, named
from batchnorm_mechanics.layers.accelerate import checked_layers_in
from batchnorm_mechanics.layers.compiled import renew_compiled_functions
from batchnorm_mechanics.models.norms import Norm, norms_in
from batchnorm_mechanics.porting.foreign import Foreign, norms_of
from batchnorm_mechanics.statistics import ExponentialMovingAverage

# Of the outputs' largest, in which float32 of two libraries agrees through a deep network.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Ported:
    """What `port` carried.

    Attributes:
        pairs: for each batch norm layer of the model that got one, by path, the name in the source.
        notes: what was not the same on both sides, in sentences.
        difference: the largest difference between the outputs of both, relative to the largest
            output of the source; None where they were not compared.
    """

    pairs: Mapping[str, str]
    notes: tuple[str, ...]
    difference: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the outputs are as near as two libraries' float32 is; None if not compared."""
        return None if self.difference is None else self.difference <= _TOLERANCE

    def __str__(self) -> str:
        """Return it in sentences."""
        lines = [f"Ported {counted(len(self.pairs), 'batch norm layer')}."]
        if self.difference is None:
            lines.append("Outputs were not compared: pass `data` and `outputs`.")
        else:
            verdict = "agree" if self.agrees else "differ"
            lines.append(
                f"Outputs {verdict}: by {self.difference:.2g} of the largest at most, where "
                f"{_TOLERANCE:g} is rounding."
            )
        return "\n".join([*lines, *self.notes])


def port(
    source: Any,
    model: keras.Layer,
    *,
    names: Mapping[str, str] | None = None,
    epsilon: float | None = None,
    momentum: float | None = None,
    data: Any = None,
    outputs: Callable[[Any], ArrayLike] | ArrayLike | None = None,
) -> Ported:
    """Put the batch norms of another library's model into a Keras model, in place.

    Carried are gamma, beta, mean and variance, none of them transposed, with epsilon and momentum
    in Keras's sense. All else of the model is the caller's. All is checked before any is changed.

    Args:
        source: a torch.nn.Module or a state_dict; an nnx.Module, or the variables of a linen
            module; an ONNX model, or its file.
        model: a Keras model, or a batch norm layer, with weights; Keras's layers or ours.
        names: by paths in the model, such as "encoder/bn_1", the names in the source. By default
            they go in their order: that of modules in PyTorch, of nodes in ONNX, of numbered names
            in flax.
        epsilon: where the source does not say it, as a state_dict and linen's variables: the number
            that the model was trained with.
        momentum: likewise, the weight of the old value; the layers' own stays by default.
        data: an input of the Keras model, to compare outputs in inference.
        outputs: what the other model gave for these data, in Keras's layout of the channels; or a
            function of the data that says it.

    Returns:
        `Ported`, which prints what was carried and whether the outputs agree.

    Raises:
        TypeError: `model` is no Keras model or layer.
        InputError: the source holds no batch norm, or other numbers of layers or channels than the
            model; it does not say its epsilon and `epsilon` was not given; or only one of `data`
            and `outputs` was.

    Numerics:
        PyTorch's moving variance is the unbiased one. It is carried as it is and infers the same;
        trained on, Keras's layer goes towards the biased one, and ours with
        `ExponentialMovingAverage(decay, unbiased=True)` goes on.

    Example:
        >>> state = {"bn.weight": [2.0], "bn.bias": [1.0]}
        >>> state |= {"bn.running_mean": [3.0], "bn.running_var": [4.0]}
        >>> layer = keras.layers.BatchNormalization(name="norm")
        >>> model = keras.Sequential([keras.layers.Input((1,)), layer])
        >>> done = port(state, model, epsilon=1e-5, data=np.ones((1, 1)), outputs=[[-1.0]])
        >>> dict(done.pairs), done.agrees
        ({'norm': 'bn'}, True)
    """
    checked_layers_in(model, caller="port")
    if (data is None) != (outputs is None):
        raise InputError(
            "port: `data` and `outputs` must come together. Received: one of them. "
            "Outputs are compared on the data that gave them."
        )
    pairs = _paired(norms_of(source), norms_in(model), names)
    plans = [_checked(norm, foreign, epsilon) for norm, foreign in pairs]
    for (norm, foreign), at_epsilon in zip(pairs, plans, strict=True):
        norm.layer.epsilon = at_epsilon
        kept = foreign.momentum if momentum is None else momentum
        # A policy of one's own has a decay of its own.
        if kept is not None and (not norm.is_ours or norm.layer.statistics is None):
            norm.layer.momentum = kept
        _fill(norm, foreign)
    renew_compiled_functions(model)
    return Ported(
        {norm.name: foreign.name for norm, foreign in pairs},
        tuple(_notes(pairs, momentum)),
        None if data is None else _difference(model, data, outputs),
    )


def _paired(
    foreign: list[Foreign], norms: tuple[Norm, ...], names: Mapping[str, str] | None
) -> list[tuple[Norm, Foreign]]:
    if not norms:
        raise InputError(
            "port: `model` must have batch normalization with weights. Received: a model without. "
            "Call it on data once, if it was never called."
        )
    if names is None:
        if len(foreign) != len(norms):
            raise InputError(
                "port: `model` must have as many batch norm layers as the source. Received: "
                f"{len(norms)} ({named([norm.name for norm in norms])}), where the source has "
                f"{len(foreign)} ({named([one.name for one in foreign])}). "
                "Pass `names` for those that belong together."
            )
        return list(zip(norms, foreign, strict=True))
    theirs, ours = {one.name: one for one in foreign}, {norm.name: norm for norm in norms}
    for asked, known, side in ((names, ours, "model"), (names.values(), theirs, "source")):
        for name in asked:
            if name not in known:
                raise InputError(
                    f"port: `names` must name batch norm layers of the model and the source. "
                    f"Received: {name!r}, where the {side} has {named(list(known))}. "
                    "It goes from paths in the model to names in the source."
                )
    return [(ours[path], theirs[name]) for path, name in names.items()]


def _checked(norm: Norm, foreign: Foreign, epsilon: float | None) -> float:
    """Return the epsilon that a layer gets, if what it gets fits."""
    if norm.channels != foreign.channels:
        raise InputError(
            f"port: `model` must have the source's numbers of channels. Received: {norm.name} of "
            f"{norm.channels}, where {foreign.name} has {foreign.channels}. "
            "The order may be another one: pass `names`."
        )
    if norm.renorm:
        raise InputError(
            f"port: `model` must normalize by batches in training. Received: {norm.name}, which "
            "uses renorm. Port into plain layers, and use from_keras with Renormalization then."
        )
    for name, neutral in (("gamma", 1.0), ("beta", 0.0)):
        value = getattr(foreign, name)
        lacks = getattr(norm, name) is None
        if lacks and value is not None and not np.all(value == neutral):
            raise InputError(
                f"port: `model` must have the {name} of the source. Received: {norm.name} without, "
                f"where {foreign.name} has one. Make the layer with "
                f"{'scale' if name == 'gamma' else 'center'}=True."
            )
    number = foreign.epsilon if epsilon is None else epsilon
    if number is None:
        raise InputError(
            f"port: `epsilon` must be given where the source does not say it. Received: "
            f"{foreign.name} without. Pass the number it was trained with; the default is 1e-5 in "
            f"{foreign.library}."
        )
    return float(number)


def _fill(norm: Norm, foreign: Foreign) -> None:
    layer = norm.layer
    for name, neutral in (("gamma", 1.0), ("beta", 0.0)):
        weight, value = getattr(layer, name), getattr(foreign, name)
        if weight is not None:
            weight.assign(np.full(weight.shape, neutral) if value is None else value)
    layer.moving_mean.assign(foreign.mean)
    layer.moving_variance.assign(foreign.variance)
    if norm.is_ours:
        dtype = layer.moving_mean.dtype
        mean, variance = (keras.ops.cast(part, dtype) for part in (foreign.mean, foreign.variance))
        layer.take_statistics((mean, variance))


def _notes(pairs: list[tuple[Norm, Foreign]], momentum: float | None) -> list[str]:
    drifting = [
        norm.name
        for norm, foreign in pairs
        if foreign.keeps_unbiased_variance != norm.policy.keeps_unbiased_variance
        and isinstance(norm.policy, ExponentialMovingAverage)
    ]
    silent = [norm.name for norm, foreign in pairs if foreign.momentum is None and momentum is None]
    notes = []
    if drifting:
        notes.append(
            f"Trained on, the moving variance of {named(drifting)} goes from one kind to the "
            "other, biased or unbiased, n/(n-1) apart: inference is the same until then."
        )
    if silent:
        notes.append(
            f"The source says no momentum; {named(silent)} kept what it had. It matters in "
            "training alone."
        )
    return notes


def _difference(model: Any, data: Any, outputs: Any) -> float:
    expected = np.asarray(outputs(data) if callable(outputs) else outputs, np.float64)
    found = np.asarray(keras.ops.convert_to_numpy(model(data, training=False)), np.float64)
    if found.shape != expected.shape:
        raise InputError(
            f"port: `outputs` must have the shape of the model's, {found.shape}. Received: "
            f"outputs.shape={expected.shape}. Bring the channels into Keras's order."
        )
    largest = np.max(np.abs(expected), initial=0.0)
    return float(np.max(np.abs(found - expected), initial=0.0) / (largest or 1.0))
