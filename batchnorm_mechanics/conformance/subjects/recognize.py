"""Take what a user wrote as a subject: by what it is made of, its signature and its behaviour."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.subject import Subject
from batchnorm_mechanics.conformance.subjects.calling import (
    Parameters,
    UntoldError,
    read_parameters,
)
from batchnorm_mechanics.conformance.subjects.form import Form, class_of
from batchnorm_mechanics.conformance.subjects.object_recipe import ClassRecipe
from batchnorm_mechanics.conformance.subjects.pairs import Backward, find_backward
from batchnorm_mechanics.conformance.subjects.roles import OF_FUNCTIONS, Role, plain
from batchnorm_mechanics.conformance.subjects.stateful import Stateful
from batchnorm_mechanics.conformance.subjects.wrapper import wrapper

FORMS = (
    "a layer or module of Keras, PyTorch, flax, Haiku, Sonnet or Equinox, a class that normalizes "
    "when it is called, or a function of x, gamma, beta and the like"
)
# What a function must have one of besides x to be taken for a normalization, or its name must.
_TELLING = {Role.GAMMA, Role.BETA, Role.MEAN, Role.VARIANCE, Role.EPSILON}


def recognize(
    thing: Any,
    name: str,
    *,
    source: str | None = None,
    backward: Callable[..., Any] | None = None,
) -> Subject:
    """Return a thing as a subject.

    Args:
        thing: class, object or function.
        name: what tables call it.
        source: where it came from.
        backward: its backward pass, if one is named.

    Raises:
        InputError: it cannot be told what it takes; the message shows a function to wrap it in.
    """
    try:
        if inspect.isroutine(thing) or _is_function(thing):
            return _function(thing, name, source, backward)
        return _object(thing, name, source)
    except UntoldError as error:
        advice = "Wrap it in one of these."
        if error.wrappable:
            advice = f"Wrap it, as `bnm conform --wrap` does:\n\n{wrapper(thing, error.found)}"
        raise InputError(
            f"conform: `subject` must be {FORMS}. Received: subject={name!r}, {error}. {advice}"
        ) from error


def wrapped(thing: Any, name: str, module: str) -> str:
    """Return a file with a function to be completed that the judge takes, around a thing.

    Args:
        thing: class, object or function.
        name: what it is called in its module.
        module: from which it can be imported.
    """
    found: Mapping[Role, str] = {}
    try:
        if isinstance(thing, type):
            found = ClassRecipe(thing).names
        elif inspect.isroutine(thing):
            found = read_parameters(thing, OF_FUNCTIONS).names
    except UntoldError as error:
        found = error.found
    return wrapper(thing, found, name=name, imported=f"from {module} import {name}") + "\n"


def _is_function(thing: Any) -> bool:
    """Return whether something is a function that another library has wrapped."""
    of_class = thing.func if isinstance(thing, partial) else thing
    if isinstance(of_class, type):
        return False
    wrapped = hasattr(thing, "__wrapped__") or isinstance(thing, partial)
    return wrapped and callable(thing)


def _function(
    function: Callable[..., Any],
    name: str,
    source: str | None,
    backward: Callable[..., Any] | None,
) -> Subject:
    from batchnorm_mechanics.conformance.subjects.function import Function

    parameters = read_parameters(function, OF_FUNCTIONS)
    if not _normalizes(function, parameters):
        raise UntoldError("of which nothing says that it normalizes", parameters.names)
    partner = find_backward(function) if backward is None else Backward(backward)
    return Function(name, function, parameters, backward=partner, source=source)


def _normalizes(function: Callable[..., Any], parameters: Parameters) -> bool:
    called = plain(getattr(function, "__name__", ""))
    named = "norm" in called or called.startswith("bn") or called.endswith("bn")
    return named or bool(_TELLING & parameters.names.keys()) or bool(parameters.records)


def _object(thing: Any, name: str, source: str | None) -> Subject:
    modules = _modules(thing)
    if any(each.partition(".")[0] == "keras" for each in modules):
        import keras

        from batchnorm_mechanics.conformance.subjects.keras_layer import KerasLayer

        if isinstance(thing, keras.layers.Layer) or (
            isinstance(thing, type) and issubclass(thing, keras.layers.Layer)
        ):
            return KerasLayer(name, thing, source=source)
    return Stateful(name, _form(thing, modules), source=source)


def _form(thing: Any, modules: set[str]) -> Form:
    if any(each.partition(".")[0] in ("flax", "equinox", "haiku") for each in modules):
        from batchnorm_mechanics.conformance.subjects.jax_forms import form_of

        found = form_of(thing, modules)
        if found is not None:
            return found
    from batchnorm_mechanics.conformance.subjects.objects import ObjectForm

    return ObjectForm(thing)


def _modules(thing: Any) -> set[str]:
    """Return the names of the modules that a thing's classes come from."""
    return {each.__module__ for each in class_of(thing).__mro__}
