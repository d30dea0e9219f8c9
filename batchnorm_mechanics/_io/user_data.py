"""Data that a user's own function returns."""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.rows import first_rows
from batchnorm_mechanics._user_code import find

_FUNCTION = re.compile(r".+:[^\W\d]\w*")
# A generator need not have an end, and what it gives must stay to be gone through again.
_MOST_BYTES = 2**31


def is_function(path: Path | str) -> bool:
    """Return whether data are named as `path/to/file.py:function` or `module:function`."""
    return bool(_FUNCTION.fullmatch(str(path))) and not os.path.lexists(path)


def from_function(spec: str, samples: int | None, batch_size: int, caller: str) -> tuple[Any, Any]:
    """Return the inputs and labels, or the dataset and None, that a function gives.

    Args:
        spec: of the function, or of what it would return.
        samples: how many to take at most, the first ones.
        batch_size: of a `tf.data.Dataset` that is cut to so many.
        caller: the function to name in an error.

    Raises:
        InputError: there is no such function, it raises, or its generator does not seem to end.
    """
    import keras
    import tensorflow as tf

    found = find(spec, caller=caller, argument="data")
    try:
        given: Any = found() if callable(found) else found
        if samples is not None and isinstance(given, tf.data.Dataset):
            return given.unbatch().take(samples).batch(batch_size), None
        if samples is not None and isinstance(given, keras.utils.PyDataset):
            many = itertools.count() if given.num_batches is None else range(given.num_batches)
            given = (given[number] for number in many)
        if isinstance(given, Iterator):
            return _collected(given, spec, samples, caller)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{caller}: `data` must name a function that returns data. Received: data={spec!r}, "
            f"which raised {type(error).__name__}: {' '.join(str(error).split())[:200]}. "
            "Repair it and try again."
        ) from error
    pair = isinstance(given, tuple) and len(given) in {2, 3}
    inputs, labels = given[:2] if pair else (given, None)
    if samples is not None:
        most = samples
        inputs, labels = (
            tf.nest.map_structure(lambda part: None if part is None else _first(part, most), one)
            for one in (inputs, labels)
        )
    return inputs, labels


def _first(part: Any, samples: int) -> Any:
    return first_rows(part, samples) if hasattr(part, "shape") else part


def _collected(
    batches: Iterator[Any], spec: str, samples: int | None, caller: str
) -> tuple[Any, Any]:
    """Return the batches of a generator as arrays, up to so many samples."""
    import tensorflow as tf

    kept: list[Any] = []
    rows = size = 0
    for batch in batches:
        pair = isinstance(batch, tuple) and len(batch) in {2, 3}
        kept.append(tf.nest.map_structure(np.asarray, tuple(batch[:2]) if pair else (batch, None)))
        arrays = [part for part in tf.nest.flatten(kept[-1]) if part.dtype != object]
        rows += len(arrays[0])
        size += sum(part.nbytes for part in arrays)
        if samples is not None and rows >= samples:
            break
        if size > _MOST_BYTES:
            raise InputError(
                f"{caller}: `data` must have an end. Received: data={spec!r}, whose generator gave "
                f"{rows:,} samples of {size:,} bytes and more. Say how many: --samples."
            )
    if not kept:
        raise InputError(
            f"{caller}: `data` must hold at least one sample. Received: data={spec!r}, whose "
            "generator gave no batch."
        )

    def joined(*parts: Any) -> Any:
        return None if parts[0].dtype == object else np.concatenate(parts)[:samples]

    inputs, labels = tf.nest.map_structure(joined, *kept)
    return inputs, labels
