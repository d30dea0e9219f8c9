"""Why a batch norm stays: in words about the layers beside it, and about their kinds alone.

Sixteen blocks of a network give one reason sixteen times, each with names of its own. By kinds it
is one, and can be told once.
"""

from typing import Any, NamedTuple


class Reason(NamedTuple):
    """Why a batch norm stays.

    Attributes:
        text: by the names of the layers.
        general: by their kinds, and without figures that are one layer's own.
    """

    text: str
    general: str


def plain(text: str) -> Reason:
    """Return a reason that names no layer."""
    return Reason(text, text)


def about(layer: Any, text: str, general: str | None = None) -> Reason:
    """Return what is to be said about a layer.

    Args:
        layer: a layer or operation.
        text: what is said, behind its name.
        general: the same without figures; None where there are none.

    Example:
        >>> import keras
        >>> about(keras.layers.Add(name="sum_3"), "is called 2 times")
        Reason(text='sum_3 is called 2 times', general='an Add is called 2 times')
    """
    return Reason(f"{layer.name} {text}", f"{_a(layer)} {text if general is None else general}")


def not_taken(layer: Any) -> Reason:
    """Return the reason of a layer that can do nothing with a scale and an offset."""
    text = "is no layer that takes it in"
    return Reason(f"{layer.name} ({type(layer).__name__}) {text}", f"{_a(layer)} {text}")


def of(layer: Any) -> Reason:
    """Return a layer in the genitive."""
    return Reason(f"{layer.name}'s", f"{_a(layer)}'s")


def on_both_sides(before: Reason, after: Reason) -> Reason:
    """Return one reason from those of the two sides."""
    pairs = zip(before, after, strict=True)
    return Reason(*(f"before it: {one}; after it: {other}" for one, other in pairs))


def _a(layer: Any) -> str:
    kind = type(layer).__name__
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"
