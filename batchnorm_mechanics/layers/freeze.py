"""`freeze` keeps the statistics, gamma and beta of batch norm as they are in `fit`; `unfreeze`."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.words import named
from batchnorm_mechanics._keras import layers_by_path
from batchnorm_mechanics._keras_training import trained_by
from batchnorm_mechanics.layers.accelerate import checked_layers_in
from batchnorm_mechanics.layers.batch_normalization import BatchNormalization
from batchnorm_mechanics.layers.compiled import renew_compiled_functions
from batchnorm_mechanics.layers.intercept import stand_before, stands_before, step_aside

_KINDS = (keras.layers.BatchNormalization, BatchNormalization)


@dataclass(frozen=True)
class Frozen:
    """What `fit` does with the batch norm layers of a model after `freeze` or `unfreeze`.

    Attributes:
        by_moving_statistics: paths of the layers that normalize by their moving statistics, which
            stay as they are.
        by_batch: of those that normalize by each batch, by which their statistics move.
        training: of those whose gamma or beta is trained.
        notes: what else is to be known, in sentences.
    """

    by_moving_statistics: tuple[str, ...]
    by_batch: tuple[str, ...]
    training: tuple[str, ...]
    notes: tuple[str, ...] = ()
    _undo: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def __str__(self) -> str:
        """Return it in sentences."""
        fixed, moving, train = self.by_moving_statistics, self.by_batch, self.training
        total = len(fixed) + len(moving)
        all_of = "the batch norm layer" if total == 1 else f"all {total} batch norm layers"
        by_moving, by_batch = (
            "by moving statistics, which stay as they are",
            "by batches, which move the statistics",
        )
        if fixed and moving:
            words = (
                f"{len(fixed)} of {total} batch norm layers {by_moving}, and {len(moving)} "
                f"{by_batch} ({named(moving)})"
            )
        else:
            words = f"{all_of} {by_batch if moving else by_moving}"
        if len(train) in (0, total):
            which = "gamma and beta" if train else "neither gamma nor beta"
        else:
            which = f"gamma and beta of {len(train)} ({named(train)})"
        return " ".join([f"`fit` now normalizes {words}; it trains {which}.", *self.notes])

    def undo(self) -> None:
        """Have each layer again do what it did before, whatever that was."""
        self._undo()


def freeze(
    model: keras.Layer,
    *,
    statistics: bool = True,
    parameters: bool = True,
    only: Sequence[str] | str | None = None,
) -> Frozen:
    """Keep statistics, or gamma and beta, or both, of batch norm as they are in `fit`, in place.

    Frozen statistics are used, too: the layer normalizes by them in training as in inference. That
    is what fine-tuning on few samples wants. Nothing that was frozen before is let loose.

    A compiled model takes the change with its next step, and need not be compiled anew.

    Args:
        model: any Keras model, or a layer; nested models, wrappers and layers with code of their
            own included. Keras's layers, accelerated or not, and ours.
        statistics: whether moving mean and variance are used and kept.
        parameters: whether gamma and beta are kept.
        only: paths of the layers to freeze, as in `diagnose`, such as "encoder/bn_1"; that of a
            model within stands for all in it. By default all.

    Returns:
        `Frozen`, which prints as what `fit` will now do. Its `undo()` takes this back.

    Raises:
        TypeError: `model` is no Keras model or layer.
        InputError: it has no batch norm, `only` names none, nothing is to be frozen, or gamma and
            beta alone are and are not there yet.

    Numerics:
        Frozen by both, a layer has `trainable=False`, which a saved file holds. By one alone no
        file holds it, since Keras has no such thing: the statistics are frozen by what stands
        before the layer's `call` in this process, gamma and beta by the flags of the weights.
        Freeze again what you load or clone.

    Example:
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((2,)), layer, keras.layers.Dense(1)])
        >>> frozen = freeze(model, parameters=False)
        >>> frozen.by_moving_statistics, frozen.training
        (('bn',), ('bn',))
        >>> frozen.undo(), freeze(model).training, layer.trainable
        (None, (), False)
    """
    chosen = _chosen(model, only, caller="freeze")
    if not (statistics or parameters):
        raise InputError(
            "freeze: `statistics` or `parameters` must be True. Received: statistics="
            f"{statistics!r}, parameters={parameters!r}. Use unfreeze to let layers loose."
        )
    states = [_State.of(layer) for layer in chosen.values()]
    for path, layer in chosen.items():
        if statistics and parameters:
            layer.trainable = False
        elif statistics:
            freeze_statistics_of(layer)
        elif not layer.built:
            raise InputError(
                "freeze: `model` must have weights where gamma and beta alone are frozen. "
                f"Received: {path}, which is not built. Call the model on data once."
            )
        else:
            for weight in _parameters_of(layer):
                weight.trainable = False
    lost = "No file holds this: freeze again what you load."
    return _changed(model, states, () if statistics and parameters else (lost,))


def unfreeze(model: keras.Layer, *, only: Sequence[str] | str | None = None) -> Frozen:
    """Have batch norm normalize by batches and train gamma and beta in `fit`, in place.

    It lets everything loose, whoever froze it; `freeze(...).undo()` goes back to what was before.

    Args:
        model: as for `freeze`.
        only: likewise.

    Returns:
        `Frozen`, which prints as what `fit` will now do. Its `undo()` takes this back.

    Raises:
        TypeError, InputError: as `freeze`.

    Example:
        >>> layer = keras.layers.BatchNormalization(name="bn", trainable=False)
        >>> print(unfreeze(keras.Sequential([keras.layers.Input((2,)), layer])))
        `fit` now normalizes the batch norm layer by batches, which move the statistics; it trains \
gamma and beta.
    """
    chosen = _chosen(model, only, caller="unfreeze")
    states = [_State.of(layer) for layer in chosen.values()]
    for layer in chosen.values():
        layer.trainable = True
        # Keras hands the flag down only where it changes.
        for weight in _parameters_of(layer):
            weight.trainable = True
        step_aside(layer, _by_moving_statistics)
    return _changed(model, states)


def follows_batches(layer: Any) -> bool:
    """Return whether a batch norm layer that is called in training normalizes by the batch."""
    return bool(layer.trainable) and not statistics_are_frozen(layer)


def statistics_are_frozen(layer: Any) -> bool:
    """Return whether `freeze` keeps the statistics of a layer, and not gamma and beta."""
    return stands_before(layer, _by_moving_statistics)


def freeze_statistics_of(layer: Any) -> None:
    """Have a layer infer in training, while its gamma and beta are trained."""
    if not statistics_are_frozen(layer):
        stand_before(layer, _by_moving_statistics)


def _by_moving_statistics(call: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a layer in inference; Keras takes `training` by name alone."""
    return call(inputs, *args, **{**kwargs, "training": False})


@dataclass(frozen=True)
class _State:
    """What a layer was like, to be like that again."""

    layer: Any
    trainable: bool
    weights: tuple[tuple[Any, bool], ...]
    frozen: bool

    @classmethod
    def of(cls, layer: Any) -> "_State":
        weights = tuple((weight, weight.trainable) for weight in _parameters_of(layer))
        return cls(layer, layer.trainable, weights, statistics_are_frozen(layer))

    def put_back(self) -> None:
        self.layer.trainable = self.trainable
        for weight, trainable in self.weights:
            weight.trainable = trainable
        if self.frozen:
            freeze_statistics_of(self.layer)
        else:
            step_aside(self.layer, _by_moving_statistics)


def _parameters_of(layer: Any) -> list[Any]:
    return [weight for weight in (layer.gamma, layer.beta) if weight is not None]


def _chosen(model: Any, only: Sequence[str] | str | None, *, caller: str) -> dict[str, Any]:
    """Return layers by their paths, those that were asked for, in the order of the model."""
    checked_layers_in(model, caller=caller)
    found = _norms(model)
    if not found:
        raise InputError(
            f"{caller}: `model` must have batch normalization. Received: a model without. "
            "There is nothing to freeze or to let loose."
        )
    if only is None:
        return found
    chosen: set[str] = set()
    for one in [only] if isinstance(only, str) else only:
        paths = [path for path in found if path == one or path.startswith(f"{one}/")]
        if not paths:
            close = difflib.get_close_matches(str(one), found, n=1) or list(found)[:1]
            raise InputError(
                f"{caller}: `only` must name batch norm layers of the model, or models in it. "
                f"Received: {one!r}. Did you mean {close[0]!r}?"
            )
        chosen.update(paths)
    if not chosen:
        raise InputError(
            f"{caller}: `only` must name a layer. Received: only={only!r}. Leave it out for all."
        )
    return {path: layer for path, layer in found.items() if path in chosen}


def _norms(model: Any) -> dict[str, Any]:
    return layers_by_path(model, lambda layer: isinstance(layer, _KINDS))


def _changed(model: Any, before: list[_State], notes: tuple[str, ...] = ()) -> Frozen:
    """Have a model take changes with its next step, and say what that does."""

    def undo() -> None:
        for state in before:
            state.put_back()
        renew_compiled_functions(model)

    renew_compiled_functions(model)
    norms = _norms(model)
    follow = {path: follows_batches(layer) for path, layer in norms.items()}
    train = {path: _trains(model, layer) for path, layer in norms.items()}
    return Frozen(
        tuple(path for path in norms if not follow[path]),
        tuple(path for path in norms if follow[path]),
        tuple(path for path in norms if train[path]),
        (*_strange_to_the_optimizer(model, [norms[path] for path in norms if train[path]]), *notes),
        undo,
    )


def _trains(model: Any, layer: Any) -> bool:
    if not (model.trainable and layer.trainable):
        return False
    if not layer.built:
        return bool(layer.scale or layer.center)
    return any(weight.trainable for weight in _parameters_of(layer))


def _strange_to_the_optimizer(model: Any, trained: list[Any]) -> tuple[str, ...]:
    """Say that an optimizer was made for fewer weights than are to be trained now, if it was."""
    known = {id(weight) for weight in trained_by(getattr(model, "optimizer", None))}
    if not known:
        return ()
    strange = [w for layer in trained for w in _parameters_of(layer) if id(w) not in known]
    if not strange:
        return ()
    return (
        f"Compile the model before: its optimizer was made without {len(strange)} of the weights "
        "that are to be trained, and refuses them.",
    )
