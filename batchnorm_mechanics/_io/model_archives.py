"""What a model's file is made of, looked through before Keras unpacks it.

A file can claim more than it holds: an archive what it inflates to, HDF5 the sizes of its data, a
configuration the weights that are built from it. All of it is bounded by the size of the file,
since the weights of an honest one are in it.
"""

import contextlib
import copy
import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
_VERSION = "keras_version"
# What a heap of texts begins with in HDF5.
_HEAP = b"GCOL\x01\0\0\0"
# Weights in half precision are built in float32, a compiled model has slots of its optimizer, and
# what is constant compresses well.
_TIMES = 10
_BESIDE = 100 * 2**20
_MOST_MEMBERS = 100_000
_LONGEST_CONFIG = 16 * 2**20
# Each takes 64 bytes for the two of its text; 50,000 layers and what they are made of have a
# quarter of that.
_MOST_PARTS = 1_000_000
_ENCRYPTED = 0x1
# Of the others zipfile unpacks all at once, whatever is asked for; no model or array has them.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Bytes.
AT_ONCE = 2**20


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
    with damage_named(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise UnsoundError(f"It has {len(members):,} members, more than {_MOST_MEMBERS:,}")
        names = [member.filename for member in members]
        for member in members:
            _check_member(member)
        if len(set(names)) < len(names):
            ((name, _),) = Counter(names).most_common(1)
            raise UnsoundError(f"It has two members of the name {name!r}")
        check_size("It unpacks to", sum(member.file_size for member in members), most)
        for member in members:
            _check_length(archive, member)
        config = archive.getinfo(CONFIG)
        if config.file_size > _LONGEST_CONFIG:
            raise UnsoundError(f"Its {CONFIG} has {config.file_size:,} bytes")
        if WEIGHTS in names:
            with archive.open(WEIGHTS) as stored, io.BytesIO(stored.read()) as weights:
                _check_hdf5(weights, most)
        config = parsed(archive.read(CONFIG))
        metadata = parsed(archive.read(METADATA)) if METADATA in names else None
    training = config.pop("compile_config", None) if isinstance(config, dict) else None
    version = metadata.get(_VERSION) if isinstance(metadata, dict) else None
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

    with damage_named(OSError), path.open("rb") as stored:
        _check_hdf5(stored, most)
        with h5py.File(stored, "r") as file:
            model, training = (
                parsed(_text(file.attrs, name)) if name in file.attrs else None
                for name in ("model_config", "training_config")
            )
            version = _text(file.attrs, _VERSION) if _VERSION in file.attrs else None
    return Stored(model, training, is_old(version))


@contextlib.contextmanager
def damage_named(kind: type[Exception]) -> Iterator[None]:
    """Give errors one type that come of damage, in which every byte can be any."""
    try:
        yield
    except (UnsoundError, zipfile.BadZipFile, ValueError, OSError, MemoryError):
        raise
    except Exception as error:
        raise kind(str(error)) from error


def _text(attributes: Any, name: str) -> str | bytes:
    import h5py

    found = attributes.get_id(name)
    if found.shape or h5py.check_string_dtype(found.dtype) is None:
        raise UnsoundError(f"Its {name} is no text")
    return attributes[name]


def _check_member(member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename:
        raise UnsoundError(f"Its member {member.filename!r} would lie outside of it")
    if member.flag_bits & _ENCRYPTED:
        raise UnsoundError(f"Its member {member.filename!r} is encrypted")
    if (member.external_attr >> 28) == 0xA:
        raise UnsoundError(f"Its member {member.filename!r} is a link")
    if member.compress_type not in COMPRESSIONS:
        raise UnsoundError(f"Its member {member.filename!r} is compressed, but not by deflate")


def _check_length(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse what unpacks to more than it says: read whole, it is unpacked before it is cut."""
    if member.compress_type == zipfile.ZIP_STORED:
        return
    longer = copy.copy(member)
    longer.file_size += 1
    left = longer.file_size
    with archive.open(longer) as content:
        while left and (got := len(content.read(AT_ONCE))):
            left -= got
    if not left:
        raise UnsoundError(f"Its member {member.filename!r} unpacks to more than it says")


def check_size(what: str, size: int, most: int) -> None:
    """Refuse more bytes than are allowed.

    Args:
        what: declares them, and a verb.
        size: how many they are.
        most: how many may be.

    Raises:
        TooLargeError: they are more.
    """
    if size > most:
        raise TooLargeError(
            f"{what} {size:,} bytes, more than the {most:,} that a file of its size may take"
        )


def parsed(text: str | bytes) -> Any:
    """Return what a configuration holds.

    Raises:
        UnsoundError: it has more parts than any model, or they are nested too deep.
        ValueError: it is damaged.
    """
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if len(text) > _LONGEST_CONFIG or sum(map(text.count, opening)) > _MOST_PARTS:  # type: ignore[arg-type]
        raise UnsoundError(f"Its configuration has {len(text):,} bytes, or too many parts")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UnsoundError("Its configuration is nested too deep") from error


def _check_hdf5(stored: BinaryIO, most: int) -> None:
    """Refuse data that lie elsewhere, and more of them than is allowed, without reading any."""
    import h5py

    size = stored.seek(0, io.SEEK_END)
    with h5py.File(stored, "r") as file:
        total = texts = 0
        for one in _all_in(file):
            for name in one.attrs:
                found = one.attrs.get_id(name)
                many = math.prod(found.shape or ())
                if not found.dtype.hasobject:
                    total += many * found.dtype.itemsize
                elif h5py.check_string_dtype(found.dtype) is not None:
                    texts += many
                else:
                    raise UnsoundError(f"Its {name} of {one.name} is neither text nor numbers")
                check_size(f"Its data, up to {name} of {one.name}, declare", total, most)
            if not isinstance(one, h5py.Dataset):
                continue
            if one.is_virtual or one.external:
                raise UnsoundError(f"Its data {one.name} lie in another file")
            # Objects are of any length, each, and no weights.
            each = size if one.dtype.hasobject else one.dtype.itemsize
            total += math.prod(one.shape or ()) * each
            check_size(f"Its data, up to {one.name}, declare", total, most)
            # A chunk is unpacked whole, and may be larger than what it is a part of.
            chunk = math.prod(one.chunks or ()) * one.dtype.itemsize
            check_size(f"A chunk of its data {one.name} declares", chunk, most)
        # One text can be as long as the file, and stand in any number of places.
        if total + texts * size > most:
            check_size("Its texts and data declare", total + _length_of_texts(file, stored), most)


def _length_of_texts(file: Any, stored: BinaryIO) -> int:
    """Return how many bytes the texts of an HDF5 file have, each as often as it is named.

    What names one has its length, the address of the heap that it is in, and its number there;
    HDF5 refuses another length than the heap's. What only looks like it counts too.
    """
    import numpy as np

    if file.userblock_size or file.id.get_create_plist().get_sizes() != (8, 8):
        raise UnsoundError("It is no HDF5 file as Keras writes them")
    stored.seek(0)
    content = stored.read()
    heaps = [heap.start() for heap in re.finditer(_HEAP, content)]
    name = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
    total = 0
    for start in range(name.itemsize):
        found = np.frombuffer(content, name, (len(content) - start) // name.itemsize, start)
        found = found[(found["number"] - 1 < 2**16 - 1) & (found["length"] <= len(content))]
        found = found["length"][np.isin(found["heap"], heaps)]
        total += int(found.sum(dtype=np.uint64))
    return total


def _all_in(file: Any) -> Iterator[Any]:
    """Yield the groups and data sets of a file, and follow no link to another one."""
    import h5py

    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        # A group can be in itself.
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield group
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
            check_size(what, taken, most)
        made(self, initializer, *arguments, **named)

    kind.__init__ = counted
    try:
        yield
    finally:
        kind.__init__ = made
