"""`bnm compare`: what it prints, writes and ends with."""

from pathlib import Path

import keras
import numpy as np
import pytest
from commands import bnm_here, strict_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, the second with another epsilon, and data."""
    folder = tmp_path_factory.mktemp("compared")
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((6,)),
        keras.layers.Dense(5, name="dense"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Dense(3, name="top"),
    ]
    model = keras.Sequential(layers, name="model")
    model.save(folder / "a.keras")
    model.get_layer("bn").epsilon = 0.1
    model.save(folder / "b.keras")
    np.savez(folder / "data.npz", x=np.random.default_rng(0).normal(size=(20, 6)))
    return folder


def compared(folder, *arguments):
    return bnm_here("compare", *arguments, cwd=folder)


def test_models_that_agree_end_with_0(folder):
    ended = compared(folder, "a.keras", "a.keras", "--data", "data.npz")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        "Both agree: the outputs are the same, and each of 4 stages is within its\nrounding.\n"
    )


def test_models_that_differ_end_with_1_and_say_where(folder):
    ended = compared(folder, "a.keras", "b.keras", "--data", "data.npz")
    assert ended.code == 1
    words = " ".join(ended.out.split())
    assert words.startswith(
        "Both agree exactly up to `bn`, whose epsilon is 0.1 in B and 0.001 in A; the outputs'"
    )
    assert "Weights differ in bn (epsilon)" in words


@pytest.mark.slow
def test_the_page_shows_it_and_asks_for_nothing(folder):
    compared(folder, "a.keras", "b.keras", "--data", "data.npz", "--html", "page.html")
    page = (folder / "page.html").read_text()
    assert "whose epsilon is 0.1 in B" in page
    assert "<svg" in page
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org/", "")


def test_json_has_all_of_it(folder):
    ended = compared(folder, "a.keras", "b.keras", "--data", "data.npz", "--json", "--samples", 5)
    found = strict_json(ended.out)
    assert (found["agrees"], found["samples"]) == (False, 5)
    cause = next(row["cause"] for row in found["stages"] if row["verdict"] == "differs")
    assert (cause["code"], cause["is_batch_norm"]) == ("epsilon", True)
    assert [change["what"] for change in found["changes"]] == ["epsilon"]


def test_decibels_that_were_asked_for_decide_the_code(folder):
    both = "a.keras", "b.keras", "--data", "data.npz"
    assert compared(folder, *both, "--min-sqnr", 10).code == 0
    assert compared(folder, *both, "--min-sqnr", 100).code == 1


def test_without_data_nothing_is_made_up(folder):
    ended = compared(folder, "a.keras", "b.keras")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("bnm compare: `data` must be given. Received: nothing.")


def test_a_file_that_is_not_there_is_told(folder):
    ended = compared(folder, "a.keras", "gone.onnx", "--data", "data.npz")
    assert ended.code == 2
    assert "'gone.onnx', which is not there." in ended.err
    assert not Path(folder, "gone.onnx").exists()
