"""One of each file that we write, made by today's code.

`PYTHONPATH=tests python tests/formats/written.py` keeps, beside this file, those whose version has
none yet: run it after raising a format's number. It leaves alone what is there: users have such
files.
"""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import keras
import made_up_runs
import numpy as np
from commands import bnm_here

import batchnorm_mechanics as bnm
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.report import Report, document
from batchnorm_mechanics.models.files import save_model
from batchnorm_mechanics.studies.folder import OutputFolder
from batchnorm_mechanics.studies.registry import STUDIES

KEPT = Path(__file__).parent
CONDITIONS = {"batchnorm_mechanics": "0.1.0", "data": "0" * 64, "quick": False}
STUDY = "keras-100"


def sick_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((3,), name="input"),
            keras.layers.Dense(4, name="dense"),
            bnm.BatchNormalization(statistics=bnm.DebiasedMovingAverage(0.9), name="ours"),
            keras.layers.Dense(2, name="logits"),
            keras.layers.BatchNormalization(name="bn"),
        ],
        name="small",
    )
    model.get_layer("bn").moving_mean.assign([np.nan, 1.0])
    return model


def write_all(folder):
    """Write one of each into a folder, and return {its kind: its file}."""
    of_studies = OutputFolder(folder / "out", CONDITIONS)
    (run,) = made_up_runs.runs([STUDY], [100])[STUDY]
    of_studies.run_folder(STUDY, 100).mkdir(parents=True)
    of_studies.finish(STUDIES[STUDY], run)
    files = {
        "conditions.json": folder / "out" / "conditions.json",
        "run.json": of_studies.run_folder(STUDY, 100) / "run.json",
        "marked.keras": folder / "marked.keras",
        "watch.csv": folder / "watch.csv",
    }
    texts = {"results.json": made_up_runs.made_up([STUDY, "average-100"]), "conform.json": judged()}
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    np.savez(folder / "data.npz", x=x, y=np.arange(64) % 2)
    model = sick_model()
    save_model(model, folder / "sick.keras")
    for name, command in {
        "doctor.json": ["doctor", "sick.keras", "--data", "data.npz"],
        "repair.json": ["repair", "sick.keras", "--data", "data.npz", "--out", "fixed.keras"],
        "fold.json": ["fold", "fixed.keras", "--out", "folded.keras"],
        "compare.json": ["compare", "sick.keras", "fixed.keras", "--data", "data.npz"],
        "trace.json": ["trace", "--backward", "--compare"],
    }.items():
        ended = bnm_here(*command, "--json", cwd=folder)
        assert ended.code in (0, 1), ended.err
        texts[name] = json.loads(ended.out)
    for name, found in texts.items():
        files[name] = folder / name
        files[name].write_text(json.dumps(found, indent=1) + "\n")
    bnm.recalibrate(model, x)
    save_model(model, files["marked.keras"])
    model.compile(loss="mse")
    watch = bnm.Watch(csv=files["watch.csv"], data=x)
    model.fit(x, x[:, :2], epochs=1, verbose=0, callbacks=[watch])
    return files


def judged():
    good = Check("training output", True, 1e-7, 2e-7, 3.0, 4e-7, 1e-7)
    bad = Check("dx", False, 0.5, 0.25, 1e6, 1e-6, 0.5, None, "gradient through the mean missing")
    about = {"shape": (16, 3), "kept": (1,), "dtype": "float32"}
    cases = (
        CaseResult("a", "axes", "pass", (good,), **about),
        CaseResult("b", "axes", "fail", (good, bad), **about),
        CaseResult("c", "mask", "skipped", reason="it has no masks", **about),
    )
    return document([Report("mine", "a layer", Conventions("unbiased", "new", 0.1), cases, 2.0)])


def version_of(file):
    """Return the format's version that a file carries."""
    if file.suffix == ".csv":
        head, first = (line.split(",") for line in file.read_text().splitlines()[:2])
        return int(first[head.index("format")])
    return content(file)["format"]


def content(file):
    """Return the object that a file of ours holds, that in a `.keras` file included."""
    if file.suffix == ".keras":
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("batchnorm_mechanics.json"))
    return json.loads(file.read_text())


def kept(kind, version):
    name, _, ending = kind.partition(".")
    return KEPT / f"{name}-{version}.{ending}"


def main():
    """Keep what is new."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, file in write_all(Path(folder)).items():
            place = kept(kind, version_of(file))
            if not place.exists():
                shutil.copy(file, place)
                print(f"kept {place.name}")


if __name__ == "__main__":
    main()
