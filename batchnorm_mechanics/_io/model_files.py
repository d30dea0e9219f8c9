"""Models from files, safely: whole ones, old ones, or weights and who makes their model."""

import contextlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.model_archives import (
    TooLargeError,
    UnsoundError,
    allowance,
    read_hdf5,
    read_keras,
    weights_up_to,
)
from batchnorm_mechanics._io.model_config import Refused, check_config
from batchnorm_mechanics._io.model_refusals import (
    BUILD,
    HDF5_SUFFIXES,
    check_is_model_file,
    no_model,
    refusal_of,
    refused_by_list,
)
from batchnorm_mechanics._io.model_weights import MismatchError, put_weights
from batchnorm_mechanics._io.old_models import TooOldError, modernized, write_reduced
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics._user_code import find, is_of_the_user

_SHORT_NAMES = ("mse", "mae", "mape", "msle", "MSE", "MAE", "MAPE", "MSLE", "bce", "BCE")
_ADVICE = ("No training configuration found", "compiled metrics have yet to be built")


@dataclass(frozen=True)
class Reading:
    """How a model's file is read.

    Attributes:
        trust: load Python code from the file too, as a `Lambda` layer holds it, and call whatever
            of Keras's the file names.
        custom: classes and functions that the model needs, each as `module:Name` or
            `path/to/file.py:Name`; these are imported, so they run.
        build: a function, likewise, that returns the model; of the file the weights alone are
            taken.
        loss: of the model, in place of that in the file: a name of Keras's, or likewise.
        most: how many bytes the file may unpack to, and its weights may take; None for 10 times
            its own size and 100 MiB.
        caller: the function to name in an error.
    """

    trust: bool = False
    custom: Sequence[str] = ()
    build: str | None = None
    loss: str | None = None
    most: int | None = None
    caller: str = "doctor"


def load_model(
    path: Path, *, also: Callable[[Any, Path], None] | None = None, **options: Any
) -> Any:
    """Load a model without running code that its file holds, or names.

    Args:
        path: of a `.keras` file or an `.h5` file with a whole model, Keras 3's or older; with
            `build` of a file of weights or a TensorFlow checkpoint too; with `trust` of the folder
            of a SavedModel of tf.keras.
        also: reads more from the file into the model.
        **options: of `Reading`.

    Returns:
        The model, compiled as it was when it was saved; a warning says so where it cannot be.

    Raises:
        InputError: there is no such file, it is damaged, too large or no model, holds or names code
            that is not trusted, or needs classes that are not there; or weights are not those of
            the model that `build` makes.

    Example:
        >>> import keras, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> keras.Sequential([keras.layers.Input((2,)), keras.layers.BatchNormalization()]).save(
        ...     folder / "model.keras"
        ... )
        >>> len(load_model(folder / "model.keras").weights)
        4
    """
    reading = Reading(**options)
    caller = reading.caller
    is_folder = check_is_model_file(
        path, trust=reading.trust, is_built=reading.build is not None, caller=caller
    )
    # Only here: a mistyped path is told at once, and not after the seconds that this takes.
    import_tensorflow_quietly()
    import keras

    try:
        if reading.build is not None:
            model = _built(path, reading)
        elif is_folder:
            model = _of_saved_model(path, reading)
        else:
            model = _of_file(path, reading)
        if also is not None and not is_folder:
            also(model, path)
    except InputError:
        raise
    except Refused as refused:
        raise refused_by_list(path, refused, caller) from refused
    except TooOldError as error:
        raise no_model(path, f"{error}. Load it in Keras 2, or: {BUILD}", caller) from error
    except UnsoundError as error:
        remedy = "It was not written by Keras; save the model anew."
        if isinstance(error, TooLargeError):
            remedy = "If you know who made it, allow that many: --max-size."
        raise no_model(path, f"{error}. {remedy}", caller) from error
    except Exception as error:
        # Not a list of types: one wrong bit makes zipfile, HDF5 and Keras raise any of theirs.
        raise refusal_of(path, error, caller) from error
    if not isinstance(model, keras.Model):
        raise no_model(path, f"It holds a {type(model).__name__}.", caller)
    if reading.loss is not None:
        model.compile(loss=_loss(reading))
    return model


def _of_file(path: Path, reading: Reading) -> Any:
    """Load a whole model, and compile it as it was if that can be."""
    import keras

    # Keras stores such a loss in an HDF5 file by this name, and does not find it again by it.
    short = _SHORT_NAMES if path.suffix in HDF5_SUFFIXES else ()
    objects = {name: keras.losses.get(name) for name in short} | {
        spec.rpartition(":")[2]: find(spec, caller=reading.caller, argument="custom")
        for spec in reading.custom
    }
    most = allowance(path, reading.most)
    stored = read_hdf5(path, most) if path.suffix in HDF5_SUFFIXES else read_keras(path, most)
    known = {*objects, *keras.saving.get_custom_objects()}
    config = modernized(stored.model) if stored.is_old else stored.model
    if not reading.trust:
        check_config(config, custom=known)
    training = stored.training
    if stored.is_old and isinstance(training, dict):
        # Its optimizer is none of Keras 3's.
        training = {"loss": training.get("loss")}
    compiled = reading.loss is None and (reading.trust or _can_be_compiled(training, known))

    def load(file: Path, *, compiled: bool) -> Any:
        with _without_advice_to_compile(), weights_up_to(most), _installed_modules_alone():
            return keras.saving.load_model(
                file, custom_objects=objects, compile=compiled, safe_mode=not reading.trust
            )

    if stored.is_old and config is not None:
        with tempfile.TemporaryDirectory() as folder:
            reduced = Path(folder) / f"model{path.suffix}"
            write_reduced(path, reduced, config)
            model = load(reduced, compiled=False)
        if compiled and isinstance(training, dict):
            _compile_with(model, training["loss"], objects)
        return model
    try:
        return load(path, compiled=compiled)
    except TooLargeError:
        raise
    except Exception as error:
        if not compiled or not training:
            raise
        # Nothing of a file but its layers and weights is needed.
        model = load(path, compiled=False)
        warnings.warn(
            f"The model is not compiled as it was: {first_line(error)}. --loss brings the loss.",
            stacklevel=2,
        )
        return model


def _compile_with(model: Any, loss: Any, objects: dict[str, Any]) -> None:
    """Compile a model with the loss that its file names, or say that it cannot be found."""
    import keras

    def made(part: Any) -> Any:
        if isinstance(part, dict) and "class_name" not in part:
            return {key: made(one) for key, one in part.items()}
        if isinstance(part, list):
            return [made(one) for one in part]
        return part if part is None else objects.get(str(part)) or keras.losses.get(part)

    if loss is None:
        return
    try:
        model.compile(loss=made(loss))
    except Exception as error:
        named = repr(loss) if isinstance(loss, str) else first_line(error)
        warnings.warn(
            f"The model is without its loss, since Keras does not know it ({named}); "
            "--loss path/to/file.py:name brings it.",
            stacklevel=2,
        )


def _loss(reading: Reading) -> Any:
    import keras

    name = str(reading.loss)
    if ":" in name:
        return find(name, caller=reading.caller, argument="loss")
    try:
        return keras.losses.get(name)
    except ValueError as error:
        raise InputError(
            f"{reading.caller}: `loss` must be a loss of Keras's by its name, or one of yours. "
            f"Received: loss={name!r}. For instance --loss sparse_categorical_crossentropy, or "
            "--loss path/to/file.py:name."
        ) from error


def _built(path: Path, reading: Reading) -> Any:
    """Return the model that the user's function makes, with the weights of a file."""
    import keras

    model = find(str(reading.build), caller=reading.caller, argument="build")()

    def refusal(expectation: str, what: str) -> InputError:
        return InputError(
            f"{reading.caller}: `build` must {expectation}. Received: build={reading.build!r}{what}"
        )

    if not isinstance(model, keras.Model) or not model.built:
        kind = "one without weights" if isinstance(model, keras.Model) else type(model).__name__
        raise refusal(
            "return a keras.Model with weights",
            f", which returned {kind}. Begin the model with an Input, or call it on data once.",
        )
    if path.suffix in HDF5_SUFFIXES:
        read_hdf5(path, allowance(path, reading.most))
    elif path.suffix == ".keras":
        read_keras(path, allowance(path, reading.most))
    try:
        put_weights(model, path)
    except MismatchError as error:
        raise refusal(
            f"make the model whose weights are in {str(path)!r}",
            f", but {error}. Change what it builds.",
        ) from error
    return model


def _of_saved_model(path: Path, reading: Reading) -> Any:
    """Load a SavedModel of tf.keras, by way of an HDF5 file that tf-keras writes."""
    try:
        with _without_warnings():
            import tf_keras
    except ImportError as error:
        raise InputError(
            f"{reading.caller}: `model` must be a file of Keras's where tf-keras is not installed. "
            f"Received: model={str(path)!r}, a SavedModel. Install it: "
            "pip install batchnorm-mechanics[legacy]."
        ) from error
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        whole = Path(folder) / "model.h5"
        custom = {
            spec.rpartition(":")[2]: find(spec, caller=reading.caller, argument="custom")
            for spec in reading.custom
        }
        try:
            model = tf_keras.models.load_model(path, custom_objects=custom, compile=False)
            model.save(whole)
        except (NotImplementedError, AttributeError) as error:
            why = "It holds functions of a model, and not its layers, as of a class of one's own."
            raise no_model(path, f"{why} {BUILD}", reading.caller) from error
        return _of_file(whole, reading)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hold back what tf-keras and TensorFlow say of a format that is old: all here is."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _can_be_compiled(config: Any, known: Collection[str]) -> bool:
    """Return whether a model can be compiled as it was, and warn if not: it is a model without."""
    try:
        check_config(config, custom=known)
    except Refused as refused:
        at = f" at {refused.place}" if refused.place else ""
        brings = "--trust" if refused.unknown is None else f"--custom module:{refused.unknown}"
        warnings.warn(
            f"The model is not compiled as it was, since that names {refused.what}{at}; {brings} "
            "brings it.",
            stacklevel=3,
        )
        return False
    return True


@contextlib.contextmanager
def _installed_modules_alone() -> Iterator[None]:
    """Keep modules that lie in the current folder, or beside a user's code, from being imported.

    What the user named has been imported before.
    """
    before = sys.path.copy()
    sys.path[:] = [folder for folder in before if not is_of_the_user(folder)]
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _without_advice_to_compile() -> Iterator[None]:
    """Hold back lines that Keras logs of an `.h5` file: that it is not compiled, or its metrics.

    The model is none the worse here.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in _ADVICE)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
