"""What data are like that were read: how many, of what shape, from what to what."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# More labels than these are no kinds that one would count.
_FEW_KINDS = 1_000


@dataclass
class Seen:
    """What data that were read are like.

    Attributes:
        rows: how many samples there were.
        parts: of each input, the shape and dtype of a sample, the least and the largest number.
        labels: shape of a label, the least and the largest, None where there are none.
        kinds: different labels, as long as they are few.
    """

    rows: int = 0
    parts: list[tuple[tuple[int, ...], str, float, float]] = field(default_factory=list)
    labels: tuple[tuple[int, ...], float, float] | None = None
    kinds: set[float] = field(default_factory=set)

    def add(self, parts: list[np.ndarray], labels: Any) -> None:
        """Note one batch more."""
        self.rows += len(parts[0])
        before = self.parts or [((), "", math.inf, -math.inf)] * len(parts)
        self.parts = [
            (part.shape[1:], part.dtype.name, *_range(part, least, largest))
            for part, (_, _, least, largest) in zip(parts, before, strict=True)
        ]
        if labels is not None and not isinstance(labels, dict | list | tuple):
            array = np.asarray(labels)
            _, *bounds = self.labels or ((), math.inf, -math.inf)
            self.labels = (array.shape[1:], *_range(array, *bounds))
            if len(self.kinds) <= _FEW_KINDS and array.dtype.kind in "fiub":
                self.kinds |= set(np.unique(array).tolist())

    def __str__(self) -> str:
        several = "" if len(self.parts) == 1 else f"{len(self.parts)} inputs, "
        said = f"{self.rows:,} sample{'' if self.rows == 1 else 's'}, {several}" + "; ".join(
            f"{shape_text((None, *shape))} {dtype}" + _from_to(least, largest)
            for shape, dtype, least, largest in self.parts
        )
        if self.labels is None:
            return f"{said}; no labels"
        shape, least, largest = self.labels
        kinds = f", {len(self.kinds)} kinds" if 1 < len(self.kinds) <= _FEW_KINDS else ""
        shown = f" of shape {shape_text((None, *shape))}" if shape not in {(), (1,)} else ""
        return f"{said}; labels{shown}{_from_to(least, largest)}{kinds}"


def _range(array: np.ndarray, least: float, largest: float) -> tuple[float, float]:
    if array.dtype.kind not in "fiub":
        return least, largest
    return min(least, float(array.min())), max(largest, float(array.max()))


def _from_to(least: float, largest: float) -> str:
    return f" from {least:.4g} to {largest:.4g}" if least <= largest else ""


def shape_text(sizes: tuple[int | None, ...]) -> str:
    """Return the shape of one sample as Python writes it, and "any" for a size that is open.

    Args:
        sizes: of a batch: the first is left out.

    Example:
        >>> shape_text((None, 28, None)), shape_text((32, 4))
        ('(28, any)', '(4,)')
    """
    shown = ", ".join("any" if size is None else str(size) for size in sizes[1:])
    return f"({shown},)" if len(sizes) == 2 else f"({shown})"
