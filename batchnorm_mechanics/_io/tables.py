"""Columns of Parquet and TFRecord files, and which of them are samples and labels."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.images import images, is_image

PARQUET = (".parquet",)
TF_RECORD = (".tfrecord", ".tfrecords")
_LABELS = ("y", "label", "labels", "target")
_INPUT = "x"
_AT_A_TIME = 256

Shapes = Mapping[str, Sequence[int | None]]


def from_parquet(paths: Sequence[Path], samples: int | None, caller: str) -> dict[str, Any]:
    """Return the columns of Parquet files: arrays, and lists of bytes; text is left out.

    Args:
        paths: of the files, one after the other.
        samples: how many rows to read at most, or None.
        caller: the function to name in an error.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(
            f"{caller}: `data` must be no Parquet file where pyarrow is not installed. Received: "
            f"data={str(paths[0])!r}. Install it: pip install batchnorm-mechanics[parquet]."
        ) from error

    batches, left = [], math.inf if samples is None else samples
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_AT_A_TIME):
                if left <= 0:
                    break
                batches.append(batch[: int(min(left, len(batch)))])
                left -= len(batches[-1])
    table = pa.Table.from_batches(batches) if batches else pq.read_table(paths[0])
    columns = {name: _column(table[name]) for name in table.column_names}
    return {name: column for name, column in columns.items() if column is not None}


def _column(column: Any) -> Any:
    """Return a column as an array or a list of bytes, or None where it holds neither."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parts = [np.asarray(chunk.flatten()) for chunk in column.chunks]
        lengths = {None if row is None else len(row) for row in column}
        flat = np.concatenate(parts) if len(lengths) == 1 and None not in lengths else np.empty(0)
        if flat.size and flat.dtype.kind in "fiub":
            # In their own type, which Python's numbers would lose.
            return flat.reshape(len(column), -1)
    elif not pa.types.is_nested(kind) and not pa.types.is_binary(kind):
        array = column.to_numpy()
        return array if array.dtype.kind in "fiub" else None
    values = column.to_pylist()
    if values and isinstance(values[0], dict) and isinstance(values[0].get("bytes"), bytes):
        # So Hugging Face's data sets keep an image, beside the name of its file.
        return [value["bytes"] for value in values]
    if values and isinstance(values[0], bytes):
        return values
    try:
        array = np.asarray(values)
    except ValueError:
        return None  # lists of several lengths
    return array if array.dtype.kind in "fiub" else None


def from_tf_record(paths: Sequence[Path], samples: int | None) -> dict[str, Any]:
    """Return the features of `tf.train.Example`s: arrays, and lists of bytes.

    Their types and lengths are those of the first example.

    Args:
        paths: of the files, one after the other.
        samples: how many examples to read at most, or None.

    Raises:
        ValueError: there is none, or others have features of other lengths.
    """
    import tensorflow as tf

    records = tf.data.TFRecordDataset([str(path) for path in paths])
    records = records.take(-1 if samples is None else samples)
    features = {}
    for record in records.take(1):
        example = tf.train.Example.FromString(record.numpy())
        for name, feature in sorted(example.features.feature.items()):
            kind = feature.WhichOneof("kind")
            if kind is not None:
                dtype = {"bytes_list": tf.string, "int64_list": tf.int64}.get(kind, tf.float32)
                many = len(getattr(feature, kind).value)
                shape = [] if many == 1 else [many]
                features[name] = tf.io.FixedLenFeature(shape, dtype)
    if not features:
        raise ValueError("no example with features is in it")
    parts = [tf.io.parse_example(batch, features) for batch in records.batch(_AT_A_TIME)]
    columns = {name: np.concatenate([part[name].numpy() for part in parts]) for name in features}
    return {
        name: list(column) if column.dtype == object else column for name, column in columns.items()
    }


def chosen(
    columns: Mapping[str, Any], labels_name: str | None, takes: Shapes, caller: str
) -> tuple[Any, Any, str]:
    """Return samples, labels or None, and which columns they are, in words.

    Labels are the column of that name, or `y`, `label`, `labels` or `target`. Samples are the
    columns with the names of the model's inputs; or `x`; or the one column with more than a number
    a row; or all numbers of a row together.

    Args:
        columns: by name, arrays or lists of bytes.
        labels_name: of the labels, or None.
        takes: the shapes of one sample, by the names of a model's inputs.
        caller: the function to name in an error.

    Raises:
        InputError: there is no such column, or none that can be samples.

    Example:
        >>> table = {"a": np.array([1, 2]), "b": np.array([3, 4]), "label": np.array([0, 1])}
        >>> inputs, labels, words = chosen(table, None, {}, "doctor")
        >>> inputs.tolist(), labels.tolist(), words
        ([[1.0, 3.0], [2.0, 4.0]], [0, 1], 'samples a, b; labels label')
    """
    held = ", ".join(columns) or "nothing"
    name = labels_name or next((one for one in _LABELS if one in columns), None)
    if name is not None and name not in columns:
        raise InputError(
            f"{caller}: `labels` must name a column of the data. Received: labels={name!r}. "
            f"They hold {held}."
        )
    rest = {key: column for key, column in columns.items() if key != name}
    shape = next(iter(takes.values()), None)
    arrays = {key: _array(column, takes.get(key, shape), caller) for key, column in rest.items()}
    arrays = {key: array for key, array in arrays.items() if array is not None}
    large = [key for key, array in arrays.items() if len(array.shape) > 1]
    if takes and takes.keys() <= arrays.keys():
        inputs, names = {key: arrays[key] for key in takes}, list(takes)
    elif _INPUT in arrays or len(large) == 1:
        names = [_INPUT if _INPUT in arrays else large[0]]
        inputs = arrays[names[0]]
    elif arrays and not large:
        names = list(arrays)
        inputs = np.stack([arrays[key].astype(np.float32) for key in names], axis=1)
    else:
        raise InputError(
            f"{caller}: `data` must have a column {_INPUT!r} of samples, or one for each input of "
            f"the model by its name. Received: columns {held}. Rename them, or choose them in a "
            "function: --data path/to/file.py:function."
        )
    words = f"samples {', '.join(names)}" + ("" if name is None else f"; labels {name}")
    return inputs, None if name is None else columns[name], words


def _array(column: Any, shape: Any, caller: str) -> Any:
    """Return a column as an array in the shape that a model takes, or None where it is none."""
    if isinstance(column, list):
        if all(is_image(one) for one in itertools.islice(column, 3)):
            return images(column, shape, caller=caller)
        if shape is None or None in shape or len(column[0]) != math.prod(shape):
            return None
        column = np.stack([np.frombuffer(one, np.uint8) for one in column])
    if shape is None or None in shape or column.ndim - 1 == len(shape):
        return column
    # A list of numbers a row is how both formats keep an array.
    fits = column[0].size == math.prod(shape)
    return column.reshape(len(column), *shape) if fits else column
