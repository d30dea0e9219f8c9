"""Images, in folders or in the cells of a table, as rows of numbers from 0 to 255."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.rows import Rows

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif"})
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")
_CHANNELS = (1, 3, 4)


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder and those below it, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def is_image(content: Any) -> bool:
    """Return whether bytes begin as an image does that TensorFlow decodes."""
    return isinstance(content, bytes) and content.startswith(_BEGINNINGS)


def classes_of(paths: Sequence[Path], folder: Path) -> list[str]:
    """Return the names of the subfolders in which images lie, sorted; none if one lies in none."""
    names = {path.relative_to(folder).parts[0] for path in paths if path.parent != folder}
    return [] if any(path.parent == folder for path in paths) else sorted(names)


def images(
    found: Sequence[Path | bytes], shape: Sequence[int | None] | None, *, caller: str
) -> Rows:
    """Return images as float32, in the size that a model takes.

    As `keras.utils.image_dataset_from_directory` does, they are resized bilinearly, without regard
    to their proportions.

    Args:
        found: paths of files, or their contents.
        shape: of one sample as the model takes it, None where a size is open or nothing is known:
            then it is that of the first image.
        caller: the function to name in an error.

    Returns:
        Rows of shape (images, height, width, channels), or with the channels first where the model
        takes them so.
    """
    shape = tuple(shape) if shape is not None and len(shape) == 3 else (None, None, None)
    is_first = shape[2] not in {None, *_CHANNELS} and shape[0] in _CHANNELS
    height, width, channels = (*shape[1:], shape[0]) if is_first else shape
    first = _decoded(found[0], channels, caller)
    size = tuple(
        own if wanted is None else wanted
        for own, wanted in zip(first.shape, (height, width, channels), strict=True)
    )

    def made(rows: slice) -> np.ndarray:
        import tensorflow as tf

        pictures = [_decoded(one, size[2], caller) for one in found[rows]]
        same = [
            one if one.shape[:2] == size[:2] else tf.image.resize(one, size[:2]) for one in pictures
        ]
        whole = np.stack([np.asarray(one, np.float32) for one in same])
        return np.moveaxis(whole, -1, 1) if is_first else whole

    sizes = (size[2], *size[:2]) if is_first else size
    return Rows(made, (len(found), *sizes), np.float32)


def _decoded(one: Path | bytes, channels: int | None, caller: str) -> np.ndarray:
    import tensorflow as tf

    content = one if isinstance(one, bytes) else one.read_bytes()
    try:
        decoded = tf.io.decode_image(content, channels=channels or 0, expand_animations=False)
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        name = "in a table" if isinstance(one, bytes) else repr(str(one))
        raise InputError(
            f"{caller}: `data` must hold images that can be decoded. Received: the image {name} "
            f"({first_line(error)}). Take it out, or save it anew."
        ) from error
    return decoded.numpy()
