"""`bnm doctor` as a user meets it."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from commands import bnm, bnm_many, strict_json
from sick_models import digits, write, write_custom

from batchnorm_mechanics.doctor.rules import RULES

BAD = {
    "model cut": (["cut.keras"], "`model` must be a .keras or .h5 file"),
    "model of code": (["code.keras"], "--trust"),
    "model of unknown class": (["custom.keras"], "needs the class 'Square'"),
    "custom nowhere": (["custom.keras", "--custom", "nets:Square"], "There is no module 'nets'"),
    "data nowhere": (["healthy.keras", "--data", "no.npz"], "There is no no.npz"),
    "data no data": (["healthy.keras", "--data", "squares.py"], "ends in none of these"),
    "data cut": (["healthy.keras", "--data", "cut.npz"], "damaged or cut off"),
    "data of another shape": (
        ["healthy.keras", "--data", "images.npz"],
        "samples of shape (784), as the model takes them. Received: data='images.npz' with samples "
        "of shape (28, 28). There are as many numbers: reshape them to (-1, 784).",
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
    "page in no folder": (["healthy.keras", "--html", "no/page.html"], "`html` must be a file"),
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
    y[8] = 10
    np.savez(path / "labels.npz", x=x, y=y)
    np.savez(path / "bytes.npz", x=(x * 255).astype("uint8"))
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
        "trusted": ["code.keras", "--trust"],
        **{what: arguments for what, (arguments, _) in BAD.items()},
    }
    before = {path.name for path in folder.iterdir()}
    ends = bnm_many([["doctor", *command] for command in commands.values()], cwd=folder)
    assert {path.name for path in folder.iterdir()} - before == {"page.html"}
    return dict(zip(commands, ends, strict=True))


# --- Without TensorFlow -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "bnm doctor demo                              a sick model, its diagnosis"),
        (["--rules"], "BN205  non-finite-activations             error    data"),
        (["--explain", "BN101"], "# BN101"),
        (["--explain", "dead-gamma"], "# BN112"),
    ],
)
def test_help_and_rules_do_without_tensorflow(arguments, expected):
    code = (
        "import sys; from batchnorm_mechanics.cli import main\n"
        f"sys.argv = ['bnm', 'doctor', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'altair'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert done.stderr == ""


def test_every_rule_has_its_line(tmp_path):
    done = bnm("doctor", "--rules", cwd=tmp_path)
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
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_told_at_once(tmp_path, arguments, expected):
    done = bnm("doctor", *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("bnm doctor: `")
    assert expected in done.err
    assert done.err.count("\n") == 1


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
    assert document["measures"]["loss"] == "nan"
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
    done = found["bytes"]
    assert done.code == 1
    assert "The data are uint8 from 0 to 255, and no layer of the model scales them" in done.out


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
