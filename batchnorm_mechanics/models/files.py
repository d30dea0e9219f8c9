"""Models from files and into files, with the mark of which statistics were estimated anew."""

from pathlib import Path
from typing import Any

from batchnorm_mechanics._io import model_files, model_output


def load_model(path: Path, **options: Any) -> Any:
    """Load a model as `_io.model_files.load_model` does, with the mark in its file."""

    def with_mark(model: Any, path: Path) -> None:
        # Here: it takes TensorFlow.
        from batchnorm_mechanics.models.mark import read_mark

        read_mark(model, path)

    return model_files.load_model(path, also=with_mark, **options)


def save_model(model: Any, path: Path, *, caller: str = "repair") -> None:
    """Save a model as `_io.model_output.save_model` does, with its mark."""
    from batchnorm_mechanics.models.mark import write_mark

    model_output.save_model(model, path, caller=caller, beside=write_mark)
