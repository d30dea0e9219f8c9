"""`bnm doctor` as a user meets it; once in a process of its own, else in this one."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import BNM, bnm, bnm_here, strict_json
from processes import start
from sick_models import digits, write, write_custom

from batchnorm_mechanics.doctor.rules import RULES

BAD = {
    "model cut": (["cut.keras"], "`model` must be a .keras or .h5 file"),
    "model of code": (["code.keras"], "--trust"),
    "model of unknown class": (["custom.keras"], "needs the class 'Square'"),
    "custom nowhere": (["custom.keras", "--custom", "nets:Square"], "There is no 'nets' here"),
    "data nowhere": (["healthy.keras", "--data", "no.npz"], "There is no no.npz"),
    "data no data": (["healthy.keras", "--data", "squares.py"], "ends in none of these"),
    "data cut": (["healthy.keras", "--data", "cut.npz"], "damaged or cut off"),
    "data of another shape": (
        ["healthy.keras", "--data", "images.npz"],
        "samples of shape (784,), as the model takes them. Received: data='images.npz' with "
        "samples of shape (28, 28). There are as many numbers: reshape them to (-1, 784).",
    ),
    "data of words": (["healthy.keras", "--data", "words.npz"], "x has dtype <U5"),
    "data empty": (["healthy.keras", "--data", "empty.npz"], "at least one sample"),
    "data with NaN": (["healthy.keras", "--data", "nan.npz"], "whose sample 37 holds nan"),
    "data too large": (["healthy.keras", "--data", "large.npz"], "whose sample 5 holds 1e+39"),
    "labels out of range": (["healthy.keras", "--data", "labels.npz"], "whose label 8 is 10"),
    "labels nowhere": (
        ["healthy.keras", "--data", "data.npz", "--labels", "z"],
        "labels='z'. It holds x, y.",
    ),
    "labels without data": (["healthy.keras", "--labels", "y"], "`labels` must go with data"),
    "labels of another length": (
        ["healthy.keras", "--data", "unequal.npz"],
        "data='unequal.npz', where x has 100 rows, labels has 99 rows.",
    ),
    "data that only the model can refuse": (
        ["sizes.keras", "--data", "small.npz"],
        "`data` must ",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import keras

    path = tmp_path_factory.mktemp("doctor")
    write(path)
    write_custom(path)
    for name in ("healthy.keras", "data.npz"):
        cut = path / name.replace("healthy", "cut").replace("data", "cut")
        cut.write_bytes((path / name).read_bytes()[:3000])
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Lambda(lambda x: x * 2)]).save(
        path / "code.keras"
    )
    x, y = digits(100)
    np.savez(path / "images.npz", x=x.reshape(-1, 28, 28))
    np.savez(path / "words.npz", x=np.array(["three", "four"]))
    np.savez(path / "empty.npz", x=x[:0])
    for name, value in (("nan", np.nan), ("large", 1e39)):
        bad = x.astype("float64")
        bad[37 if name == "nan" else 5, 100] = value
        np.savez(path / f"{name}.npz", x=bad)
    np.savez(path / "unequal.npz", x=x, y=y[:-1])
    np.savez(path / "named.npz", images=x, targets=y)
    np.savez(path / "other.npz", x=np.random.default_rng(0).normal(3, 1, x.shape), y=y)
    inputs = keras.Input((None, None, 1))
    shrunk = keras.layers.Conv2D(2, 3)(inputs)
    keras.Model(inputs, keras.layers.BatchNormalization()(shrunk)).save(path / "sizes.keras")
    np.savez(path / "small.npz", x=x[:, :4].reshape(-1, 2, 2, 1))
    y[8] = 10
    np.savez(path / "labels.npz", x=x, y=y)
    np.savez(path / "bytes.npz", x=(x * 255).astype("uint8"))
    np.savez(path / "floats.npz", x=np.round(x * 255))
    return path


@pytest.fixture(scope="module")
def found(folder):
    commands = {
        "healthy": ["healthy.keras", "--data", "data.npz"],
        "weights alone": ["sick.keras"],
        "json": ["sick.keras", "--data", "data.npz", "--json", "--html", "page.html"],
        "ignored": ["sick.keras", "--ignore", "BN1"],
        "selected": ["sick.keras", "--data", "data.npz", "--select", "BN105,BN106"],
        "custom": ["custom.keras", "--custom", "squares.py:Square"],
        "plain": ["plain.keras", "--data", "data.npz"],
        "bytes": ["healthy.keras", "--data", "bytes.npz"],
        "floats": ["healthy.keras", "--data", "floats.npz"],
        "named": ["healthy.keras", "--data", "named.npz", "--labels", "targets"],
        "other domain": ["healthy.keras", "--data", "other.npz", "--batch-size", "20"],
        "trusted": ["code.keras", "--trust"],
        **{what: arguments for what, (arguments, _) in BAD.items()},
    }
    before = {path.name for path in folder.iterdir()}
    ends = [bnm_here("doctor", *command, cwd=folder) for command in commands.values()]
    assert {path.name for path in folder.iterdir()} - before == {"page.html"}
    return dict(zip(commands, ends, strict=True))


# --- Without TensorFlow -------------------------------------------------------------------------


def test_help_and_rules_do_without_tensorflow():
    told = {
        "--help": "bnm doctor demo                              a sick model, its diagnosis",
        "--rules": "BN205  non-finite-activations             error    data",
        "--explain BN101": "# BN101",
        "--explain dead-gamma": "# BN112",
    }
    code = (
        "import sys; from batchnorm_mechanics.cli import main\n"
        f"for arguments in {[*told]!r}:\n"
        "    print(flush=True); sys.argv = ['bnm', 'doctor', *arguments.split()]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        # To list the rules is to import them, and they compute with NumPy.
        "    assert 'numpy' not in sys.modules or arguments != '--help'\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'altair'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for expected in told.values():
        assert f"\n{expected}" in done.stdout or f"\n  {expected}" in done.stdout
    assert done.stderr == ""


def test_every_rule_has_its_line(tmp_path):
    done = bnm_here("doctor", "--rules", cwd=tmp_path)
    assert [line.split()[0] for line in done.out.splitlines()] == list(RULES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "`model` must be a .keras or .h5 file. Received: nothing."),
        (["nowhere.keras"], "There is no such file"),
        (["."], "It is a folder"),
        (["--explain", "BN999"], "`bnm doctor --rules` lists them all"),
        (["nowhere.keras", "--select", "BN101,BM2"], "`select` must name rules"),
        (["nowhere.keras", "--out", "kept"], "`out` must go with the demo"),
        (["nowhere.keras", "--select", ""], "`select` must name rules"),
        (["nowhere.keras", "--ignore", " , "], "`ignore` must name rules"),
        (["nowhere.keras", "--html", "."], "`html` must be a file. Received: html='.'"),
        (["nowhere.keras", "--html", "no/page.html"], "be a file in a folder that exists"),
        (["mine.keras", "--html", "mine.keras"], "`html` must be another file than the model"),
        (["nowhere.keras", "--data", "mine.npz", "--html", "mine.npz"], "and the data. Received"),
        (["demo", "--html", "no/page.html"], "be a file in a folder that exists"),
        (["demo", "--data", "mine.npz"], "`data` must go with a model"),
        (["demo", "--out", "mine.npz/x"], "`out` must be a folder that can be written"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_told_at_once(tmp_path, arguments, expected):
    for name in ("mine.keras", "mine.npz"):
        (tmp_path / name).write_text("mine")
    done = bnm_here("doctor", *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(("bnm doctor: `", "bnm doctor demo: `"))
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert done.err.count("Received") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "mine.keras": "mine",
        "mine.npz": "mine",
    }


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line_and_code_2(found, what):
    done = found[what]
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.startswith("bnm doctor: `")
    assert BAD[what][1] in done.err
    assert done.err.count("\n") == 1, done.err


# --- A diagnosis --------------------------------------------------------------------------------


def test_a_healthy_model_is_healthy_and_code_0(found):
    done = found["healthy"]
    assert done.code == 0, done.out
    assert done.out.startswith("healthy.keras: 2 batch norm layers, 4,000 samples,")
    assert "\nNothing is wrong" in done.out
    assert done.err == ""


def test_weights_alone_tell_of_poisoned_channels_and_code_1(found):
    done = found["weights alone"]
    assert done.code == 1, done.err
    assert "error    BN101 non-finite-statistics" in done.out
    assert "Where    bn_1, channels 3, 17" in done.out
    assert "Look at data too: --data FILE" in done.out
    assert "Repair: bnm repair sick.keras --data DATA --out FIXED.keras" in done.out
    assert done.err == ""


def test_json_is_one_object_and_nothing_else(found, folder):
    done = found["json"]
    assert done.code == 1
    assert done.err == ""
    document = strict_json(done.out)
    assert (document["file"], document["samples"]) == ("sick.keras", 4000)
    assert document["is_sick"] is True
    assert document["norms"] == ["bn_1", "bn_2"]
    first = document["findings"][0]
    assert (first["code"], first["layer"], first["channels"]) == ("BN101", "bn_1", [3, 17])
    # The loss of such a model is no number, which JSON cannot say.
    assert document["measures"]["loss"] == "NaN"
    assert document["measures"]["accuracy"] < 0.5
    page = (folder / "page.html").read_text()
    assert "BN101 non-finite-statistics" in page


def test_rules_are_chosen_by_their_codes(found):
    assert found["ignored"].code == 0
    assert "Nothing is wrong." in found["ignored"].out
    assert found["selected"].code == 0
    assert "BN101" not in found["selected"].out


def test_a_class_of_one_s_own_is_given_by_custom(found):
    assert found["custom"].code == 1
    assert "BN101" in found["custom"].out
    assert "784 channels" in found["custom"].out


def test_a_model_without_batch_norm_says_so_and_code_0(found):
    assert found["plain"].code == 0
    assert found["plain"].out == (
        "plain.keras: 0 batch norm layers\n"
        "It has no batch norm layer: there is nothing to examine.\n"
    )


def test_bytes_where_the_model_knows_fractions_are_found_with_a_hint(found):
    for what, dtype in (("bytes", "uint8"), ("floats", "float32")):
        done = found[what]
        assert done.code == 1
        said = " ".join(done.out.split())
        assert f"The data are whole numbers from 0 to 255 ({dtype}), and no layer of" in said
        # Not the model is wrong: to repair it for such data would spoil it.
        assert "bnm repair" not in done.out.rpartition("The data are")[2]


def test_a_new_domain_is_repaired_for_only_if_that_is_meant(found):
    *_, last, read = found["other domain"].out.splitlines()
    assert read.startswith("Data: other.npz: 100 samples")
    assert last == (
        "If the model is to work on such data: bnm repair healthy.keras --data other.npz "
        "--batch-size 20 --only BN203 --out ADAPTED.keras"
    )


def test_the_command_that_repairs_needs_what_the_one_that_examined_needed(found):
    last = found["custom"].out.splitlines()[-1]
    assert last == (
        "Repair: bnm repair custom.keras --data DATA --custom squares.py:Square --out FIXED.keras"
    )


def test_the_one_array_of_a_file_may_have_any_name(found):
    done = found["named"]
    assert done.code in {0, 1}
    assert "100 samples" in done.out
    assert "accuracy" in done.out


def test_the_real_command_prints_what_the_quick_one_does(folder, found):
    done = bnm("doctor", "sick.keras", cwd=folder)
    assert (done.code, done.out) == (1, found["weights alone"].out)
    # TensorFlow's start-up messages stay away.
    assert done.err == ""


def test_code_from_a_file_runs_only_with_trust(folder, found):
    with zipfile.ZipFile(folder / "code.keras") as archive:
        assert b"__lambda__" in archive.read("config.json")
    assert found["model of code"].code == 2
    assert found["trusted"].code == 0
    assert "no batch norm layer" in found["trusted"].out


@pytest.mark.thorough
def test_the_demonstration_takes_under_a_minute_and_keeps_nothing(tmp_path):
    done = bnm("doctor", "demo", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "BN101 non-finite-statistics" in done.out
    assert "Test accuracy" in done.out
    assert "Training a small convolutional network" in done.err
    assert list(tmp_path.iterdir()) == []
    seconds = float(done.out.rpartition("It took ")[2].partition(" s")[0])
    # On two cores that do nothing else it takes half of it.
    assert seconds < 120


def test_a_page_on_a_full_disk_leaves_the_old_one_and_code_2(folder, disk_of):
    disk = disk_of(4)
    (disk / "page.html").write_text("old")
    done = bnm_here("doctor", "sick.keras", "--html", disk / "page.html", cwd=folder)
    assert (done.code, done.out) == (2, "")
    assert "`html` must be a file that can be written" in done.err
    assert "(No space left on device)" in done.err
    assert [(path.name, path.read_text()) for path in disk.iterdir()] == [("page.html", "old")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_tensorflow_loads_is_one_line(folder, number):
    process = start([*BNM, "doctor", "sick.keras", "--data", "data.npz"], cwd=folder)
    maps = Path(f"/proc/{process.pid}/maps")
    if sys.platform != "linux":
        process.kill()
        process.communicate()
        pytest.skip("needs Linux's list of what a process has loaded")
    while "tensorflow" not in maps.read_text() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (2, "")
    assert stderr == "bnm doctor: interrupted. No file is left half-written.\n"


def test_a_reader_who_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*BNM, "doctor", "--rules"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.stderr == ""
