"""The output folder: finished runs are kept, and runs of other settings are never mixed in."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.studies.config import Run, Study

_CONDITIONS = "conditions.json"
_RUN = "run.json"


class OutputFolder:
    """Where `reproduce` writes.

    `conditions.json` says under what conditions (data, versions, lengths) all runs in the folder
    were made. `runs/STUDY/seed-N/` holds each run's artifacts, and when it is finished `run.json`
    with its study's settings and its figures: a run without that file is done again.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        """Open the folder, or make it.

        Args:
            path: the folder.
            conditions: what every run in it has in common, as JSON holds it.

        Raises:
            InputError: the folder cannot be made or written, or holds runs of other conditions.
        """
        self.path = path
        conditions = json.loads(json.dumps(conditions))
        try:
            path.mkdir(parents=True, exist_ok=True)
            found = _read_json(path / _CONDITIONS)
            if found is None:
                write_atomically(path / _CONDITIONS, json.dumps(conditions, indent=2) + "\n")
            else:
                # Being able to read is not enough, and it is better known now than after an hour.
                tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise InputError(
                f"reproduce: `out` must be a folder that can be written. Received: "
                f"out={str(path)!r} ({error.strerror}). Name another with --out, or make room."
            ) from error
        if found is not None and found != conditions:
            raise _other_settings(path, found, conditions)

    def run_folder(self, study: str, seed: int) -> Path:
        """Return where the artifacts of a run are."""
        return self.path / "runs" / study / f"seed-{seed}"

    def finish(self, study: Study, run: Run) -> None:
        """Keep a finished run."""
        folder = self.run_folder(study.name, run.seed)
        record = {"settings": dataclasses.asdict(study.settings), "run": run.as_json()}
        write_atomically(folder / _RUN, json.dumps(record, indent=2) + "\n")

    def finished(self, studies: dict[str, Study]) -> dict[str, list[Run]]:
        """Return the finished runs of these studies, by study and in the order of their seeds.

        Raises:
            InputError: a run was made with other settings than its study has now, or its file is
                damaged.
        """
        runs: dict[str, list[Run]] = {}
        for name, study in studies.items():
            found = [
                self._read_run(study, file)
                for file in (self.path / "runs" / name).glob(f"seed-*/{_RUN}")
            ]
            if found:
                runs[name] = sorted(found, key=lambda run: run.seed)
        return runs

    def _read_run(self, study: Study, file: Path) -> Run:
        record = _read_json(file) or {}
        try:
            settings, run = record["settings"], Run(**record["run"])
        except (KeyError, TypeError) as error:
            raise _damaged(file, f"lacks what a run has ({error})") from error
        wanted = json.loads(json.dumps(dataclasses.asdict(study.settings)))
        if settings != wanted:
            raise _other_settings(file.parent, settings, wanted)
        return run


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object that a file holds, or None if there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, f"is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise _damaged(path, "is not a JSON object")
    return found


def _damaged(path: Path, fault: str) -> InputError:
    return InputError(
        f"reproduce: `out` must hold what an earlier run wrote. Received: {str(path)!r}, which "
        f"{fault}. Delete that file, or name another folder with --out."
    )


def _other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> InputError:
    return InputError(
        f"reproduce: `out` must be a new folder, or hold results of the same settings. "
        f"Received: out={str(path)!r}, made with {_differences(found, wanted)}. "
        "Name another with --out, or delete it; nothing in it was changed."
    )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key}={found.get(key)!r} and not {wanted.get(key)!r}" for key in changed)
