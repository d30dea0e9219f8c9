"""`fold` merges batch norm into the layers around it, for a model that predicts faster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.json import plain
from batchnorm_mechanics._io.terminal import Shown, plain_text
from batchnorm_mechanics._keras import functional_of, layers_in
from batchnorm_mechanics._tensorflow import missing_kernel
from batchnorm_mechanics.folding.comparing import (
    explained_by,
    first_batches,
    largest_difference,
    random_inputs,
    rounding_of,
    times_as_fast,
)
from batchnorm_mechanics.folding.plan import FoldPlan, plan_of, tolerance_of
from batchnorm_mechanics.folding.taking import Taken, settings_of, store
from batchnorm_mechanics.models.data import DEFAULT_BATCH_SIZE, as_data, check_batch_size
from batchnorm_mechanics.models.fitting import check_names
from batchnorm_mechanics.models.model_copies import Copied, Edits, copied
from batchnorm_mechanics.models.wiring import graph_of

# Batches of given data on which outputs are compared.
_BATCHES = 32
# What Keras and TensorFlow raise where a model cannot run.
_FAILURES = (ValueError, tf.errors.OpError)


@dataclass(frozen=True, eq=False, repr=False)
class Folded(Shown):
    """A model without the batch norms that could be merged, and what came of it.

    Attributes:
        model: the new model, not compiled.
        count: how many batch norm layers were merged.
        left: by path of each other batch norm layer, why it stays.
        difference: the largest difference of an output from the original's, relative to the largest
            value of that output; the larger of those on random and on given data. None where
            `unverified` says why the two could not be run. Infinite where
            there is nothing to compare with: a weight or an output of the original is NaN. NaN that
            it makes of random data alone, as a logarithm does, does not count if data are given.
        tolerance: what rounding explains of it: 1e-4, or 16 units in the last place of the coarsest
            dtype that the model computes in, if that is more. Where `rounding` was measured, 4
            times that, but no more than 0.05, if this is more still.
        samples: how many samples of given data were compared; random ones come on top.
        speed: how many times as fast the new model predicts one batch; None if nothing was merged,
            or nothing could be run.
        batch_size: of that batch.
        notes: what the new model could not take along of the old one, in sentences.
        rounding: how far the outputs of the original itself move when its weights are moved by one
            unit in the last place; None where the difference needs no such explanation.
        unverified: why the two models were not compared, in a sentence; None where they were. What
            is merged is exact all the same, by the arithmetic of the layers.
        kinds: by path of each layer in `left`, its reason by the kinds of the layers beside it
            instead of their names: one for all blocks that are built alike.
    """

    model: Any
    count: int
    left: Mapping[str, str]
    difference: float | None
    tolerance: float
    samples: int
    speed: float | None
    batch_size: int
    notes: tuple[str, ...] = ()
    rounding: float | None = None
    unverified: str | None = None
    kinds: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def agrees(self) -> bool | None:
        """Whether the difference is one that rounding explains; None where it is not known."""
        return None if self.difference is None else self.difference <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """Return all but the model, as `bnm fold --json` prints it."""
        return {
            "model": self.model.name,
            "count": self.count,
            "left": dict(self.left),
            "difference": plain(self.difference),
            "tolerance": self.tolerance,
            "rounding": plain(self.rounding),
            "agrees": self.agrees,
            "unverified": self.unverified,
            "samples": self.samples,
            "speed": self.speed,
            "batch_size": self.batch_size,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        # Here: only what is printed needs it.
        from batchnorm_mechanics.folding.showing import print_fold

        return plain_text(lambda console: print_fold(self, console))

    @property
    def summary(self) -> str:
        """How many layers were merged, in one line."""
        many = self.count + len(self.left)
        merged = f"{self.count} of {many} batch norm layers merged"
        return f"{self.model.name}: {merged if many else 'no batch norm layer'}"


def fold(model: Any, data: Any = None, *, batch_size: int = DEFAULT_BATCH_SIZE) -> Folded:
    """Merge batch norm into the layers around it and return a new model for prediction.

    Implements: Alg. 2, l. 11, with the layer before it, which becomes one layer with it.

    A batch norm goes into the Dense, EinsumDense, Conv, DepthwiseConv, SeparableConv or
    ConvTranspose layer before it if nothing else uses that layer's output; failing that, into all
    such layers after it, if it is exact in each. It may stand on the other side of layers that do
    nothing in inference, such as Dropout, and of those past which a scale and an offset can be
    moved: average pooling, global or not, upsampling (nearest or bilinear), cropping, Flatten,
    Reshape and Permute; a scale alone goes past ZeroPadding. They stay. What `TimeDistributed`
    calls for each step is folded likewise, and so are a layer and its norm that are shared by
    several calls, and models within models. What cannot go stays as it is.

    Args:
        model: a functional or sequential Keras model with weights. It is left as it is.
        data: samples for the comparison, in any form that `diagnose` takes; of many, the first 32
            batches are used. Random ones are used in any case.
        batch_size: of arrays, of the random data and of the batch that is timed.

    Returns:
        `Folded`: the new model, how many layers it has less, why others stay, how far its outputs
        are from the original's and how much faster it is; `unverified` where this machine, or what
        data there are, cannot run the model. Layers keep their names and settings. A
        layer that took a batch norm in has a bias, and no regularizer or constraint: those were
        meant for its old weights. The model is for prediction; trained on, it has no batch
        statistics.

    Raises:
        InputError: `model` is subclassed or has no weights yet, a layer cannot be copied, or the
            data are empty or do not fit it.

    Numerics:
        Weights are merged in float64 and rounded once, to the dtype of the layer's variables. The
        statistics are those that inference uses, whichever variance they hold. Sums come in another
        order than in the original, and a deep model can make much of that: where outputs differ by
        more than the dtype explains, the model's own rounding is measured on the batch where they
        differ most, by a copy with every weight moved up or down by a unit in the last place
        (three times, seeded). A right fold stays within 4 times that. Beyond 0.05 nothing is
        explained.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.layers.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
        ... )
        >>> folded = fold(model)
        >>> folded.count, len(folded.model.layers), folded.agrees
        (1, 1, True)
    """
    _check(model)
    check_batch_size(batch_size, caller="fold")
    given = None if data is None else as_data(data, batch_size=batch_size, caller="fold")
    first = None if given is None else next(first_batches(given, 1), None)
    if given is not None and first is None:
        raise InputError(
            f"fold: `data` must hold at least one batch. Received: data={data!r}, which is empty. "
            "Leave it out to compare on random data alone."
        )
    plan = plan_of(model)
    copy = rewritten(model, plan)
    new = copy.model
    # Otherwise the one could run under XLA and the other not, and the times would say nothing.
    new.run_eagerly, new.jit_compile = model.run_eagerly, model.jit_compile
    # As many as are given: another size would be another trace of both models.
    rows = batch_size if first is None else len(keras.tree.flatten(first)[0])
    made = random_inputs(model, rows, like=first)
    difference, worst, unverified = None, made, None
    try:
        difference = largest_difference(model, new, made)
    except _FAILURES as error:
        unverified = _why_not_run(error, model, made, has_data=given is not None)
    samples = 0
    for inputs in () if given is None else first_batches(given, _BATCHES):
        try:
            found = largest_difference(model, new, inputs)
        except _FAILURES as error:
            if unverified is not None:
                break
            raise InputError(
                "fold: `data` must be what the model can run on. Received: data on which it failed "
                f"({first_line(error)}). Prepare them as in training."
            ) from error
        unverified = None
        if found is None:
            found = float("inf")
        if difference is None or found > difference:
            difference, worst = found, inputs
        samples += len(keras.tree.flatten(inputs)[0])
    if unverified is None and (difference is None or plan.is_undefined):
        # Not left to the outputs: kernels that make NaN 0 in a ReLU would hide in both models what
        # others show, and the decision would hang on the processor.
        difference = float("inf")
    tolerance, rounding = max(map(tolerance_of, _dtypes(model))), None
    if difference is not None and tolerance < difference < float("inf"):
        rounding = rounding_of(model, worst)
        tolerance = max(tolerance, explained_by(rounding))
    timed = made if first is None else first
    return Folded(
        model=new,
        count=len(plan.folded),
        left=plan.left,
        difference=difference,
        tolerance=tolerance,
        samples=samples,
        speed=times_as_fast(model, new, timed) if plan.folded and not unverified else None,
        batch_size=rows,
        notes=copy.lost,
        rounding=rounding,
        unverified=unverified,
        kinds=plan.kinds,
    )


def rewritten(model: Any, plan: FoldPlan) -> Copied:
    """Return a new model with the weights of a plan and copies of all others.

    Args:
        model: functional or sequential.
        plan: made for this model.

    Returns:
        A model of the same kind, with the class of the old one where its constructor is Keras's.
        Layers keep their names, settings, types of numbers and `trainable`; those with new weights
        have no regularizer or constraint, which were meant for the old ones.

    Raises:
        InputError: a layer cannot be copied.
    """
    settings = {
        id(layer): _settings(layer.get_config(), plan.weights[id(layer)])
        for layer in layers_in(model)
        if id(layer) in plan.weights
    }
    new = copied(model, Edits(left_out=plan.left_out, settings=settings), caller="fold")
    for key, weights in plan.weights.items():
        (layer,) = new.of[key]
        store(layer, weights)
    return new


def _settings(config: dict[str, Any], weights: Taken) -> dict[str, Any]:
    """Return what changes in the configuration of a layer that takes a batch norm in."""
    unset = {name: None for name in config if name.endswith(("_regularizer", "_constraint"))}
    return {**unset, **settings_of(weights)}


def _check(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise InputError(
            f"fold: `model` must be a Keras model. Received: model={model!r}. "
            "Put a layer into a keras.Sequential with an Input."
        )
    if isinstance(model, keras.Sequential) and functional_of(model) is None:
        raise InputError(
            f"fold: `model` must have weights. Received: model={model!r}, which is not built. "
            "Call it on data first, or begin it with keras.layers.Input."
        )
    if graph_of(model) is None:
        raise InputError(
            f"fold: `model` must be functional or sequential. Received: model={model!r}. The code "
            f"of {type(model).__name__}.call calls its layers, and no layer can be taken out of "
            "that; fold the functional models in it by themselves."
        )
    check_names(model, "fold")


def _why_not_run(error: Exception, model: Any, made: Any, *, has_data: bool) -> str:
    """Return why a model that fails on random data cannot be run.

    Raises:
        InputError: it may run on others, and there are none.
    """
    if isinstance(error, tf.errors.ResourceExhaustedError):
        raise error
    if (missing := missing_kernel(error, "fold")) is not None:
        return f"this machine cannot run {str(missing).partition('Received: ')[2]}"
    open_sizes = [tuple(one.shape) for one in model.inputs if None in one.shape[1:]]
    if not has_data and open_sizes:
        sizes = [tuple(part.shape) for part in keras.tree.flatten(made)]
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"fold: `data` must be given for a model whose inputs have open sizes, "
            f"{open_sizes}, and that fails on random data of sizes {sizes}. "
            f"Received: data=None, and {reason}. Give a batch that the model predicts."
        ) from error
    return (
        f"the model fails here on random data ({first_line(error)}). "
        "Give data that it runs on, or compare the two where it runs."
    )


def _dtypes(model: Any) -> set[str]:
    """Return the floating types that a model computes in, float32 if there are none."""
    found = {layer.compute_dtype for layer in layers_in(model)}
    return {dtype for dtype in found if dtype and "float" in dtype} or {"float32"}
