"""From a file of digits to the batches that a study trains on.

TensorFlow and scikit-learn, seconds each to import, are imported by the functions that need them:
the command line checks the data in a process that has no other use for them.
"""

import hashlib
import itertools
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import unpacked
from batchnorm_mechanics._io.model_archives import TooLargeError, allowance, check_size
from batchnorm_mechanics.studies.registry import Settings

if TYPE_CHECKING:
    import tensorflow as tf
    from sklearn.preprocessing import StandardScaler

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

CLASSES = 10
SHIPPED = Path(__file__).parent / "data" / "mnist.npz"
SHIPPED_SHA256 = "a7ca5941ed14a4e275a85c70d92dc1ec30216050a9a8efb4cd648939b6ce6b80"
# Of the arrays' bytes: the same content in another file is MNIST too.
MNIST_SHA256 = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
# Rows scaled at a time: the float64 copy of all of them would be 376 MB in each worker.
_BLOCK = 1000


class DataError(InputError):
    """The data cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Digits:
    """A data file: uint8 images of shape (n, height, width), uint8 labels 0 to 9 of shape (n,).

    `name` is `MNIST` for that very content, from whichever file, else the name of the file;
    `sha256` is the file's; `shipped` says whether it is the one that comes with the package.
    """

    x_train: Bytes
    y_train: Bytes
    x_test: Bytes
    y_test: Bytes
    name: str
    sha256: str
    shipped: bool


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a network takes: float32 images of shape (n, pixels), labels of shape (n, 10)."""

    x_train: Floats
    y_train: Floats
    x_val: Floats
    y_val: Floats
    x_test: Floats
    y_test: Floats


def load(source: str = "mnist", *, minimum_rows: int) -> Digits:
    """Read a data file and check all that the studies rely on.

    Args:
        source: `mnist` for the shipped file, or the path of an `.npz` file in the layout of Keras's
            `mnist.npz`: `x_train`, `y_train`, `x_test` and `y_test`. Labels of any integer dtype.
        minimum_rows: how many training rows it must have.

    Raises:
        DataError: if there is anything wrong with the file.

    Example:
        >>> from batchnorm_mechanics.studies import dataset
        >>> digits = dataset.load("mnist", minimum_rows=60_000)
        >>> digits.name, digits.x_train.shape, digits.y_train[:5].tolist()
        ('MNIST', (60000, 28, 28), [5, 0, 4, 1, 9])
    """
    shipped = source == "mnist"
    with _open(source, SHIPPED if shipped else Path(source)) as file:
        sha256, arrays = _read(source, file)
    fault = next(_faults(arrays, minimum_rows), None)
    if fault is not None:
        raise _refusal(source, *fault)
    arrays = {name: array.astype(np.uint8, copy=False) for name, array in arrays.items()}
    is_mnist = shipped or all(
        hashlib.sha256(array.tobytes()).hexdigest() == MNIST_SHA256[name]
        for name, array in arrays.items()
    )
    name = "MNIST" if is_mnist else Path(source).name
    return Digits(**arrays, name=name, sha256=sha256, shipped=shipped)


def _refusal(source: str, expectation: str, hint: str) -> DataError:
    return DataError(f"reproduce: `data` must {expectation}. Received: data={source!r}. {hint}")


def _open(source: str, path: Path) -> BufferedReader:
    try:
        # Opening a named pipe would wait for whoever writes to it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is a folder, or something else that is not a file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        hint = f"It cannot be opened: {getattr(error, 'strerror', None) or error}."
        if path == SHIPPED:
            hint = "The installation lacks the file: reinstall batchnorm-mechanics."
        elif isinstance(error, FileNotFoundError):
            hint = "There is no such file; the data that comes with the package is called 'mnist'."
        raise _refusal(source, "be 'mnist' or the path of an .npz file", hint) from error


def _read(source: str, file: BufferedReader) -> tuple[str, dict[str, np.ndarray]]:
    """Return the SHA-256 of the file, and the four arrays as they are in it."""
    what = "The file"
    try:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if source == "mnist" and sha256 != SHIPPED_SHA256:
            hint = f"That of the installed file is {sha256}: reinstall batchnorm-mechanics."
            raise _refusal(source, f"be undamaged, with SHA-256 {SHIPPED_SHA256}", hint)
        with zipfile.ZipFile(file) as archive:
            found = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [name for name in MNIST_SHA256 if name not in found]
            if missing:
                hint = f"It lacks {', '.join(missing)}; it has {', '.join(found) or 'nothing'}."
                raise _refusal(source, f"hold {', '.join(MNIST_SHA256)}", hint)
            sizes = [archive.getinfo(f"{name}.npy").file_size for name in MNIST_SHA256]
            check_size("It unpacks to", sum(sizes), allowance(Path(file.name)))
            # That which comes with the package is compressed by LZMA.
            is_known = sha256 == SHIPPED_SHA256
            arrays = {}
            for what in MNIST_SHA256:
                arrays[what] = unpacked(archive, f"{what}.npy", is_known=is_known)
            return sha256, arrays
    except DataError:
        raise
    except TooLargeError as error:
        hint = f"{error}. If you know who made it, save it anew with numpy.savez, uncompressed."
        raise _refusal(source, "be of a size that its file explains", hint) from error
    except Exception as error:
        # Not a list of types: one wrong bit makes zipfile, the decompressors and NumPy's parser
        # raise BadZipFile, LZMAError, zlib.error, TokenError, NotImplementedError, MemoryError...
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        hint = f"{what} cannot be read ({reason}): get or save it anew."
        raise _refusal(source, "be an undamaged .npz file without pickles", hint) from error


def _faults(arrays: dict[str, np.ndarray], minimum_rows: int) -> Iterator[tuple[str, str]]:
    """Yield (expectation, hint) of each fault; only the first is sure not to follow from others."""
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim != 3 or not x.size:
            what = f"uint8 images of shape (n, height, width), at least one, in x_{part}"
            yield f"hold {what}", f"They are {x.dtype} of shape {x.shape}: convert them."
        if y.dtype.kind not in "iu" or y.ndim != 1:
            what = f"integer labels of shape (n,) in y_{part}"
            yield f"hold {what}", f"They are {y.dtype} of shape {y.shape}: convert them."
        if len(x) != len(y):
            hint = f"It has {len(x)} images and {len(y)} labels."
            yield f"hold a label for each image in x_{part} and y_{part}", hint
        wrong = y[(y < 0) | (y >= CLASSES)]
        if wrong.size:
            hint = f"{wrong.size} of {y.size} are not, the first is {wrong[0]}: correct them."
            yield f"hold labels from 0 to {CLASSES - 1} in y_{part}", hint
    train, test = arrays["x_train"].shape, arrays["x_test"].shape
    if train[1:] != test[1:]:
        yield "hold images of one size in x_train and x_test", f"Their shapes: {train} and {test}."
    if train[0] < minimum_rows:
        hint = f"It has {train[0]}: use a larger file, or fewer rows."
        yield f"hold at least {minimum_rows} training rows", hint


def prepare(digits: Digits, settings: Settings) -> Arrays:
    """Scale, split and encode the digits as the settings say.

    Standardized inputs are scaled by the mean and biased variance of all training rows used, those
    that validate included, as in the source. Binary inputs are 1 where the pixel is at least 128.

    Raises:
        DataError: if there are too few rows to train and validate on.

    Numerics: scaled in float64 and rounded once, as when all rows are scaled together.

    Example:
        >>> from batchnorm_mechanics.studies import dataset
        >>> from batchnorm_mechanics.studies.registry import Settings
        >>> digits = dataset.load("mnist", minimum_rows=600)
        >>> arrays = dataset.prepare(digits, Settings("keras-layer", rows=600))
        >>> arrays.x_train.shape, arrays.x_val.shape, arrays.x_test.shape, arrays.y_val.shape
        ((550, 784), (50, 784), (100, 784), (50, 10))
    """
    from sklearn.utils import shuffle

    rows = min(len(digits.x_train), settings.rows or len(digits.x_train))
    needed = rows_needed(settings)
    if rows < needed:
        raise DataError(
            f"prepare: `digits` must have {needed} training rows or more, to validate on one and "
            f"to train on a batch of {settings.batch_size}. Received: {rows} rows of "
            f"{digits.name}. Use more of them."
        )
    validating = round(rows * settings.validation_fraction)
    tested = None if settings.rows is None else max(1, rows // 6)
    x, x_test = digits.x_train[:rows], digits.x_test[:tested]
    scaler = fit_scaler(x) if settings.inputs == "standardized" else None
    # The order alone is shuffled, which gives the rows that shuffling the arrays would give.
    order = shuffle(np.arange(rows), random_state=settings.split_seed)
    val, train = order[:validating], order[validating:]
    one_hot = np.eye(CLASSES, dtype=np.float32)
    return Arrays(
        x_train=_scaled(x, train, scaler),
        y_train=one_hot[digits.y_train[train]],
        x_val=_scaled(x, val, scaler),
        y_val=one_hot[digits.y_train[val]],
        x_test=_scaled(x_test, np.arange(len(x_test)), scaler),
        y_test=one_hot[digits.y_test[:tested]],
    )


def rows_needed(settings: Settings) -> int:
    """Return the fewest training rows that leave one to validate and a batch to train.

    Example:
        >>> from batchnorm_mechanics.studies import dataset
        >>> from batchnorm_mechanics.studies.registry import Settings
        >>> dataset.rows_needed(Settings("keras-layer"))
        65
    """

    def enough(rows: int) -> bool:
        validating = round(rows * settings.validation_fraction)
        return validating >= 1 and rows - validating >= settings.batch_size

    return next(rows for rows in itertools.count(settings.batch_size) if enough(rows))


def fit_scaler(images: Bytes) -> "StandardScaler":
    """Return scikit-learn's scaler of the pixels, fitted in blocks to images (n, height, width)."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for start in range(0, len(images), _BLOCK):
        scaler.partial_fit(images[start : start + _BLOCK].reshape(-1, images[0].size))
    return scaler


def _scaled(images: Bytes, order: NDArray[np.int64], scaler: "StandardScaler | None") -> Floats:
    """Return the images in that order, scaled, or black and white if there is no scaler."""
    out = np.empty((len(order), images[0].size), np.float32)
    for start in range(0, len(order), _BLOCK):
        block = images[order[start : start + _BLOCK]].reshape(-1, images[0].size)
        out[start : start + _BLOCK] = block >= 128 if scaler is None else scaler.transform(block)
    return out


def steps_in_epoch(rows: int, settings: Settings) -> int:
    """Return the number of steps of an epoch over that many training rows.

    Example:
        >>> from batchnorm_mechanics.studies import dataset
        >>> from batchnorm_mechanics.studies.registry import Settings
        >>> dataset.steps_in_epoch(55_000, Settings("keras-layer"))
        916
    """
    whole = rows // settings.batch_size
    wanted = settings.steps_per_epoch or whole
    # Only a stream that goes on can give more steps than there are batches.
    return wanted if settings.stream == "continue" else min(whole, wanted)


def training_epochs(arrays: Arrays, settings: Settings, seed: int) -> "tf.data.Dataset":
    """Return what `StudyModel` is trained on: an epoch, or epochs without end if they continue.

    An element is an epoch: all images, all labels, the row numbers of its batches, filled up with
    zeros to the batches of all rows, and the number of its batches. They are the batches of
    `from_tensor_slices(...).shuffle(rows, seed).batch(...)`, but quicker: row numbers alone are
    shuffled. Each iteration shuffles anew, from `seed` and TensorFlow's global seed. With
    `continue`, give `fit` one step an epoch.
    """
    import tensorflow as tf

    rows = len(arrays.x_train)
    steps, whole = steps_in_epoch(rows, settings), rows // settings.batch_size
    numbers = tf.data.Dataset.range(rows).shuffle(rows, seed=seed, reshuffle_each_iteration=True)
    batches = numbers.batch(settings.batch_size, drop_remainder=True)
    # Repeated as batches: none then holds rows of two passes, and perhaps one row twice.
    batches = batches.repeat() if settings.stream == "continue" else batches.take(steps)
    with tf.device("CPU:0"):  # Where tf.data works, even if there is a GPU.
        images, labels = tf.constant(arrays.x_train), tf.constant(arrays.y_train)
    return batches.batch(steps, drop_remainder=True).map(
        lambda numbers: (
            images,
            labels,
            tf.pad(numbers, [[0, max(0, whole - steps)], [0, 0]]),
            tf.constant(steps),
        )
    )


def evaluation_rows(
    x: Floats, y: Floats, settings: Settings, *, batches: int | None = None
) -> "tf.data.Dataset":
    """Return the rows of the first `batches`, or all, as the one element that is evaluated."""
    import tensorflow as tf

    rows = None if batches is None else batches * settings.batch_size
    return tf.data.Dataset.from_tensors((x[:rows], y[:rows]))
