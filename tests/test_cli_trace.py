"""`bnm trace` as a user meets it; once in a process of its own, else in this one."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from commands import bnm, bnm_here


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return bnm("trace", cwd=tmp_path_factory.mktemp("alone"))


def test_alone_it_prints_the_source_s_numbers_and_explains_them(alone):
    assert (alone.code, alone.err) == (0, "")
    for figure in ("[2.5 3.5 4.5]", "[2.25 2.25 2.25]", "-0.9995557", "2.9995557"):
        assert figure in alone.out
    assert "Training mode: every channel is normalized by the mean" in alone.out


def test_without_a_terminal_the_text_is_plain_and_80_columns_wide(alone):
    lines = alone.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in alone.out
    assert not any(line.endswith(" ") for line in lines)


def test_all_of_it_goes_into_json_and_onto_a_page(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(24).reshape(2, 2, 3, 2))
    done = bnm_here(
        "trace",
        *("--input", "x.npy", "--axes", "0,1,2", "--gamma", "1,2", "--beta", "0.5"),
        *("--epsilon", "0.01", "--momentum", "0.9", "--backward", "--compare"),
        *("--json", "--html", "page.html"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    steps = {step["name"]: step for step in found["steps"]}
    np.testing.assert_allclose(steps["variance"]["value"], 47.666668, rtol=1e-6)
    assert steps["gamma"]["value"] == [1, 2]
    assert found["notes"][0] == "The input came as int64 and was converted to float32."
    assert all(check["passed"] for check in found["backward"]["checks"])
    assert {"FusedBatchNormV3", "Keras layer"} <= {row["by"] for row in found["comparison"]["rows"]}
    assert found["statistics"][0]["name"] == "moving_mean_before"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "47.66666" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "x.npy"]


def test_inference_answers_why_a_new_layer_s_output_is_different(tmp_path):
    done = bnm_here("trace", "--inference", cwd=tmp_path)
    words = " ".join(done.out.split())
    assert "the initial moving statistics, mean 0 and variance 1, were used" in words
    assert "[[ 2.9990008 4.9980016 6.9970026]" in words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "missing.npy", "--html", "page.html"], "`input` must"),
        (["--html", "no/such/folder/page.html"], "`html` must be a file that can be written"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(
    tmp_path, arguments, said
):
    done = bnm_here("trace", *arguments, cwd=tmp_path)
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith(f"bnm trace: {said}")
    assert re.search(r"Received: .*\. ", done.err)
    assert list(tmp_path.iterdir()) == []


def test_help_teaches_with_examples_line_by_line_and_without_tensorflow():
    code = (
        "import sys; from batchnorm_mechanics.cli import main\n"
        "sys.argv = ['bnm', 'trace', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'jinja2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "  bnm trace --backward --compare            gradients, and other" in done.stdout


@pytest.fixture(scope="module")
def modelled(tmp_path_factory):
    import keras

    folder = tmp_path_factory.mktemp("modelled")
    layers = keras.layers
    normed = [layers.Dense(16), layers.BatchNormalization(name="bn1")]
    encoder = keras.Sequential([layers.Input((4,)), *normed], name="enc")
    inputs = layers.Input((3, 4))
    outputs = layers.TimeDistributed(encoder, name="td")(inputs)
    keras.Model(inputs, layers.BatchNormalization(name="bn2")(outputs)).save(folder / "m.keras")
    np.save(folder / "x.npy", np.arange(480, dtype=np.float32).reshape(40, 3, 4))
    return folder


def test_a_layer_of_a_model_is_traced_by_the_path_that_the_doctor_prints(modelled):
    given = ("trace", "m.keras", "--layer", "td/enc/bn1", "--data", "x.npy")
    done = bnm_here(*given, "--training", "--backward", cwd=modelled)
    assert done.code == 0, done.err
    assert "Keras layer 'bn1' in the model" in done.out
    assert "Training mode" in done.out
    assert "tf.GradientTape beside our gradients" in done.out
    assert done.out.endswith("Data: x.npy: 32 samples, (3, 4) float32 from 0 to 383; no labels\n")
    assert "Inference mode" in bnm_here(*given, "--inference", cwd=modelled).out


def test_a_large_array_is_shown_by_channel_and_its_values_if_asked(modelled):
    given = ("trace", "m.keras", "--layer", "bn2", "--data", "x.npy")
    short, long = (bnm_here(*given, *more, cwd=modelled).out for more in ((), ("--verbose",)))
    assert "channel      least       mean    largest" in short
    assert "channel      least" not in long
    assert len(short.splitlines()) < len(long.splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["m.keras"], "`data` must be given with a model"),
        (["--layer", "bn2"], "`layer` must go with a model"),
        (["m.keras", "--data", "x.npy", "--gamma", "2"], "`gamma` must be left out with a model"),
        (["m.keras", "--data", "x.npy", "--layer", "no"], "which fits 0. It has 'bn1', 'bn2'."),
    ],
)
def test_what_does_not_go_with_a_model_is_one_line(modelled, arguments, expected):
    done = bnm_here("trace", *arguments, cwd=modelled)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert expected in done.err
