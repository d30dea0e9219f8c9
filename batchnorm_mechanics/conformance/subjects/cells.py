"""Where an object keeps its tensors: in attributes, and in dictionaries and lists of them."""

from collections.abc import Iterator, MutableMapping, MutableSequence
from typing import Any, NamedTuple

from batchnorm_mechanics.conformance.subjects.backends import backend_of

# Deeper than any layer of layers that normalizes.
_DEPTH = 4


class Cell(NamedTuple):
    """One place of a tensor.

    Attributes:
        holder: a dictionary, a list, or an object.
        key: the entry's, or the attribute's name.
    """

    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        """What lies there."""
        if isinstance(self.holder, MutableMapping | MutableSequence):
            return self.holder[self.key]
        return getattr(self.holder, self.key)

    def put(self, value: Any) -> None:
        """Lay something else there."""
        if isinstance(self.holder, MutableMapping | MutableSequence):
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)


def find_cells(thing: Any) -> dict[str, Cell]:
    """Return the places of all tensors of an object, by paths with a slash between the names.

    Example:
        >>> import numpy as np
        >>> class Layer:
        ...     def __init__(self):
        ...         self.gamma, self.state = np.ones(3), {"mean": np.zeros(3)}
        >>> list(find_cells(Layer()))
        ['gamma', 'state/mean']
    """
    return {"/".join(path): cell for path, cell in _walk(thing, (), {id(thing)})}


def _walk(thing: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[Any, Cell]]:
    if isinstance(thing, MutableMapping):
        entries = list(thing.items())
    elif isinstance(thing, MutableSequence):
        entries = list(enumerate(thing))
    else:
        entries = list(getattr(thing, "__dict__", {}).items())
    for key, value in entries:
        if str(key).startswith("_self_"):
            continue  # TensorFlow's own books, which name each variable once more.
        place = (*path, str(key))
        if backend_of(value) is not None:
            # One tensor has one path, the first.
            if id(value) not in seen:
                seen.add(id(value))
                yield place, Cell(thing, key)
        elif len(place) < _DEPTH and id(value) not in seen and _holds(value):
            seen.add(id(value))
            yield from _walk(value, place, seen)


def _holds(value: Any) -> bool:
    """Return whether something may hold tensors of the object: no module, class or function."""
    if isinstance(value, MutableMapping | MutableSequence):
        return True
    return (
        hasattr(value, "__dict__")
        and not callable(getattr(value, "__get__", None))
        and not (isinstance(value, type) or type(value).__name__ == "module")
    )
