"""What a model's file is made of, looked through before Keras unpacks it.

A file can claim more than it holds: an archive what it inflates to, HDF5 the sizes of its data, a
configuration the weights that are built from it. All of it is bounded by the size of the file,
since the weights of an honest one are in it.
"""

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
# Weights in half precision are built in float32, a compiled model has slots of its optimizer, and
# what is constant compresses well.
_TIMES = 10
_BESIDE = 100 * 2**20
_MOST_MEMBERS = 100_000
_LONGEST_CONFIG = 64 * 2**20
_ENCRYPTED = 0x1


def is_old(version: Any) -> bool:
    """Return whether it is the version of a Keras before 3; Keras 1 wrote none into its files."""
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version or "1")
    major = text.partition(".")[0]
    return major.isdigit() and int(major) < 3


class UnsoundError(Exception):
    """A file holds what no model has."""


class TooLargeError(UnsoundError):
    """A file claims more than it may, which a user can allow."""


def allowance(path: Path, most: int | None = None) -> int:
    """Return how many bytes a model may take that comes from a file.

    Args:
        path: of the file.
        most: what the user allows; None for 10 times the file and 100 MiB.
    """
    return _TIMES * path.stat().st_size + _BESIDE if most is None else most


class Stored(NamedTuple):
    """What a model's file says of itself.

    Attributes:
        model: the configuration of the model, None where there are weights alone.
        training: that with which it was compiled, or None.
        is_old: whether a Keras before 3 wrote it, by the version in it.
    """

    model: Any
    training: Any
    is_old: bool


def read_keras(path: Path, most: int) -> Stored:
    """Look through a `.keras` archive and the weights in it, and return its configuration.

    Args:
        path: of the file.
        most: bytes that it may unpack to.

    Raises:
        UnsoundError: it is larger than allowed (TooLargeError), or holds what no model has.
        zipfile.BadZipFile, ValueError, OSError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise UnsoundError(f"It has {len(members):,} members, more than {_MOST_MEMBERS:,}")
        names = [member.filename for member in members]
        for member in members:
            _check_member(member)
        if len(set(names)) < len(names):
            (name, *_) = (name for name in names if names.count(name) > 1)
            raise UnsoundError(f"It has two members of the name {name!r}")
        _check_size("It unpacks to", sum(member.file_size for member in members), most)
        config = archive.getinfo(CONFIG)
        if config.file_size > _LONGEST_CONFIG:
            raise UnsoundError(f"Its {CONFIG} has {config.file_size:,} bytes")
        if WEIGHTS in names:
            with archive.open(WEIGHTS) as stored, io.BytesIO(stored.read()) as weights:
                _check_hdf5(weights, most)
        config = _parsed(archive.read(CONFIG))
        metadata = _parsed(archive.read(METADATA)) if METADATA in names else None
    training = config.pop("compile_config", None) if isinstance(config, dict) else None
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    # All versions of Keras that write this format name themselves.
    return Stored(config, training, version is not None and is_old(version))


def read_hdf5(path: Path, most: int) -> Stored:
    """Look through an HDF5 file and return the configurations of its model and of its training.

    Args:
        path: of the file.
        most: bytes that its data may take.

    Raises:
        UnsoundError: it is larger than allowed (TooLargeError), or holds what no model has.
        ValueError, OSError: it is damaged.
    """
    import h5py

    with path.open("rb") as stored:
        _check_hdf5(stored, most)
        with h5py.File(stored, "r") as file:
            model, training = (
                None if text is None else _parsed(text)
                for text in map(file.attrs.get, ("model_config", "training_config"))
            )
            version = file.attrs.get("keras_version")
    return Stored(model, training, is_old(version))


def _check_member(member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename:
        raise UnsoundError(f"Its member {member.filename!r} would lie outside of it")
    if member.flag_bits & _ENCRYPTED:
        raise UnsoundError(f"Its member {member.filename!r} is encrypted")
    if (member.external_attr >> 28) == 0xA:
        raise UnsoundError(f"Its member {member.filename!r} is a link")


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise TooLargeError(
            f"{what} {size:,} bytes, more than the {most:,} that a file of its size may take"
        )


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UnsoundError("Its configuration is nested too deep") from error


def _check_hdf5(stored: BinaryIO, most: int) -> None:
    """Refuse data that lie elsewhere, and more of them than is allowed, without reading any."""
    import h5py

    with h5py.File(stored, "r") as file:
        total = 0
        for data in _data_in(file):
            if data.is_virtual or data.external:
                raise UnsoundError(f"Its data {data.name} lie in another file")
            total += math.prod(data.shape or ()) * data.dtype.itemsize
            _check_size(f"Its data, up to {data.name}, declare", total, most)


def _data_in(file: Any) -> Iterator[Any]:
    """Yield the data sets of a file, and follow no link to another one."""
    import h5py

    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        # A group can be in itself.
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UnsoundError(f"Its {group.name.rstrip('/')}/{name} is a link")
            found = group[name]
            if isinstance(found, h5py.Group):
                groups.append(found)
            elif isinstance(found, h5py.Dataset):
                yield found


@contextlib.contextmanager
def weights_up_to(most: int) -> Iterator[None]:
    """Refuse to build weights of more bytes, all together, before memory is asked for.

    Args:
        most: bytes, four for each number.

    Raises:
        TooLargeError: a model within asks for more.
    """
    import keras

    taken = 0
    kind, made = keras.Variable, keras.Variable.__init__

    def counted(self: Any, initializer: Any, *arguments: Any, **named: Any) -> None:
        nonlocal taken
        shape = arguments[0] if arguments else named.get("shape")
        if callable(initializer) and shape is not None:
            taken += 4 * math.prod(size or 1 for size in shape)
            what = f"Its configuration, with a weight of shape {tuple(shape)}, asks for"
            _check_size(what, taken, most)
        made(self, initializer, *arguments, **named)

    kind.__init__ = counted
    try:
        yield
    finally:
        kind.__init__ = made
