"""What a user asked of a trace."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Request:
    """What a user asked of a trace, besides the data and the setting of the functions.

    Attributes:
        training: True, False, or None where it was left out.
        mask: boolean over the leading axes of the input, or None.
        dy: gradient of the loss with respect to the output, or None.
        compare: whether to show other implementations beside.
        layer: name or path of the layer inside a model, or None.
    """

    training: bool | None = None
    mask: Any = None
    dy: Any = None
    compare: bool = False
    layer: str | None = None
