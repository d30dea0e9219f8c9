"""Arrays that stay in their files: rows are read when they are asked for, and not kept."""

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from batchnorm_mechanics._io.model_archives import (
    AT_ONCE,
    COMPRESSIONS,
    allowance,
    check_size,
    damage_named,
)

# Of a zip archive's local header, before the name of the member and its extra field.
_LOCAL_HEADER = 30
# What NumPy takes of an array's header, after it has read all of it, and what stands before.
_LONGEST_HEADER = 10_000
_BEFORE_HEADER = 12


@dataclass(frozen=True)
class Piece:
    """Where the bytes of one array lie in one file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of some rows."""
        return np.array(self._mapped()[start:stop])

    def read(self) -> np.ndarray:
        """Return a copy of it all."""
        # What has no bytes cannot be mapped.
        return np.array(self._mapped()) if self.size else np.empty(self.shape, self.dtype)

    def _mapped(self) -> np.ndarray:
        # Mapped anew each time: pages that stay mapped would count as this process's memory.
        return np.memmap(
            self.path,
            self.dtype,
            mode="r",
            offset=self.offset,
            shape=self.shape,
            order="F" if self.fortran else "C",
        )


@dataclass(frozen=True)
class Packed:
    """An array that is compressed in an archive: it is unpacked, as a whole, when it is read."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Return it all.

        Raises:
            ValueError: it is longer than its array.
            zipfile.BadZipFile: it is damaged.
        """
        with zipfile.ZipFile(self.path) as archive:
            return unpacked(archive, self.member)


def check_unpacked(found: Iterable[Piece | Packed | None], path: Path, most: int | None) -> None:
    """Refuse arrays that unpack to more bytes, all together, than is allowed.

    Args:
        found: of one archive; what is not compressed has its size in the file.
        path: of the archive.
        most: bytes; see `allowance`.

    Raises:
        TooLargeError: they are more.
    """
    packed = [one for one in found if isinstance(one, Packed)]
    total = sum(one.size * one.dtype.itemsize for one in packed)
    check_size("Its compressed arrays unpack to", total, allowance(path, most))


class Stored:
    """Arrays in files, one after the other along the first axis, seen as one.

    Args:
        pieces: at least one, of one dtype, with the same shape but for the first axis.

    Attributes:
        shape: of the whole.
        dtype: of all pieces.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> np.save(folder / "a.npy", np.arange(6).reshape(3, 2))
        >>> np.save(folder / "b.npy", np.arange(4).reshape(2, 2))
        >>> both = Stored([piece_of(folder / "a.npy"), piece_of(folder / "b.npy")])
        >>> both.shape, both[2:4].tolist()
        ((5, 2), [[4, 5], [0, 1]])
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = tuple(pieces)
        self._ends = np.cumsum([piece.shape[0] for piece in self._pieces])
        self.dtype = self._pieces[0].dtype
        self.shape = (int(self._ends[-1]), *self._pieces[0].shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        stop = max(start, stop)
        found = []
        for piece, end in zip(self._pieces, self._ends, strict=True):
            begin = int(end) - piece.shape[0]
            first, last = max(start, begin), min(stop, int(end))
            if first < last:
                found.append(piece.rows(first - begin, last - begin))
        if not found:
            return np.empty((0, *self.shape[1:]), self.dtype)
        whole = found[0] if len(found) == 1 else np.concatenate(found)
        return whole[::step]


def piece_of(path: Path) -> Piece:
    """Return where the array of a `.npy` file lies.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, is cut off, or holds Python objects.
    """
    with path.open("rb") as file:
        return _piece(path, file, path.stat().st_size)


def pieces_in(path: Path) -> dict[str, Piece | Packed]:
    """Return the arrays of an `.npz` file by name; none is read yet.

    Raises:
        OSError: the file cannot be read.
        ValueError: an array of it is cut off or holds Python objects.
        zipfile.BadZipFile: it is no such file, or damaged.
    """
    found: dict[str, Piece | Packed] = {}
    with damage_named(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            name = member.filename.removesuffix(".npy")
            if member.compress_type == zipfile.ZIP_STORED:
                found[name] = _stored(path, member)
            else:
                piece = _packed(archive, member.filename)
                found[name] = Packed(path, member.filename, piece.shape, piece.dtype)
    return found


def _stored(path: Path, member: zipfile.ZipInfo) -> Piece:
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        # The local lengths: those in the archive's directory may differ.
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        start = member.header_offset + _LOCAL_HEADER + name + extra
        file.seek(start)
        return _piece(path, file, start + member.file_size)


def unpacked(archive: zipfile.ZipFile, member: str, *, is_known: bool = False) -> np.ndarray:
    """Return the array that a member of an archive holds.

    Args:
        archive: open for reading.
        member: the name of it there.
        is_known: whether nobody else made the archive: by LZMA or bzip2 it can unpack to any size
            at once, and is refused otherwise.

    Raises:
        ValueError: it is longer than its array, or holds Python objects.
        zipfile.BadZipFile: it is damaged.
    """
    with damage_named(zipfile.BadZipFile):
        # Known before the memory for it is asked for.
        piece = _packed(archive, member, is_known=is_known)
        array = np.empty(piece.size, piece.dtype)
        waiting = array.reshape(-1).view(np.uint8).data
        with archive.open(member) as opened:
            file: Any = opened
            # Not by NumPy's reader: it would read the header again, of whatever length.
            file.read(piece.offset)
            while got := file.readinto(waiting[:AT_ONCE]):
                waiting = waiting[got:]
            if waiting:
                raise ValueError("it is cut off")
            # The checksum is compared at the member's end, which an array may not reach.
            if file.read(1):
                raise ValueError("it is longer than its array")
    return array.reshape(piece.shape, order="F" if piece.fortran else "C")


def _packed(archive: zipfile.ZipFile, member: str, *, is_known: bool = False) -> Piece:
    if not is_known and archive.getinfo(member).compress_type not in COMPRESSIONS:
        raise ValueError(f"{member} is compressed, but not by deflate")
    with archive.open(member) as file:
        return _piece(Path(member), file, archive.getinfo(member).file_size)


def _piece(path: Path, file: IO[bytes], end: int) -> Piece:
    """Return the piece whose header begins where the file stands, and that ends before `end`."""
    at = file.tell()
    start = io.BytesIO(file.read(_BEFORE_HEADER + _LONGEST_HEADER))
    shape, fortran, dtype = _header(start)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    offset = at + start.tell()
    if any(size < 0 for size in shape) or not dtype.itemsize:
        raise ValueError(f"its shape is {shape} of {dtype.itemsize} bytes each")
    if offset + math.prod(shape) * dtype.itemsize > end:
        raise ValueError("it is cut off")
    return Piece(path, offset, shape, dtype, fortran)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        # NumPy warns of headers that Python 2 wrote, Python of what a damaged one looks like.
        with warnings.catch_warnings(action="ignore"):
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(file)
            if version == (2, 0):
                return np.lib.format.read_array_header_2_0(file)
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        # A header is Python's notation: its parser has many words for what is none.
        raise ValueError(f"its header is damaged ({type(error).__name__}: {error})") from error
    raise ValueError(f"its format is version {version}, that of records with names")
