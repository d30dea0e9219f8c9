"""docs/files_and_data.md says what comes of each file, and that is what comes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.model_files import load_model
from batchnorm_mechanics._io.old_models import TooOldError, modernized

DOCS = Path(__file__).parents[1] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("files_and_data", DOCS / "files_and_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = generator()
PAGE = MADE.PAGE.read_text(encoding="utf-8").splitlines()
TRIED = [(command, one) for command, tried in MADE.COMMANDS.values() for one in tried]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    MADE.write_files(folder)
    return folder


@pytest.mark.parametrize(
    ("command", "tried"), TRIED, ids=[f"{command} {one.arguments}" for command, one in TRIED]
)
def test_each_gets_its_line(files, monkeypatch, command, tried):
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "80")
    assert MADE.row(command, tried) in PAGE


def test_the_page_has_no_other_lines():
    lines = [line for line in PAGE if line.startswith("| ") and "what was tried" not in line]
    assert len(lines) - len(MADE.COMMANDS) == len(TRIED) >= 50


OLD = {
    "one": {},
    "two": {},
    "sequential": {},
    "graph": {},
    "nested": {},
    "shared": {},
    "steps": {},
    "functions": {},
    "own_loss": {"loss": "mse"},
    "code": {"trust": True},
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_model_computes_what_it_did_in_the_keras_that_wrote_it(files, name):
    outputs = np.load(files / "outputs.npz")
    path = files / f"{name}.{'keras' if name == 'two' else 'h5'}"
    model = load_model(path, **OLD[name])
    inputs = [outputs[f"{name}/{at}"] for at in range(len(model.inputs))]
    made = np.asarray(model(inputs if len(inputs) > 1 else inputs[0]))
    assert made.shape == outputs[name].shape
    np.testing.assert_allclose(made, outputs[name], rtol=1e-4, atol=1e-5)


def test_the_loss_of_an_old_model_comes_along_without_its_optimizer(files):
    import keras

    model = load_model(files / "sequential.h5")
    assert model.loss is keras.losses.get("mse")
    assert load_model(files / "sequential.h5", loss="mae").loss is keras.losses.get("mae")
    with pytest.warns(UserWarning, match="without its loss.*'own_loss'"):
        assert not load_model(files / "own_loss.h5").compiled
    with pytest.raises(InputError, match=r"^doctor: `loss` must be a loss of Keras's"):
        load_model(files / "own_loss.h5", loss="own_loss")


@pytest.mark.parametrize(
    "path",
    [
        "three.weights.h5",
        "two.weights.h5",
        "two_weights.h5",
        "checkpoints",
        "saved",
        "sequential.h5",
    ],
)
def test_weights_go_where_they_belong(files, monkeypatch, path):
    monkeypatch.chdir(files)
    model = load_model(Path(path), build="mine.py:small")
    whole = load_model(Path("three.keras" if path.startswith("three") else "sequential.h5"))
    for weight, other in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_the_list_of_what_is_admitted_holds_for_old_files(files, tmp_path):
    import json

    import h5py

    for config in (
        {"class_name": "TFSMLayer", "config": {"name": "z", "filepath": "beside"}},
        {"class_name": "function", "config": "load_model", "module": "keras.saving"},
    ):
        path = tmp_path / "bad.h5"
        path.write_bytes((files / "sequential.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            model = json.loads(file.attrs["model_config"])
            model["config"]["layers"].insert(1, config)
            file.attrs["model_config"] = json.dumps(model)
        with pytest.raises(InputError, match=r"unless it is trusted|needs the class"):
            load_model(path)


def test_an_argument_that_changes_what_is_computed_is_not_left_out():
    layer = {"class_name": "LSTM", "config": {"name": "lstm", "units": 2, "time_major": True}}
    with pytest.raises(TooOldError, match="'lstm', a LSTM, has time_major=True"):
        modernized(layer)
    layer["config"]["time_major"] = False
    assert "time_major" not in modernized(layer)["config"]
