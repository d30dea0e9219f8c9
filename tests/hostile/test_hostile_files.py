"""Nothing that a model's file names is run, opened, imported or allocated; each is refused."""

import json
import re
import resource
import socket
import sys

import h5py
import keras
import numpy as np
import pytest
from commands import bnm_here
from hostile import hostile_files as hostile

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.model_archives import (
    TooLargeError,
    UnsoundError,
    allowance,
    parsed,
    read_hdf5,
)
from batchnorm_mechanics.models.files import load_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a plain model, which is the current one, and no way to another machine."""
    monkeypatch.chdir(tmp_path)
    model = hostile.plain_model()
    model.save("plain.keras")
    (tmp_path / f"{hostile.MODULE}.py").write_text("open('marker', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)

    def connect(*_):
        (tmp_path / "marker").touch()
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tmp_path


def refusal(path):
    """Load a file; return the message, and see that nothing else came of it."""
    state = keras.config.epsilon(), keras.config.floatx()
    before = set(path.parent.rglob("*")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        load_model(path)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1]
    assert taken < 600_000, f"{taken} kB"
    assert set(path.parent.rglob("*")) == before[0]
    assert (keras.config.epsilon(), keras.config.floatx()) == state
    assert hostile.MODULE not in sys.modules
    assert len(str(error.value)) < 1000
    return str(error.value)


def test_a_plain_model_is_loaded(folder):
    assert load_model(folder / "plain.keras").name == "plain"


@pytest.mark.parametrize("name", hostile.LAYERS)
def test_a_layer_of_a_keras_file_is_refused(folder, name):
    parts = hostile.parts_of(folder / "plain.keras")
    hostile.write(folder / "x.keras", hostile.with_layer(parts, hostile.LAYERS[name]))
    message = refusal(folder / "x.keras")
    assert message.startswith("doctor: `model` must ")
    assert "config.layers[3]" in message or "a weight of shape" in message


@pytest.mark.parametrize("name", hostile.LAYERS)
def test_a_layer_of_an_hdf5_file_is_refused(folder, name):
    hostile.plain_model().save(folder / "x.h5")
    hostile.add_to_h5(folder / "x.h5", hostile.LAYERS[name])
    assert refusal(folder / "x.h5").startswith("doctor: `model` must ")


@pytest.mark.parametrize("name", hostile.WEIGHTS)
def test_weights_are_refused(folder, name):
    parts = hostile.parts_of(folder / "plain.keras")
    hostile.write(folder / "x.keras", hostile._weights(parts, hostile.WEIGHTS[name]))
    assert "`model` must be a .keras or .h5 file" in refusal(folder / "x.keras")


def test_a_text_counts_as_often_as_it_is_named(folder):
    hostile.plain_model().save(folder / "x.h5")
    hostile.with_one_text_many_times(folder / "x.h5")
    message = refusal(folder / "x.h5")
    assert re.search(r"Its texts and data declare 2,09\d,\d{3},\d{3} bytes, more than", message)
    assert "--max-size" in message


def test_numbers_beside_the_data_count_too(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        file.attrs["x"] = np.ones(100, np.float32)
    read_hdf5(folder / "x.h5", 400)
    with pytest.raises(TooLargeError, match="Its data, up to x of /, declare 400 bytes, more than"):
        read_hdf5(folder / "x.h5", 399)


def test_a_configuration_has_a_longest_length():
    assert parsed(b"[" + b" " * (2**24 - 2) + b"]") == []
    with pytest.raises(UnsoundError, match="Its configuration has 16,777,217 bytes"):
        parsed(b"[" + b" " * (2**24 - 1) + b"]")


def test_the_names_of_many_layers_beside_large_weights_are_not_refused(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = np.ones((5, 2**20), np.float32)
        file.attrs["layer_names"] = [f"layer_{number}" for number in range(300)]
        for number in range(300):
            file.create_group(f"layer_{number}").attrs["name"] = f"layer_{number}"
    stored = read_hdf5(folder / "x.h5", allowance(folder / "x.h5"))
    assert stored == (None, None, True)


@pytest.mark.parametrize("name", hostile.ARCHIVES)
def test_an_archive_is_refused(folder, name):
    hostile.ARCHIVES[name](folder / "x.keras", hostile.parts_of(folder / "plain.keras"))
    message = refusal(folder / "x.keras")
    assert "`model` must be a .keras or .h5 file" in message
    # Nothing else is mended by allowing more.
    assert ("--max-size" in message) == ("inflates" in name)


def test_more_can_be_allowed(folder):
    parts = hostile.parts_of(folder / "plain.keras")
    hostile.ARCHIVES["an archive that inflates"](folder / "x.keras", parts)
    assert load_model(folder / "x.keras", most=2**30).name == "plain"
    assert bnm_here("doctor", "x.keras", "--max-size", 10**9, cwd=folder).code == 0
    assert bnm_here("doctor", "plain.keras", "--max-size", 1, cwd=folder).code == 2


def test_how_a_model_was_compiled_is_left_out_where_it_names_what_is_refused(folder):
    model = hostile.plain_model()
    model.compile("sgd", "mse")
    model.save(folder / "x.keras")
    parts = hostile.parts_of(folder / "x.keras")
    config = json.loads(parts["config.json"])
    config["compile_config"]["loss"] = hostile.named("keras.saving", "load_model")
    parts["config.json"] = json.dumps(config)
    hostile.write(folder / "x.keras", parts)
    names = "since that names the function 'keras.saving.load_model' at loss; --trust brings it"
    with pytest.warns(UserWarning, match=names):
        assert not load_model(folder / "x.keras").compiled
    ended = bnm_here("doctor", "x.keras", cwd=folder)
    assert ended.code in (0, 1)
    assert ended.err.splitlines() == [f"bnm doctor: The model is not compiled as it was, {names}."]
