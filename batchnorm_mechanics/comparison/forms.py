"""Models in whatever form they come, opened so that they can be run."""

import os
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.model_archives import allowance
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics.comparison.opening import Opened

# Files of models that are not Keras's, by the ends of their names.
FOREIGN = {".onnx": "ONNX", ".tflite": "LiteRT", ".litert": "LiteRT", ".xml": "OpenVINO"}


def is_foreign(path: Path) -> bool:
    """Return whether a file is, by its name, none of Keras's.

    Example:
        >>> is_foreign(Path("model.onnx")), is_foreign(Path("model.keras"))
        (True, False)
    """
    return path.suffix.lower() in FOREIGN


def opened(model: Any, *, argument: str, most: int | None = None, caller: str) -> Opened:
    """Open a model.

    Args:
        model: a Keras model, or the path of a file.
        argument: "a" or "b", to name in an error.
        most: how many bytes a file may hold; None for 10 times its size and 100 MiB.
        caller: the function to name in an error.

    Raises:
        InputError: it is neither, or the file cannot be taken.
    """
    import_tensorflow_quietly()
    import keras

    from batchnorm_mechanics.comparison.keras_form import KerasForm

    if isinstance(model, keras.Model):
        _check_called(model, argument, caller)
        return KerasForm(model)
    if not isinstance(model, str | os.PathLike):
        raise InputError(
            f"{caller}: `{argument}` must be a Keras model or the path of a file. "
            f"Received: {argument} of type {type(model).__name__}. "
            "Files are .keras, .h5, .onnx, .tflite, or .xml of OpenVINO."
        )
    path = Path(model)
    if not is_foreign(path):
        from batchnorm_mechanics.models.files import load_model

        loaded = load_model(path, most=most, caller=caller)
        _check_called(loaded, argument, caller)
        return KerasForm(loaded)
    return _opened_file(path, argument, most, caller)


def _opened_file(path: Path, argument: str, most: int | None, caller: str) -> Opened:
    form = FOREIGN[path.suffix.lower()]

    def refuse(why: str) -> InputError:
        return InputError(
            f"{caller}: `{argument}` must be a model that can be run here. "
            f"Received: {str(path)!r}, which {why}."
        )

    if not path.is_file():
        raise refuse("is not there" if not path.exists() else "is no file")
    size, limit = path.stat().st_size, allowance(path, most)
    if size > limit:
        raise refuse(f"holds {size:,} bytes, more than {limit:,}: give a larger --max-size")
    return _opener(form)(path, limit, refuse)


def _opener(form: str) -> Any:
    if form == "ONNX":
        from batchnorm_mechanics.comparison.onnx_form import open_onnx

        return open_onnx
    if form == "LiteRT":
        from batchnorm_mechanics.comparison.litert_form import open_litert

        return open_litert
    from batchnorm_mechanics.comparison.openvino_form import open_openvino

    return open_openvino


def _check_called(model: Any, argument: str, caller: str) -> None:
    """Refuse a model that has no weights yet, of which no export would be one either."""
    if not model.built:
        raise InputError(
            f"{caller}: `{argument}` must have weights. Received: {model.name}, which was never "
            "called. Call it on a batch first, as model(batch); exporting it needs that too."
        )
