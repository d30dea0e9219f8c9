"""Where `bnm reproduce` keeps what is finished: what it writes there, reads again, and refuses."""

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.files import (
    HeldError,
    alone_in,
    is_out_of_space,
    set_aside,
    write_atomically,
)
from batchnorm_mechanics._io.json import NewerError, check_format, plain, text
from batchnorm_mechanics.studies.registry import Run, Study

_CONDITIONS = "conditions.json"
_RUN, _RUNS = "run.json", "runs"
# Of the folder and the files in it; the first ones did not say so. Raise it when one of them
# changes; tests/formats keeps one of each version.
_FORMAT = 1


def try_to_write(folder: Path) -> None:
    """Write a file into a folder that is gone at once.

    Raises:
        OSError: it cannot be written.
    """
    tempfile.TemporaryFile(dir=folder).close()


def cannot_go_on(folder: Path, error: Exception) -> InputError:
    """Return the error for a disk that is full, a folder that is read-only now, or gone."""
    if is_out_of_space(error):
        return InputError(
            f"reproduce: `out` must be on a disk with room. Received: out={str(folder)!r}, which "
            "is full. Finished runs are kept: make room and run the same command again, or name "
            "another folder with --out."
        )
    reason = error.strerror if isinstance(error, OSError) else None
    return InputError(
        "reproduce: `out` must be a folder that can be written to the end. Received: "
        f"out={str(folder)!r}, which cannot any more ({reason or error}). Finished runs are kept "
        "in it: run the same command again when it can, or name another folder with --out."
    )


class OutputFolder:
    """Where `reproduce` writes.

    `conditions.json` says under what conditions (data, versions, lengths) all runs in the folder
    were made. `runs/STUDY/seed-N/` holds each run's artifacts, and when it is finished `run.json`
    with its study's settings and its figures: a run without that file is done again. What is
    damaged is set aside.

    Attributes:
        path: the folder.
        damaged: where what was set aside is kept now.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        """Open the folder, or make it.

        Args:
            path: the folder.
            conditions: what every run in it has in common, as JSON holds it.

        Raises:
            InputError: the folder cannot be made or written, or holds runs of other conditions, or
                of a newer version.
        """
        self.path = path
        self.damaged: list[Path] = []
        conditions = plain({"format": _FORMAT, **conditions})
        try:
            path.mkdir(parents=True, exist_ok=True)
            found = self._read(path / _CONDITIONS)
            if found is None:
                # Whose runs there are is not known without them.
                if self.damaged and (path / _RUNS).exists():
                    self.damaged.append(set_aside(path / _RUNS))
                write_atomically(path / _CONDITIONS, text(conditions) + "\n")
            else:
                # Being able to read is not enough, and it is better known now than after an hour.
                try_to_write(path)
        except OSError as error:
            raise InputError(
                f"reproduce: `out` must be a folder that can be written. Received: "
                f"out={str(path)!r} ({error.strerror}). Name another with --out, or make room."
            ) from error
        if found is not None and (found := {**found, "format": _FORMAT}) != conditions:
            raise _other_settings(path, found, conditions)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder.

        Raises:
            InputError: one works in it, or it cannot be written any more.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(alone_in(self.path))
            except HeldError as error:
                raise InputError(
                    "reproduce: `out` must be a folder in which nothing else runs. Received: "
                    f"out={str(self.path)!r}, in which a run is under way ({error.by}). "
                    "Wait for its end, or name another with --out."
                ) from error
            except OSError as error:
                raise cannot_go_on(self.path, error) from error
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Have something written into the folder, or say what keeps that from being done.

        Raises:
            InputError: the disk is full, the folder has turned read-only, or is gone.
        """
        try:
            # A share that was lost can leave an empty folder in its place.
            (self.path / _CONDITIONS).stat()
            yield
        except OSError as error:
            raise cannot_go_on(self.path, error) from error

    def run_folder(self, study: str, seed: int) -> Path:
        """Return where the artifacts of a run are."""
        return self.path / _RUNS / study / f"seed-{seed}"

    def make_room_for(self, runs: Iterable[Path]) -> None:
        """Make the folders in which those of runs will be."""
        with self.writing():
            for run in runs:
                run.parent.mkdir(parents=True, exist_ok=True)

    def finish(self, study: Study, run: Run) -> None:
        """Keep a finished run."""
        folder = self.run_folder(study.name, run.seed)
        record = {"format": _FORMAT, "settings": study.settings, "run": run}
        with self.writing():
            write_atomically(folder / _RUN, text(record) + "\n")

    def finished(self, studies: dict[str, Study]) -> dict[str, list[Run]]:
        """Return the finished runs of these studies, by study and in the order of their seeds.

        Raises:
            InputError: a run was made with other settings than its study has now.
        """
        runs: dict[str, list[Run]] = {}
        for name, study in studies.items():
            found = [
                run
                for file in sorted((self.path / _RUNS / name).glob(f"seed-*/{_RUN}"))
                if (run := self._read_run(study, file)) is not None
            ]
            if found:
                runs[name] = sorted(found, key=lambda run: run.seed)
        return runs

    def _read_run(self, study: Study, file: Path) -> Run | None:
        record = self._read(file)
        if record is None:
            return None
        try:
            settings, run = record["settings"], _run_of(**record["run"])
        except (AttributeError, KeyError, TypeError, ValueError):
            self.damaged.append(set_aside(file))
            return None
        wanted = plain(study.settings)
        if settings != wanted:
            raise _other_settings(file.parent, settings, wanted)
        return run

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Return the object that a file holds; None if there is none, or it had to be set aside."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        try:
            if isinstance(found, dict):
                check_format(found, _FORMAT)
                return found
        except NewerError as error:
            raise InputError(
                "reproduce: `out` must be a new folder, or one of this version. "
                f"Received: out={str(self.path)!r}, in which {path.name!r} was {error}. "
                "Update, or name another with --out; nothing in it was changed."
            ) from error
        except ValueError:
            pass
        self.damaged.append(set_aside(path))
        return None


def _run_of(*, seed: int, history: dict[str, list[Any]], **figures: Any) -> Run:
    """Return a run from JSON, which has text for numbers that are not finite."""
    numbers = {name: float(figure) for name, figure in figures.items()}
    along = {name: [float(value) for value in values] for name, values in history.items()}
    return Run(seed=seed, history=along, **numbers)


def _other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> InputError:
    return InputError(
        f"reproduce: `out` must be a new folder, or hold results of the same settings. "
        f"Received: out={str(path)!r}, made with {_differences(found, wanted)}. "
        "Name another with --out, or delete it; nothing in it was changed."
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key}={found.get(key)!r} and not {wanted.get(key)!r}" for key in changed)
