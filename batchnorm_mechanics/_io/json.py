"""Records as JSON: numbers, arrays, and what JSON has no literal for."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

# Control characters of eight bits, those that turn the direction of writing, and halves of
# characters, which no UTF-8 holds.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class NewerError(ValueError):
    """A file was written by a newer version of this package, in a format that this one lacks."""


def check_format(found: Mapping[str, Any], newest: int) -> None:
    """Refuse what a newer version has written, before it is taken for damaged.

    Args:
        found: what a file holds. Files of version 1 need not say so.
        newest: the newest version of that file's format that is known here.

    Raises:
        NewerError: it is of a newer one.
        ValueError: what stands there is no version.

    Example:
        >>> check_format({"seed": 100}, 1)
        >>> try:
        ...     check_format({"format": 2}, 1)
        ... except NewerError as error:
        ...     print(error)
        written by a newer version of BatchNorm Mechanics, in format 2, where this one reads up to 1
    """
    version = found.get("format", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"its format is {version!r}, which is no version")
    if version > newest:
        raise NewerError(
            f"written by a newer version of BatchNorm Mechanics, in format {version}, where this "
            f"one reads up to {newest}"
        )


class Record:
    """A dataclass that JSON has by the names of its fields."""

    def to_dict(self) -> dict[str, Any]:
        """Return dictionaries, lists, strings and numbers, for JSON; see `plain`."""
        return plain(self.fields())

    def fields(self) -> dict[str, Any]:
        """Return what the fields hold, as it is, by their names."""
        own: Any = self
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(own)}


def plain(value: Any, *, digits: int | None = None) -> Any:
    """Return a value as JSON gives it back: dictionaries, lists, numbers, text, booleans and None.

    JSON has no literal for three numbers. They are the strings "NaN", "Infinity" and "-Infinity",
    which Python's `float` and JavaScript's `Number` read.

    Args:
        value: of mappings, lists and tuples, arrays and scalars of NumPy in any dtype, and what
            JSON has itself. A `Record` becomes what its `to_dict` gives; anything else what
            Python's `repr` says of it.
        digits: to round floats to; all by default. float32 and the half types become the same
            value in float64.

    Returns:
        What `json.dumps(..., allow_nan=False)` takes, with text for the keys of dictionaries.

    Example:
        >>> import numpy as np
        >>> plain({"values": np.array([1.5, np.nan, -np.inf], np.float32)})
        {'values': [1.5, 'NaN', '-Infinity']}
    """
    if isinstance(value, Record):
        return plain(value.to_dict(), digits=digits)
    if isinstance(value, Mapping):
        return {str(key): plain(part, digits=digits) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, digits=digits) for part in value]
    if hasattr(value, "tolist"):
        # Of NumPy, which need not be imported to know it. Its longer and shorter floats are none of
        # Python's.
        wide = value if value.dtype.kind in "biuU" else value.astype(float)
        return plain(wide.tolist(), digits=digits)
    if not isinstance(value, float):
        return value if isinstance(value, int | str | None) else repr(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if digits is None else round(value, digits)


def text(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON text, in which nothing steers a terminal; see `plain`."""
    found = json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    # JSON itself escapes those below 32. Outside of strings there are none.
    return _STEERING.sub(lambda character: f"\\u{ord(character[0]):04x}", found)
