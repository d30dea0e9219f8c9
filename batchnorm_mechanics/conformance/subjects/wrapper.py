"""A function of ten lines at most, to be completed, around what could not be recognized."""

import inspect
from collections.abc import Mapping
from typing import Any

from batchnorm_mechanics.conformance.subjects.roles import OF_VARIABLES, Role, find_roles

# What the judge's own function has for each role.
_OURS: Mapping[Role, str] = {
    Role.X: "x",
    Role.GAMMA: "gamma",
    Role.BETA: "beta",
    Role.MEAN: "moving_mean",
    Role.VARIANCE: "moving_variance",
    Role.AXIS: "axis",
    Role.MOMENTUM: "momentum",
    Role.EPSILON: "epsilon",
    Role.TRAINING: "training",
    Role.INFERENCE: "not training",
}
SIGNATURE = "(x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training)"
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def wrapper(
    thing: Any,
    found: Mapping[Role, str],
    *,
    name: str | None = None,
    imported: str | None = None,
) -> str:
    """Return a function that the judge takes, around a thing, as lines of Python.

    Args:
        thing: what is to be wrapped.
        found: the parameters whose role is known.
        name: what it is called where it stands; by default its own name.
        imported: a line that makes it known; None where it stands in the same file.

    Returns:
        The lines, with `...` where something has to be put.

    Example:
        >>> def normalize(x, gamma, foo): ...
        >>> print(wrapper(normalize, {Role.X: "x", Role.GAMMA: "gamma"}))
        def wrapped_normalize(
            x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
        ):
            # Put what is right where there is `...`, and take what moves from what it returns.
            y = normalize(x=x, gamma=gamma, foo=...)
            return y, moving_mean, moving_variance
    """
    name = name or str(getattr(thing, "__name__", type(thing).__name__))
    is_class = isinstance(thing, type)
    if is_class or not inspect.isroutine(thing):
        body = _of_object(thing, name, is_class, found)
    else:
        arguments = _arguments(thing, found)
        body = [f"y = {name}({arguments})", "return y, moving_mean, moving_variance"]
    lines = [
        *([imported, ""] if imported else []),
        f"def wrapped_{name}(",
        f"    {SIGNATURE[1:-1]}",
        "):",
        "    # Put what is right where there is `...`, and take what moves from what it returns.",
        *(f"    {line}" for line in body),
    ]
    return "\n".join(lines)


def _arguments(thing: Any, found: Mapping[Role, str]) -> str:
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return "x, ..."
    ours = {name: _OURS[role] for role, name in found.items() if role in _OURS}
    given = []
    for each in parameters:
        if each.kind in _VARIADIC or (each.name not in ours and each.default is not each.empty):
            continue
        value = ours.get(each.name, "...")
        by_place = each.kind is each.POSITIONAL_ONLY
        given.append(value if by_place else f"{each.name}={value}")
    return ", ".join(given)


def _of_object(thing: Any, name: str, is_class: bool, found: Mapping[Role, str]) -> list[str]:
    made = f"{name}({_arguments(thing, found)})" if is_class else name
    there = _attributes(thing)
    values = ", ".join(_OURS[role] for role in there)
    places = ", ".join(f"layer.{attribute}" for attribute in there.values())
    assigned = [f"{places} = {values}"] if there else ["layer.... = gamma, beta"]
    statistics = [there.get(role) for role in (Role.MEAN, Role.VARIANCE)]
    back = ", ".join(f"layer.{each}" if each else "..." for each in statistics)
    return [
        f"layer = {made}",
        *assigned,
        "layer.training = training  # or as it is told",
        f"return layer(x), {back}",
    ]


def _attributes(thing: Any) -> dict[Role, str]:
    """Return which attributes stand for what: an object's, or those that a class's code sets."""
    if isinstance(thing, type):
        names = getattr(getattr(thing.__init__, "__code__", None), "co_names", ())
    else:
        names = tuple(getattr(thing, "__dict__", ()))
    found = find_roles(dict.fromkeys(names), OF_VARIABLES[::-1])
    return {role: found[role] for role in OF_VARIABLES if role in found}
