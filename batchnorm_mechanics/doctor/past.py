"""What can be told of a model's training: by its weights, its optimizer, and a mark of ours."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._keras import layers_in
from batchnorm_mechanics._keras_training import averages_of, batches_seen
from batchnorm_mechanics.models.mark import estimated_in
from batchnorm_mechanics.models.norms import LINEAR, Norm


@dataclass(frozen=True)
class Past:
    """How a model was trained, as far as it can be seen.

    Attributes:
        steps: of the model's own optimizer; 0 where it has none or has taken none.
        moved: whether any weight whose start is known has left it.
        ema_momentum: of the averages of the weights that are in the weights' place; None where
            there are none.
        estimated: paths of layers whose statistics were estimated anew since.
        batches_a_step: over how many batches the optimizer gathers gradients for one step.
    """

    steps: int
    moved: bool
    ema_momentum: float | None
    estimated: frozenset[str] = frozenset()
    batches_a_step: int = 1

    @property
    def is_trained(self) -> bool:
        """Whether anything was trained, by this optimizer or before."""
        return self.steps > 0 or self.moved


def past_of(model: Any, norms: tuple[Norm, ...]) -> Past:
    """Return what can be seen of a model's training.

    Args:
        model: any Keras model, compiled or not.
        norms: its batch norm layers.
    """
    optimizers = _optimizers_of(model)
    # Those of which gradients were only gathered too. Made under a strategy, a variable is no
    # number by itself.
    seen = (keras.ops.convert_to_numpy(batches_seen(optimizer)) for optimizer in optimizers)
    steps = max(map(int, seen), default=0)
    averaging = [optimizer for optimizer in optimizers if steps and _averages_in_place(optimizer)]
    norms_moved = any(not norm.is_at_start or norm.affine_has_moved for norm in norms)
    return Past(
        steps=steps,
        moved=norms_moved or _bias_moved(model),
        ema_momentum=float(averaging[0].ema_momentum) if averaging else None,
        estimated=estimated_in(model),
        batches_a_step=max(
            (int(one.gradient_accumulation_steps or 1) for one in optimizers), default=1
        ),
    )


def _bias_moved(model: Any) -> bool:
    """Whether a bias that begins at zero, as most do, has left it."""
    return any(
        isinstance(layer, LINEAR)
        and getattr(layer, "bias", None) is not None
        and isinstance(layer.bias_initializer, keras.initializers.Zeros)
        and np.any(keras.ops.convert_to_numpy(layer.bias))
        for layer in layers_in(model)
    )


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
    pairs = [pair for pair in averages_of(optimizer) if pair[1] is not None]
    return bool(pairs) and all(
        np.array_equal(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(average))
        for weight, average in pairs
    )
