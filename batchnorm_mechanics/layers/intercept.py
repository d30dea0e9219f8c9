"""The one way to stand in a layer's `call`, and to leave it as it was found.

Keras calls `layer.call`, so what an object holds under that name hides its class's method. Several
of our parts want to stand there at once, begin and end in any order, and an exception may fall
between: `accelerate` for good, `freeze` until it is taken back, `trace` and `diagnose` for a while.
So what stands before a `call` never keeps or restores what it found. It is a link in a chain that
ends in the layer's own `call`; each link takes itself out, and what is put in the place of the
`call` is put behind them all.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Call = Callable[..., Any]


class _Link:
    """Stands before a layer's `call`.

    Attributes:
        layer: the one.
        answer: called with the next `call` and the arguments.
        behind: what the layer held before: another link, another function, or None for nothing.
    """

    def __init__(self, layer: Any, answer: Call, behind: Call | None) -> None:
        self.layer = layer
        self.answer = answer
        self.behind = behind

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer in place of the layer."""
        behind = self.behind
        if behind is None:
            behind = type(self.layer).call.__get__(self.layer)
        return self.answer(behind, *args, **kwargs)


def put_call(layer: Any, call: Call | None) -> None:
    """Put a function in the place of a layer's own `call`, behind whatever stands before it.

    Args:
        layer: any layer.
        call: the function, or None to have the class's own again.
    """
    link = _last_link(layer)
    if link is not None:
        link.behind = call
    elif call is None:
        vars(layer).pop("call", None)
    else:
        # Past Keras's own __setattr__, which would look whether it is to be tracked.
        vars(layer)["call"] = call


def own_call(layer: Any) -> Call | None:
    """Return the function in the place of a layer's own `call`, or None if it is the class's.

    What stands before it does not count.
    """
    link = _last_link(layer)
    return vars(layer).get("call") if link is None else link.behind


@contextlib.contextmanager
def intercepted(layer: Any, answer: Call) -> Iterator[None]:
    """Have `answer` called in place of a layer's `call` until the block ends.

    Args:
        layer: any layer.
        answer: takes the `call` that it stands before and then the arguments of the call; returns
            the layer's output.

    Example:
        >>> import keras
        >>> layer = keras.layers.ReLU()
        >>> with intercepted(layer, lambda call, inputs: 2 * call(inputs)):
        ...     print(layer(keras.ops.ones(2)).numpy().tolist())
        [2.0, 2.0]
        >>> layer(keras.ops.ones(2)).numpy().tolist()
        [1.0, 1.0]
    """
    link = stand_before(layer, answer)
    try:
        yield
    finally:
        _take_out(link)


def stand_before(layer: Any, answer: Call) -> _Link:
    """Have `answer` called in place of a layer's `call`, until `step_aside` or for good.

    Args:
        layer: any layer.
        answer: as for `intercepted`.
    """
    link = _Link(layer, answer, vars(layer).get("call"))
    # Past Keras's own __setattr__, as above.
    vars(layer)["call"] = link
    return link


def stands_before(layer: Any, answer: Call) -> bool:
    """Return whether an answer was put before a layer's `call`."""
    return any(link.answer is answer for link in _links(layer))


def step_aside(layer: Any, answer: Call) -> None:
    """Take an answer away from before a layer's `call`, wherever it stands there."""
    for link in [link for link in _links(layer) if link.answer is answer]:
        _take_out(link)


def _links(layer: Any) -> Iterator[_Link]:
    held = vars(layer).get("call")
    while isinstance(held, _Link):
        yield held
        held = held.behind


def _last_link(layer: Any) -> _Link | None:
    return next(reversed([*_links(layer)]), None)


def _take_out(link: _Link) -> None:
    links = [*_links(link.layer)]
    if link not in links:
        return  # Somebody else has put another function there since, which is theirs.
    place = links.index(link)
    if place:
        links[place - 1].behind = link.behind
    elif link.behind is None:
        del vars(link.layer)["call"]
    else:
        vars(link.layer)["call"] = link.behind
