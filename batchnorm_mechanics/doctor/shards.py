"""Data in shards, and the model that goes through each, in whatever process that is."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import layers_in
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics.distribute.executors import RayExecutor, Workers
from batchnorm_mechanics.models.data import Data, Shards
from batchnorm_mechanics.models.norms import Norm, norms_in
from batchnorm_mechanics.models.ray_data import blocks_of, is_ray_dataset

# Batches of arrays in a shard. It decides how sums are rounded, and so depends on nothing else.
_BATCHES = 16


def shards_of(data: Data, *, caller: str) -> Iterator[Data]:
    """Yield data in parts that each process can go through by itself, in their order.

    Arrays are cut between two batches, so that the batches are those of the whole.

    Args:
        data: arrays, or `Shards`.
        caller: the function to name in an error.

    Raises:
        InputError: they are a dataset, which cannot be sent to another process.

    Example:
        >>> import numpy as np
        >>> data = Data(np.zeros((1000, 2)), batch_size=20)
        >>> [(part.rows, part.before) for part in shards_of(data, caller="recalibrate")]
        [(320, 0), (320, 16), (320, 32), (40, 48)]
    """
    if isinstance(data.source, Shards):
        if data.samples is not None:
            raise InputError(
                f"{caller}: `samples` must be left out where shards go to other processes. "
                f"Received: samples={data.samples}. Pass fewer shards."
            )
        for part in data.source.parts:
            yield replace(data, source=Shards((part,)))
        return
    if data.rows is None:
        raise InputError(
            f"{caller}: `data` must be arrays or bnm.Shards where other processes take part. "
            f"Received: a {type(data.source).__name__}, which cannot be sent to them. Pass "
            "bnm.Shards([f, g, ...]) with functions that each return a dataset."
        )
    size = _BATCHES * data.batch_size
    starts = list(range(0, data.rows, size))
    if len(starts) > 1 and data.rows - starts[-1] == 1:
        # A last single row goes with the batch before it.
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], data.rows], strict=True):
        yield replace(data.between(start, stop), samples=None, before=start // data.batch_size)


def cut(data: Data, executor: RayExecutor | None) -> Data:
    """Return data with what lies in an executor's cluster parted by its blocks.

    Args:
        data: of any kind.
        executor: None for this process, in which nothing is cut.
    """
    if executor is None or not isinstance(data.source, Shards):
        return data
    parts = [blocks_of(part) if is_ray_dataset(part) else [part] for part in data.source.parts]
    return replace(data, source=Shards(list(itertools.chain(*parts))))


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A model as bytes, with what they name: makes a `ModelHost` in another process.

    Attributes:
        file: the `.keras` file.
        classes: of layers and models that are not Keras's, by name.
        loss: that it was compiled with, or None.
    """

    file: bytes
    classes: dict[str, Any]
    loss: Any

    def __call__(self) -> "ModelHost":
        """Read the model."""
        import_tensorflow_quietly()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(self.file)
            # It comes from the user's own process, where it was code already.
            model = keras.saving.load_model(
                path, custom_objects=self.classes, compile=False, safe_mode=False
            )
        if self.loss is not None:
            model.compile(loss=self.loss)
        return ModelHost(model)


class ModelHost:
    """A model, and its batch norm layers, that stand ready in a worker."""

    def __init__(self, model: Any, norms: tuple[Norm, ...] | None = None) -> None:
        self.model, self.norms = model, norms_in(model) if norms is None else norms


def packed(model: Any) -> PackedModel:
    """Return a model as it can be sent to another process.

    Raises:
        InputError: Keras cannot save it, or it does not read what it saved.
    """
    classes = {
        type(layer).__name__: type(layer)
        for layer in layers_in(model)
        if not type(layer).__module__.startswith("keras.")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loss = model.loss if getattr(model, "compiled", False) else None
        return PackedModel(path.read_bytes(), classes, loss)


def hosted(model: Any, executor: RayExecutor | None) -> AbstractContextManager[Workers | None]:
    """Give workers that hold a model, until the block ends; None for this process."""
    return nullcontext() if executor is None else executor.hosting(packed(model))
