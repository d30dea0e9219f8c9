"""What a model's weights and its optimizer tell of its training."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.doctor.checks.reach import reach_of, steps_of
from batchnorm_mechanics.doctor.structure.marks import estimated_in
from batchnorm_mechanics.doctor.structure.norms import Norm, Vector

# Layers that are linear in their input, and begin with a bias of zero unless told otherwise.
LINEAR = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_USUAL = {keras.initializers.Zeros: 0.0, keras.initializers.Ones: 1.0}


@dataclass(frozen=True)
class Past:
    """How a model was trained, as far as it can be seen.

    Attributes:
        steps: of the model's own optimizer; 0 where it has none or has taken none.
        moved: whether any weight whose start is known has left it.
        ema_momentum: of the averages of the weights that are in the weights' place; None where
            there are none.
        estimated: paths of layers whose statistics were estimated anew since.
        came_from_afar: whether a gamma or beta is farther from its start than the steps reach at
            their learning rate, so that it was trained before them; False where that is not known.
    """

    steps: int
    moved: bool
    ema_momentum: float | None
    estimated: frozenset[str] = frozenset()
    came_from_afar: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether anything was trained, by this optimizer or before."""
        return self.steps > 0 or self.moved


@dataclass(frozen=True, eq=False)
class Start:
    """What a batch norm layer's weights were before training; gamma and beta may be None."""

    mean: Vector
    variance: Vector
    gamma: Vector | None
    beta: Vector | None


def past_of(model: Any, norms: tuple[Norm, ...]) -> Past:
    """Return what can be seen of a model's training.

    Args:
        model: any Keras model, compiled or not.
        norms: its batch norm layers.
    """
    optimizers = _optimizers_of(model)
    steps = max((steps_of(optimizer) for optimizer in optimizers), default=0)
    averaging = [optimizer for optimizer in optimizers if steps and _averages_in_place(optimizer)]
    return Past(
        steps=steps,
        moved=any(not at_start(norm) or affine_moved(norm) for norm in norms) or _bias_moved(model),
        ema_momentum=float(averaging[0].ema_momentum) if averaging else None,
        estimated=estimated_in(model),
        came_from_afar=len(optimizers) == 1 and _came_from_afar(optimizers[0], norms),
    )


def start_of(norm: Norm) -> Start:
    """Return what a layer's own initializers begin with, as float64 of shape (channels,)."""
    layer = norm.layer
    return Start(
        mean=_begun(layer.moving_mean, layer.moving_mean_initializer),
        variance=_begun(layer.moving_variance, layer.moving_variance_initializer),
        gamma=None if layer.gamma is None else _begun(layer.gamma, layer.gamma_initializer),
        beta=None if layer.beta is None else _begun(layer.beta, layer.beta_initializer),
    )


def _begun(weight: Any, initializer: Any) -> Vector:
    # The usual ones, without TensorFlow's operations: rules are checked after each epoch.
    for kind, number in _USUAL.items():
        if type(initializer) is kind:
            return np.full(tuple(weight.shape), number)
    # In the weight's own type: float16 rounds a start of 0.1.
    value = initializer(tuple(weight.shape), dtype=weight.dtype)
    return np.asarray(keras.ops.convert_to_numpy(value), np.float64)


def mean_at_start(norm: Norm) -> bool:
    """Whether the moving mean is exactly what it began with, in all channels."""
    return np.array_equal(norm.mean, start_of(norm).mean)


def variance_at_start(norm: Norm) -> bool:
    """Whether the moving variance is exactly what it began with, in all channels."""
    return np.array_equal(norm.variance, start_of(norm).variance)


def at_start(norm: Norm) -> bool:
    """Whether both moving statistics are exactly what they began with, in all channels."""
    return mean_at_start(norm) and variance_at_start(norm)


def affine_moved(norm: Norm) -> bool:
    """Whether gamma or beta has left its start in any channel."""
    start = start_of(norm)
    pairs = ((norm.gamma, start.gamma), (norm.beta, start.beta))
    return any(
        now is not None and begun is not None and not np.array_equal(now, begun, equal_nan=True)
        for now, begun in pairs
    )


def _came_from_afar(optimizer: Any, norms: tuple[Norm, ...]) -> bool:
    pairs = [
        (now, begun)
        for norm, start in ((norm, start_of(norm)) for norm in norms)
        for now, begun in ((norm.gamma, start.gamma), (norm.beta, start.beta))
        # What begins at random began elsewhere.
        if now is not None and begun is not None and np.ptp(begun) == 0 and np.isfinite(now).all()
    ]
    if not pairs:
        return False
    reach = reach_of(optimizer, largest=max(float(np.abs(pair).max()) for pair in pairs))
    if reach is None:
        return False
    # Rounding, of weights and of steps, is some millionths of them.
    return max(float(np.abs(now - begun).max()) for now, begun in pairs) > 1.001 * reach + 1e-6


def _bias_moved(model: Any) -> bool:
    for layer in model._flatten_layers(include_self=True, recursive=True):
        if not (isinstance(layer, LINEAR) and getattr(layer, "bias", None) is not None):
            continue
        begins_at_zero = isinstance(layer.bias_initializer, keras.initializers.Zeros)
        if begins_at_zero and np.any(keras.ops.convert_to_numpy(layer.bias)):
            return True
    return False


def _optimizers_of(model: Any) -> list[Any]:
    """Return the optimizers of a compiled model, those within a scaling or a multiple one."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    parts = getattr(optimizer, "optimizers", [optimizer])
    return [part for part in parts if isinstance(part, keras.optimizers.Optimizer)]


def _averages_in_place(optimizer: Any) -> bool:
    """Whether the weights are, number for number, the averages that the optimizer keeps."""
    if not (optimizer.use_ema and optimizer.built and optimizer.ema_momentum > 0):
        return False
    pairs = [
        (weight, average)
        for weight, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        if average is not None
    ]
    return bool(pairs) and all(
        np.array_equal(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(average))
        for weight, average in pairs
    )
