"""What every form of a model has in common once it is opened: it takes inputs, and runs."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.comparison.layouts import rearranged
from batchnorm_mechanics.comparison.ran import Array, Ran

# Makes the error that says why a model cannot be taken.
Refusal = Callable[[str], InputError]
Sizes = tuple[int | None, ...]


class Opened(Protocol):
    """A model that can be run."""

    @property
    def form(self) -> str:
        """What it is called: "Keras", "ONNX", "LiteRT" or "OpenVINO"."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the inputs, in its order."""
        ...

    def run(self, inputs: Sequence[Array]) -> Ran:
        """Run it on arrays, in the order of its names."""
        ...


def needed(extra: str, module: str, refuse: Refusal) -> Any:
    """Import what an extra brings.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise refuse(
            f"needs {module.partition('.')[0]}, which is not installed: "
            f"pip install 'batchnorm-mechanics[{extra}]'"
        ) from error


def fed(
    inputs: Sequence[Array], sizes: Sequence[Sizes], refuse: Refusal
) -> tuple[list[list[Array]], list[Array]]:
    """Return inputs in the layout and the batches that a model takes, and all of each at once.

    Args:
        inputs: arrays, samples along the first axis.
        sizes: of each input as the model has it, None where one is open.
        refuse: makes the error of a reason.

    Raises:
        InputError: they are not as many, or fit in no layout; or the samples are no multiple of a
            batch whose size is fixed.

    Example:
        >>> parts, whole = fed([np.zeros((4, 8, 8, 3))], [(2, 3, 8, 8)], ValueError)
        >>> len(parts), parts[0][0].shape, whole[0].shape
        (2, (2, 3, 8, 8), (4, 3, 8, 8))
    """
    if len(inputs) != len(sizes):
        raise refuse(f"takes {len(sizes)} inputs, where the data have {len(inputs)}")
    whole = [_laid(array, wanted, refuse) for array, wanted in zip(inputs, sizes, strict=True)]
    rows = len(inputs[0])
    batch = next((wanted[0] for wanted in sizes if wanted and wanted[0] is not None), None) or rows
    if rows % batch:
        raise refuse(
            f"takes batches of {batch}, of which {rows} samples are no multiple: "
            f"give --samples {max(batch, rows - rows % batch)}"
        )
    parts = [[one[at : at + batch] for one in whole] for at in range(0, rows, batch)]
    return parts, whole


def _laid(array: Array, wanted: Sizes, refuse: Refusal) -> Array:
    rows, open_sizes = len(array), wanted[1:]
    if len(wanted) == array.ndim and _fits(array.shape[1:], open_sizes):
        return array
    shape = (rows, *(size or 0 for size in open_sizes))
    # Where a size is open, it is 0 here, and nothing fits.
    if np.prod(shape) == array.size:
        return next(rearranged(array, shape))[0]
    if len(wanted) == array.ndim:
        moved = np.moveaxis(array, -1, 1)
        if _fits(moved.shape[1:], open_sizes):
            return moved
    raise refuse(f"takes inputs of shape {wanted}, where the data have {array.shape}")


def _fits(shape: tuple[int, ...], sizes: Sizes) -> bool:
    return all(want is None or want == have for want, have in zip(sizes, shape, strict=True))


def noise_of(scales: Any, length: int, size: float) -> float:
    """Return what weights on grids do to a sum of products, as a root mean square.

    Args:
        scales: distances of the grids, of all channels.
        length: how many products are summed.
        size: root mean square of what the weights are multiplied with.

    Example:
        >>> round(noise_of([0.1], 12, 2.0), 9)
        0.2
    """
    squares = float(np.mean(np.square(np.asarray(scales, np.float64))))
    return float(np.sqrt(squares / 12 * length)) * size


def together(parts: Sequence[Any], batches: int) -> Any:
    """Return what several batches gave for a tensor as one array, or the first where none is due.

    Args:
        parts: one for each batch.
        batches: how many samples each of them had.
    """
    if len(parts) == 1 or not isinstance(parts[0], np.ndarray):
        return parts[0]
    shape = parts[0].shape
    axis = next((axis for axis, size in enumerate(shape) if size == batches), None)
    return parts[0] if axis is None else np.concatenate(parts, axis)
