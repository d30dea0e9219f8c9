"""Models from files, safely, and into files, whole or not at all."""

import errno
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError, first_line
from batchnorm_mechanics._io.model_output import check_out
from batchnorm_mechanics._user_code import find
from batchnorm_mechanics.models.files import load_model, save_model

CUSTOM = """
import keras


class Square(keras.layers.Layer):
    def call(self, inputs):
        return inputs * inputs


not_a_layer = 3
"""


def small(*layers):
    return keras.Sequential(
        [keras.layers.Input((3,)), *layers, keras.layers.BatchNormalization(name="bn")]
    )


def saved(path, *layers):
    small(*layers).save(path)
    return path


def names(folder):
    return [path.name for path in folder.iterdir()]


def refusal(path, **options):
    with pytest.raises(InputError) as refused:
        load_model(path, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def custom_file(tmp_path):
    path = tmp_path / "squares.py"
    path.write_text(CUSTOM)
    return path


@pytest.fixture
def needs_custom(tmp_path, custom_file):
    square = find(f"{custom_file}:Square", caller="doctor", argument="custom")
    return saved(tmp_path / "custom.keras", square())


# --- Loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("is_compiled", [False, True])
# Keras stores an HDF5 file's numbers through a path of NumPy's that warns.
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_whole_model_comes_back_with_its_weights(tmp_path, suffix, is_compiled, caplog):
    model = small()
    model.get_layer("bn").moving_mean.assign([1.0, 2.0, 3.0])
    if is_compiled:
        model.compile("sgd", "mse", metrics=["mae"])
    model.save(tmp_path / f"model{suffix}")
    caplog.clear()
    loaded = load_model(tmp_path / f"model{suffix}")
    assert loaded.get_layer("bn").moving_mean.numpy().tolist() == [1.0, 2.0, 3.0]
    # No advice to compile a model that was never compiled, nor of metrics that are not built yet.
    assert caplog.messages == []


@pytest.mark.parametrize("loss", ["mse", "mae", "msle", "mape", "MSE", "bce"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_loss_that_keras_does_not_find_again_in_an_hdf5_file_is_found(tmp_path, loss):
    model = small()
    model.compile("sgd", loss)
    model.fit(np.ones((8, 3)), np.ones((8, 3)), batch_size=2, verbose=0)
    model.save(tmp_path / "model.h5")
    loaded = load_model(tmp_path / "model.h5")
    assert loaded.loss is keras.losses.get(loss)
    assert int(loaded.optimizer.iterations) == 4


def test_the_optimizer_comes_along(tmp_path):
    model = small()
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 3)), batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    assert int(load_model(tmp_path / "model.keras").optimizer.iterations) == 4


def test_what_is_no_model_is_refused_with_the_reason(tmp_path):
    good = saved(tmp_path / "good.keras")
    cut = tmp_path / "cut.keras"
    cut.write_bytes(good.read_bytes()[:-300])
    other = tmp_path / "other.keras"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "no model")
    as_hdf5 = tmp_path / "renamed.h5"
    shutil.copy(good, as_hdf5)
    small().save_weights(tmp_path / "only.weights.h5")
    renamed = tmp_path / "renamed.keras"
    shutil.copy(tmp_path / "only.weights.h5", renamed)
    for name, content in (("empty.keras", b""), ("text.keras", b"hello"), ("text.h5", b"hello")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")
    for name, reason in {
        "nowhere.keras": "There is no such file",
        "folder.keras": "folder.keras'. It is a folder",
        "pipe.keras": "It is no regular file",
        "empty.keras": "It is empty",
        "text.keras": "It is no zip archive",
        "text.h5": "It is no HDF5 file",
        "cut.keras": "It is damaged or cut off",
        "other.keras": "without a model in it",
        "renamed.h5": "name it .keras",
        "renamed.keras": "name it .h5",
        "only.weights.h5": "It holds weights alone",
        "squares.py": "Its name must end in .keras or .h5",
    }.items():
        if name == "squares.py":
            (tmp_path / name).write_text("x = 1")
        message = refusal(tmp_path / name, caller="repair")
        assert message.startswith("repair: `model` must be a .keras or .h5 file")
        assert reason in message


def test_damage_inside_an_archive_is_one_line(tmp_path):
    good = saved(tmp_path / "good.keras").read_bytes()
    path = tmp_path / "damaged.keras"
    at = good.index(b'"class_name"')
    path.write_bytes(good[:at] + b"\x00\x01\x02" + good[at + 3 :])
    assert refusal(path).endswith("It is damaged or cut off; copy or save it anew.")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{")
    assert "It cannot be loaded (JSONDecodeError" in refusal(path)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_that_is_cut_off_anywhere_is_called_so(tmp_path, suffix, share):
    whole = saved(tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path) == (
        f"doctor: `model` must be a .keras or .h5 file with a whole model. Received: "
        f"model={str(path)!r}. It is damaged or cut off; copy or save it anew."
    )


def test_a_reason_that_keras_prints_in_bold_is_plain():
    assert first_line(ValueError("\x1b[1mno such thing\x1b[0m")) == "ValueError: no such thing"


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "model.keras")

    def denied(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # For root, who runs the tests in places, no file is closed.
    monkeypatch.setattr("pathlib.Path.open", denied)
    assert "It cannot be opened: Permission denied." in refusal(path)


# --- Code in files ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_code_in_a_file_runs_only_if_it_is_trusted(tmp_path, suffix):
    path = saved(tmp_path / f"code{suffix}", keras.layers.Lambda(lambda x: x * 2))
    message = refusal(path)
    assert message.startswith("doctor: `model` must hold no Python code unless it is trusted")
    assert "--trust" in message
    loaded = load_model(path, trust=True)
    assert loaded.layers[0](np.ones((1, 3))).numpy().tolist() == [[2.0, 2.0, 2.0]]


def test_an_unknown_class_is_named_and_found_by_custom(needs_custom, custom_file):
    message = refusal(needs_custom)
    assert "which needs the class 'Square'" in message
    assert "--custom module:Square" in message
    loaded = load_model(needs_custom, custom=[f"{custom_file}:Square"])
    assert type(loaded.layers[0]).__name__ == "Square"


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_unknown_class_of_an_hdf5_file_is_named_too(tmp_path, custom_file):
    square = find(f"{custom_file}:Square", caller="doctor", argument="custom")
    path = saved(tmp_path / "custom.h5", square())
    assert "which needs the class 'Square'" in refusal(path)
    assert load_model(path, custom=[f"{custom_file}:Square"]).count_params() == 12


def test_custom_is_imported_from_the_current_folder(tmp_path, monkeypatch, needs_custom):
    (tmp_path / "mine_for_custom.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("nowhere")
    assert load_model(needs_custom, custom=["mine_for_custom:Square"]) is not None


@pytest.mark.parametrize("spec", ["Square", "nowhere.py:Square", "fractions:Square"])
def test_a_custom_object_that_is_not_there_is_refused(spec, needs_custom):
    with pytest.raises(InputError, match=r"^fold: `custom` must "):
        load_model(needs_custom, custom=[spec], caller="fold")


# --- Saving -------------------------------------------------------------------------------------


def test_a_saved_model_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with path.open() as reader:
        save_model(small(), path)
        # The old file was taken away whole, not written over: who reads it still does.
        assert reader.read() == "old"
    assert load_model(path).count_params() == 12
    assert names(tmp_path) == ["model.keras"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "model.keras"
    path.write_text("old")
    model = small()

    def save(to):
        to.write_text("half")
        (to.parent / "more").write_text("of Keras's own")
        raise error

    monkeypatch.setattr(model, "save", save)
    with pytest.raises(error):
        save_model(model, path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.keras"]


def test_a_full_disk_is_named_and_nothing_is_left(disk_of):
    disk = disk_of(64)
    with pytest.raises(InputError) as refused:
        save_model(small(keras.layers.Dense(30_000), keras.layers.Dense(3)), disk / "m.keras")
    assert "`out` must be on a disk with room" in str(refused.value)
    assert names(disk) == []


def test_a_folder_that_vanished_is_one_message(tmp_path):
    with pytest.raises(InputError, match=r"`out` must be a file that can be written.*No such file"):
        save_model(small(), tmp_path / "gone" / "model.keras")


def test_a_place_that_cannot_hold_the_new_model_is_refused_at_once(tmp_path):
    model = tmp_path / "model.keras"
    model.write_text("the input")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "link.keras").symlink_to(model)
    for out, expectation in {
        "fixed.h5": "end in .keras",
        "folder.keras": "be a file",
        "no/where.keras": "lie in a folder that exists",
        "model.keras": "be another file than the model",
        "link.keras": "be another file than the model",
    }.items():
        with pytest.raises(InputError, match=rf"^repair: `out` must {expectation}\. Received"):
            check_out(tmp_path / out, model, caller="repair")
    check_out(tmp_path / "fixed.keras", model, caller="repair")


def test_a_name_that_no_file_can_have_is_said_to_be_that(tmp_path):
    # With .index behind it, as a checkpoint has, the first is too long alone.
    assert "There is no such file" in refusal(tmp_path / ("a" * 246 + ".keras"))
    assert "It cannot be opened: File name too long" in refusal(tmp_path / ("a" * 300 + ".keras"))


@pytest.mark.parametrize("name", [b".", b"..", b"x", b"\xff", b"/"])
def test_a_folder_whose_checkpoint_names_itself_or_nothing_is_a_folder(tmp_path, name):
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "%b"\n' % name)
    assert "It is a folder; save the model" in refusal(tmp_path)
