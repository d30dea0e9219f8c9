"""`bnm repair` and `bnm fold` as a user meets them; the one that is stopped is a real process."""

import os
import signal

import keras
import numpy as np
import pytest
from commands import BNM, bnm_here, strict_json
from processes import group_is_alive, start
from sick_models import digits, write, write_custom

BAD = {
    "no out": (["repair", "sick.keras"], "`out` must name the file"),
    "out is the input": (["repair", "sick.keras", "--out", "sick.keras"], "be another file than"),
    "out of another format": (["repair", "sick.keras", "--out", "x.h5"], "end in .keras"),
    "out in no folder": (["repair", "sick.keras", "--out", "no/x.keras"], "a folder that exists"),
    "only of no rule": (
        ["repair", "sick.keras", "--dry-run", "--only", "X"],
        "`only` must name rules",
    ),
    "only of nothing": (["repair", "sick.keras", "--dry-run", "--only", ""], "must name rules"),
    "one sample": (
        ["repair", "sick.keras", "--data", "one.npz", "--out", "x.keras"],
        "repair: `data` must have two samples behind each statistic",
    ),
    "model nowhere": (["repair", "nowhere.keras", "--out", "x.keras"], "There is no such file"),
    "data with NaN": (
        ["repair", "sick.keras", "--data", "nan.npz", "--out", "x.keras"],
        "repair: `data` must be finite. Received: data='nan.npz', whose sample 37 holds nan.",
    ),
    "fold out": (["fold", "healthy.keras", "--out", "healthy.keras"], "be another file than"),
    "fold data": (
        ["fold", "healthy.keras", "--data", "images.npz", "--out", "x.keras"],
        "fold: `data` must hold samples of shape (784,)",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("repair")
    write_custom(path)
    x, _ = digits(100)
    np.savez(path / "images.npz", x=x.reshape(-1, 28, 28))
    np.savez(path / "one.npz", x=x[:1])
    x[37, 100] = np.nan
    np.savez(path / "nan.npz", x=x)
    return path


@pytest.fixture(scope="module")
def accuracy(folder):
    return write(folder)


@pytest.fixture(scope="module")
def ended(folder, accuracy):
    del accuracy
    good = {
        "dry": ["repair", "sick.keras", "--data", "data.npz", "--dry-run"],
        "fixed": ["repair", "sick.keras", "--data", "data.npz", "--out", "fixed.keras"],
        "json": ["repair", "sick.keras", "--data", "data.npz", "--out", "j.keras", "--json"],
        "examined": ["doctor", "fixed.keras", "--data", "data.npz", "--json"],
        "without data": ["repair", "sick.keras", "--out", "none.keras"],
        "healthy": ["repair", "healthy.keras", "--data", "data.npz", "--out", "h.keras"],
        "folded": ["fold", "fixed.keras", "--data", "data.npz", "--out", "folded.keras"],
        "folded json": ["fold", "fixed.keras", "--out", "folded2.keras", "--json"],
        "fold of a sick one": ["fold", "sick.keras", "--out", "s.keras"],
        "nothing to fold": ["fold", "plain.keras", "--out", "plain2.keras"],
        "nothing to fold json": ["fold", "plain.keras", "--out", "plain2.keras", "--json"],
    }
    commands = {**good, **{what: arguments for what, (arguments, _) in BAD.items()}}
    before = {path: path.read_bytes() for path in folder.iterdir()}
    ends = [bnm_here(*command, cwd=folder) for command in commands.values()]
    # No command writes to its input, and nothing is left beside its output.
    assert {path: path.read_bytes() for path in before} == before
    written = {path.name for path in folder.iterdir()} - {path.name for path in before}
    assert written == {"fixed.keras", "j.keras", "folded.keras", "folded2.keras"}
    return dict(zip(commands, ends, strict=True))


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line_and_code_2(ended, what):
    done = ended[what]
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"bnm {BAD[what][0][0]}: `")
    assert BAD[what][1] in done.err
    assert done.err.count("\n") == 1, done.err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(ended):
    assert ended["dry"].code == 1
    assert "Planned  re-estimate the statistics (BN101" in ended["dry"].out
    assert "Written" not in ended["dry"].out


def test_the_accuracy_comes_back_and_the_doctor_finds_nothing_more(ended, folder, accuracy):
    done = ended["fixed"]
    assert done.code == 0, done.out
    assert "Done     re-estimate the statistics (BN101" in done.out
    assert "Now      Nothing is wrong" in done.out
    *_, written, read = done.out.splitlines()
    assert written == "Written: fixed.keras"
    assert read.startswith("Data: data.npz: 4,000 samples, ")
    assert ended["examined"].code == 0
    examined = strict_json(ended["examined"].out)
    assert examined["is_sick"] is False
    assert examined["measures"]["accuracy"] >= accuracy - 0.003
    x, y = digits(4000)
    fixed = keras.saving.load_model(folder / "fixed.keras")
    assert fixed.evaluate(x, y, verbose=0)[1] == pytest.approx(examined["measures"]["accuracy"])


def test_only_what_was_named_has_changed(ended, folder):
    del ended
    sick, fixed = (keras.saving.load_model(folder / f"{name}.keras") for name in ("sick", "fixed"))
    changed = {
        f"{layer.name}/{old.name}"
        for layer, other in zip(sick.layers, fixed.layers, strict=True)
        for old, new in zip(layer.weights, other.weights, strict=True)
        if not np.array_equal(old.numpy(), new.numpy())
    }
    assert changed == {"bn_1/moving_mean", "bn_1/moving_variance"}


def test_json_is_one_object_with_before_and_after(ended):
    document = strict_json(ended["json"].out)
    assert ended["json"].err == ""
    assert (document["file"], document["out"]) == ("sick.keras", "j.keras")
    assert document["before"]["findings"][0]["code"] == "BN101"
    assert document["after"]["measures"]["accuracy"] > 0.8


def test_what_cannot_be_repaired_without_data_is_named_and_code_1(ended):
    done = ended["without data"]
    assert done.code == 1
    assert "Left     BN101 bn_1: it needs data" in done.out
    assert "No file was written" in done.out


def test_a_healthy_model_needs_no_file(ended):
    assert ended["healthy"].code == 0
    assert "Done     nothing" in ended["healthy"].out
    assert "No file was written" in ended["healthy"].out


def test_a_folded_model_predicts_the_same(ended, folder):
    done = ended["folded"]
    assert done.code == 0, done.err
    assert "fixed.keras: 2 of 2 batch norm layers merged" in done.out
    assert "times as fast" in done.out
    x, _ = digits(100)
    models = (keras.saving.load_model(folder / f"{name}.keras") for name in ("fixed", "folded"))
    fixed, folded = (model.predict(x, verbose=0) for model in models)
    np.testing.assert_allclose(folded, fixed, atol=1e-4 * np.abs(fixed).max())
    document = strict_json(ended["folded json"].out)
    assert (document["count"], document["out"]) == (2, "folded2.keras")


def test_a_fold_of_nothing_writes_nothing_and_ends_with_code_1(ended):
    assert ended["nothing to fold"].code == 1
    assert "No file was written: nothing could be merged." in ended["nothing to fold"].out
    done = ended["nothing to fold json"]
    document = strict_json(done.out)
    assert (done.code, document["count"], document["out"]) == (1, 0, None)


def test_a_model_whose_output_is_nan_is_not_folded_and_says_why(ended):
    done = ended["fold of a sick one"]
    assert (done.code, done.out) == (1, "")
    assert "are NaN or infinite. Nothing was written. `bnm doctor sick.keras` may say" in done.err


@pytest.mark.thorough
def test_a_signal_while_the_file_is_written_leaves_none_and_says_so(folder, accuracy):
    del accuracy
    before = {path: path.read_bytes() for path in folder.iterdir()}
    process = start(
        [
            *[*BNM, "repair", "custom.keras", "--custom", "squares.py:Square"],
            *["--data", "data.npz", "--out", "never.keras"],
        ],
        cwd=folder,
        env={**os.environ, "SQUARE_IS_SLOW": "1"},
    )
    for line in process.stdout:
        if line == "saving\n":
            break
    else:
        pytest.fail(process.communicate()[1])
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    assert stderr == "bnm repair: interrupted. No file is left half-written.\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not group_is_alive(process.pid)


@pytest.mark.parametrize("command", ["repair", "fold"])
def test_a_full_disk_leaves_no_file_and_code_2(folder, ended, disk_of, command):
    del ended
    disk = disk_of(64)
    model = "sick.keras" if command == "repair" else "fixed.keras"
    done = bnm_here(command, model, "--data", "data.npz", "--out", disk / "x.keras", cwd=folder)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"bnm {command}: `out` must be on a disk with room. Received: "
        f"out='{disk}/x.keras', whose disk is full. Nothing was written; make room or choose "
        "another.\n"
    )
    assert list(disk.iterdir()) == []
