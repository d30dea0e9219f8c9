"""One layer like another: first its settings, and when the copy is built, what it holds."""

import contextlib
import inspect
import re
import tempfile
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import layers_in, output_shape_of
from batchnorm_mechanics.layers import accelerate
from batchnorm_mechanics.layers.freeze import freeze_statistics_of, statistics_are_frozen
from batchnorm_mechanics.layers.intercept import own_call
from batchnorm_mechanics.models.wiring import method_of_its_own

# Of Keras's reason, which may hold a whole configuration.
_LONGEST = 200
_COLOUR = re.compile(r"\x1b\[\d*m")


def copy_of(layer: Any, settings: Mapping[str, Any], *, caller: str) -> Any:
    """Return a layer or operation with the same settings, still without weights.

    Args:
        layer: of any class that has `get_config` and `from_config`.
        settings: those that shall be other.
        caller: the function to name in an error.

    Raises:
        InputError: it cannot be copied.

    Example:
        >>> copy = copy_of(keras.layers.Dense(2, name="dense"), {"use_bias": False}, caller="fold")
        >>> copy.name, copy.units, copy.use_bias
        ('dense', 2, False)
    """
    _check_own_call(layer, caller)
    # Its configuration holds Python code, which Keras runs only when it is told to; here the
    # function is at hand.
    if type(layer) is keras.layers.Lambda:
        return keras.layers.Lambda(
            layer.function,
            output_shape=output_shape_of(layer),
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
        )
    with naming(layer, caller), at_hand(_held_by(layer)):
        config = {name: _live(layer, name, of) for name, of in layer.get_config().items()}
        copy = type(layer).from_config({**config, **settings})
    if "name" not in settings:
        # A configuration that Keras made of a constructor's keywords lacks it.
        copy.name = layer.name
    if isinstance(layer, keras.Layer):
        # Now, since the first call asks for them.
        _copy_what_no_configuration_holds(layer, copy)
    return copy


def fill(layer: Any, copy: Any, *, apart: Collection[int] = (), caller: str) -> None:
    """Give a copy the weights, seeds, flags and other state of a layer.

    Args:
        layer: no functional or sequential model.
        copy: made by `copy_of`, and built.
        apart: ids of layers, itself or some that it holds, whose own weights are not to be copied,
            since they may not fit.
        caller: the function to name in an error.

    Raises:
        InputError: the copy is made of other parts, or shares some with the layer.
    """
    layers, copies = layers_in(layer), layers_in(copy)
    if {id(part) for part in (*layers, *layer.variables)} & {
        id(part) for part in (*copies, *copy.variables)
    }:
        raise _refusal(
            layer,
            "whose copy shares layers or weights with it. "
            "Have `get_config` return `keras.saving.serialize_keras_object` of what it holds.",
            caller,
        )
    refitted = any(id(part) in apart for part in layers)
    if not refitted and _parts(layer) != _parts(copy):
        raise _refusal(
            layer,
            "whose copy has other layers or weights in it. "
            "Let them depend on nothing but `get_config` and the shape of the input.",
            caller,
        )
    for old, new in zip(layers, copies, strict=True):
        new.trainable = old.trainable
        _copy_what_no_configuration_holds(old, new)
    # An activation can be a layer with weights.
    pairs = zip(layers, copies, strict=True)
    filled = [pair for pair in pairs if id(pair[0]) not in apart] if refitted else [(layer, copy)]
    for source, target in filled:
        both = (_variables(one, own=refitted) for one in (source, target))
        for old, new in zip(*both, strict=True):
            new.assign(old)
            # The flag of a layer is that of all its weights, but single ones can have their own.
            new.trainable = old.trainable
    for old, new in zip(layers, copies, strict=True):
        with naming(layer, caller):
            _copy_state(old, new)
        # What other code has put there was refused before.
        if own_call(old) is not None:
            accelerate(new)
        if statistics_are_frozen(old):
            freeze_statistics_of(new)


@contextlib.contextmanager
def naming(layer: Any, caller: str) -> Iterator[None]:
    """Have any error within say that it is about the copy of a layer.

    Args:
        layer: the original.
        caller: the function to name.

    Raises:
        InputError: something is raised within.
    """
    try:
        yield
    except InputError:
        raise  # It names a layer within this one.
    except Exception as error:
        # Of any type: the code may be the user's.
        said = textwrap.shorten(_told(error), _LONGEST, placeholder="...")
        raise _refusal(layer, f"which said: {said}. Give it both methods.", caller) from error


@contextlib.contextmanager
def at_hand(values: Iterable[Any]) -> Iterator[None]:
    """Let Keras find the functions among values, and the classes of the others, by their names.

    It looks for what a configuration names among its own things, then where it was defined, and
    finds nothing there that was defined within a function, in a notebook, or in a file that
    `--custom` names. Two things of one name are left out, since it could take the wrong one.

    Args:
        values: what a layer or model holds.
    """
    things = {value if inspect.isfunction(value) else type(value) for value in values}
    names = [thing.__name__ for thing in things]
    own = {
        thing.__name__: thing
        for thing in things
        # The module is None where code was run without one.
        if names.count(thing.__name__) == 1 and str(thing.__module__).partition(".")[0] != "keras"
    }
    with warnings.catch_warnings(), keras.saving.custom_object_scope(own):
        # It advises against files with code; nothing goes into a file.
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        yield


def _check_own_call(layer: Any, caller: str) -> None:
    """Refuse a layer in which `call` was replaced on an object, which its class does not tell."""
    for part in layers_in(layer) if isinstance(layer, keras.Layer) else ():
        if own_call(part) is not None and method_of_its_own(part, ("call",)):
            raise _refusal(
                layer,
                f"in which `call` of the object {part.name!r} was replaced. "
                "Put that method into a class, with both of these.",
                caller,
            )


def _live(layer: Any, name: str, value: Any) -> Any:
    """Return what a configuration gives a name; for a `lambda`, which it holds as code, itself."""
    live = getattr(layer, name, None)
    return live if inspect.isfunction(live) and live.__name__ == "<lambda>" else value


def _held_by(layer: Any) -> Iterator[Any]:
    for part in layers_in(layer) if isinstance(layer, keras.Layer) else ():
        yield part
        yield from vars(part).values()


def _copy_what_no_configuration_holds(layer: Any, copy: Any) -> None:
    copy.autocast, copy.supports_masking = layer.autocast, layer.supports_masking


def _parts(layer: Any) -> tuple[list[type], list[tuple[int, ...]]]:
    return (
        [type(part) for part in layers_in(layer)],
        [tuple(variable.shape) for variable in _variables(layer)],
    )


def _variables(layer: Any, *, own: bool = False) -> list[Any]:
    """Return a layer's variables, or those that no layer in it has, in an order of its copy's too.

    Quantized before it is built, a layer makes those of its scales before the others.
    """
    is_quantized = any(getattr(part, "quantization_mode", None) for part in layers_in(layer))
    others = layers_in(layer, itself=False) if own else ()
    theirs = {id(one) for part in others for one in part.variables}
    found = [one for one in layer.variables if id(one) not in theirs]
    return sorted(found, key=lambda one: one.name if is_quantized else "")


def _copy_state(layer: Any, copy: Any) -> None:
    """Copy what a layer holds besides variables, by the methods with which Keras writes files."""
    has_assets = hasattr(layer, "save_assets")
    if (
        has_assets
        or isinstance(layer, keras.layers.Normalization)
        or method_of_its_own(layer, ("load_own_variables",))
    ):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        copy.load_own_variables(store)
    if has_assets:
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)


def _told(error: Exception) -> str:
    """Return the line of an error that says what is wrong."""
    lines = _COLOUR.sub("", str(error)).splitlines()
    lines = [line.strip().rstrip(".") for line in lines if line.strip()]
    # Keras puts the whole configuration before what happened, or the arguments after it.
    cause = [line for line in lines if line.startswith("Exception encountered:")][-1:]
    first = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return (cause or first or [type(error).__name__])[0]


def _refusal(layer: Any, why: str, caller: str) -> InputError:
    return InputError(
        f"{caller}: `model` must consist of layers that Keras can copy by `get_config` and "
        f"`from_config`. Received: the layer {layer.name!r} of class {type(layer).__name__}, {why}"
    )
