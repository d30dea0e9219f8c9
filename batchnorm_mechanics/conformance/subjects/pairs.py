"""The backward pass that belongs to a forward pass, as courses write both."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchnorm_mechanics.conformance.subjects.calling import returned_names
from batchnorm_mechanics.conformance.subjects.roles import (
    OF_FUNCTIONS,
    Role,
    find_roles,
    slope_of,
    stands_for,
)

# What a forward pass's name has, and what its backward's has in that place.
_PARTNERS = (("forward", "backward"), ("fwd", "bwd"), ("forward", "grad"), ("fprop", "bprop"))


class Backward:
    """A function of dy and of what the forward pass has kept, which gives dx, dgamma and dbeta.

    Args:
        function: any such.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", type(function).__name__)
        parameters = inspect.signature(function).parameters
        self._names = [name for name, each in parameters.items() if each.default is each.empty]
        self._returned = returned_names(function)

    def slopes(self, dy: Any, cache: Any, values: Mapping[Role, Any]) -> Mapping[Role, Any]:
        """Return the gradients, by what they are gradients of.

        Args:
            dy: gradient of the output.
            cache: what the forward pass gave besides it.
            values: what the forward pass was given, for a function that takes that again.
        """
        dy_name, *others = self._names
        if not any(stands_for(name, Role.DY) for name in self._names[:1]):
            # Some take what was kept first.
            dy_name = next((n for n in self._names if stands_for(n, Role.DY)), self._names[0])
            others = [name for name in self._names if name != dy_name]
        given: dict[str, Any] = {dy_name: dy}
        if len(others) == 1:
            given[others[0]] = cache
        elif isinstance(cache, tuple | list) and len(cache) == len(others):
            given |= dict(zip(others, cache, strict=True))
        else:
            roles = {name: role for role, name in find_roles(others, OF_FUNCTIONS).items()}
            for name in others:
                role = Role.X if stands_for(name, Role.X) else roles.get(name)
                given[name] = cache if role is None else values.get(role)
        return named_slopes(self.function(*(given[n] for n in self._names)), self._returned)


def named_slopes(given: Any, names: Sequence[str] = ()) -> Mapping[Role, Any]:
    """Return which gradient is which: by its name, or in the order dx, dgamma, dbeta.

    Example:
        >>> named_slopes((1, 2, 3), ["dx", "dbeta", "dgamma"])[Role.GAMMA]
        3
    """
    if isinstance(given, dict):
        names, given = [str(key) for key in given], tuple(given.values())
    if not isinstance(given, tuple | list):
        return {Role.X: given}
    roles = [slope_of(name) or Role.X for name in names]
    if sorted(roles) != sorted((Role.X, Role.GAMMA, Role.BETA)) or len(given) != len(roles):
        roles = [Role.X, Role.GAMMA, Role.BETA]
    return dict(zip(roles, given, strict=False))


def find_backward(function: Callable[..., Any]) -> Backward | None:
    """Return the backward pass that stands beside a forward pass, by their names.

    Args:
        function: named like a forward pass, or like what its `..._backward` belongs to.

    Example:
        >>> find_backward(find_backward) is None
        True
    """
    name = getattr(function, "__name__", "")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    beside: Mapping[str, Any] = getattr(function, "__globals__", None) or vars(module or object)
    if re.search("backward|bwd|grad|bprop", name.lower()):
        return None
    wanted = [name.replace(one, other) for one, other in _PARTNERS if one in name]
    wanted += [f"{name}_backward", f"{name}_backprop", f"{name}_grad", f"backward_{name}"]
    for each in wanted:
        partner = beside.get(each)
        if each != name and inspect.isfunction(partner):
            return Backward(partner)
    return None
