"""What is said of a model that TensorFlow cannot run on this fitting."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import bnm_here
from machine import why_no_channels_first

import batchnorm_mechanics as bnm
from batchnorm_mechanics import _tensorflow
from batchnorm_mechanics._exceptions import InputError

L = keras.layers

# As TensorFlow's kernels say it for a convolution and for its transpose.
WORDS = [
    "{{function_node __wrapped__Conv2D_device_CPU:0}} The Conv2D op currently only supports the "
    "NHWC tensor format on the CPU. The op was given the format: NCHW [Op:Conv2D]",
    "Conv2DCustomBackpropInputOp only supports NHWC.",
]
CONSEQUENCE = (
    "`model` must be one that this machine can run. Received: a model with "
    "data_format='channels_first', which the kernels that TensorFlow has chosen for this processor "
    "do not compute. "
)


class Fails(L.Layer):
    """Fails as a convolution in channels_first does on the kernels that have none."""

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs):
        raise tf.errors.UnimplementedError(None, None, WORDS[0])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm, self.last = L.BatchNormalization(), Fails()

    def call(self, inputs):
        return self.last(self.norm(inputs))


def functional():
    return keras.Sequential([L.Input((3,)), L.Dense(3), L.BatchNormalization(), Fails()])


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    ("one_dnn", "remedy"),
    [
        (
            False,
            "Set TF_ENABLE_ONEDNN_OPTS=1 before Python starts: oneDNN's kernels compute it. "
            "Or use a GPU.",
        ),
        (True, "Use a GPU, or build the model in channels_last."),
    ],
)
def test_the_way_out_is_the_one_that_is_left(monkeypatch, words, one_dnn, remedy):
    monkeypatch.setattr(_tensorflow, "one_dnn_is_on", lambda: one_dnn)
    found = _tensorflow.missing_kernel(ValueError(words), "diagnose")
    assert str(found) == f"diagnose: {CONSEQUENCE}{remedy}"


def test_another_failure_is_not_blamed_on_the_machine():
    error = tf.errors.UnimplementedError(None, None, "Cast string to float is not supported")
    assert _tensorflow.missing_kernel(error, "diagnose") is None


@pytest.mark.parametrize(
    ("caller", "call"),
    [
        ("diagnose", bnm.diagnose),
        ("recalibrate", bnm.recalibrate),
        ("diagnose", bnm.repair),
    ],
)
def test_the_doctor_says_that_the_machine_cannot_run_a_model(caller, call):
    with pytest.raises(InputError) as caught:
        call(functional(), np.ones((8, 3), "float32"))
    assert str(caught.value).startswith(f"{caller}: {CONSEQUENCE}")


def test_a_fold_that_the_machine_cannot_run_is_made_and_said_to_be_unverified():
    for data in (None, np.ones((8, 3), "float32")):
        result = bnm.fold(functional(), data)
        assert (result.count, result.difference, result.agrees) == (1, None, None)
        assert (result.speed, result.samples) == (None, 0)
        assert result.unverified.startswith(
            "this machine cannot run a model with data_format='channels_first', which "
        )
        assert result.as_json()["unverified"] == result.unverified
        assert f"not compared: {result.unverified}" in " ".join(str(result).split())


class FailsOnNoise(L.Layer):
    """Takes small numbers alone, as random ones are not."""

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs):
        tf.debugging.assert_less(tf.abs(inputs), 1e-6)
        return inputs


def picky():
    return keras.Sequential([L.Input((3,)), FailsOnNoise(), L.Dense(3), L.BatchNormalization()])


def test_a_fold_of_a_model_that_fails_on_random_data_is_compared_on_given_data_alone():
    result = bnm.fold(picky(), np.full((8, 3), 1e-7, "float32"))
    assert result.unverified is None
    assert result.agrees
    assert result.samples == 8


def test_a_fold_of_a_model_that_fails_on_all_data_is_unverified():
    for data in (None, np.ones((8, 3), "float32")):
        result = bnm.fold(picky(), data)
        assert result.count == 1
        assert result.unverified.startswith("the model fails here on random data (Invalid")


def test_data_that_the_model_fails_on_are_refused_where_it_runs_on_others(monkeypatch):
    from batchnorm_mechanics.folding import fold as module

    def random(model, rows, *, like):
        return np.full((rows, 3), 1e-7, "float32")

    monkeypatch.setattr(module, "random_inputs", random)
    with pytest.raises(InputError, match="fold: `data` must be what the model can run on"):
        bnm.fold(picky(), np.ones((8, 3), "float32"))


def test_the_command_writes_what_it_could_not_compare(tmp_path, monkeypatch):
    from batchnorm_mechanics.cli.model_options import ModelOptions

    file, out = tmp_path / "model.keras", tmp_path / "folded.keras"
    keras.Sequential([L.Input((3,)), L.Dense(3), L.BatchNormalization()]).save(file)
    monkeypatch.setattr(ModelOptions, "load", lambda *_, **settings: functional())
    done = bnm_here("fold", str(file), "--out", str(out), cwd=tmp_path)
    assert (done.code, out.exists()) == (0, True)
    assert "Outputs  not compared: this machine cannot run" in done.out
    found = json.loads(bnm_here("fold", str(file), "--out", str(out), "--json", cwd=tmp_path).out)
    assert (found["difference"], found["agrees"], found["out"]) == (None, None, str(out))
    assert found["unverified"].startswith("this machine cannot run")


def test_a_dilated_transposed_convolution_is_the_machine_s_matter():
    words = "Current CPU implementations do not yet support dilation rates larger than 1."
    found = _tensorflow.missing_kernel(tf.errors.InvalidArgumentError(None, None, words), "fold")
    assert "a model with a dilated transposed convolution, which" in str(found)


def test_a_model_that_is_yet_to_be_built_is_no_exception():
    with pytest.raises(InputError) as caught:
        bnm.diagnose(Subclassed(), np.ones((8, 3), "float32"))
    assert str(caught.value).startswith(f"diagnose: {CONSEQUENCE}")


def test_what_tensorflow_really_says_is_known():
    """Without oneDNN the convolution fails, and with it there is nothing to say."""
    x = np.ones((8, 1, 4, 4), "float32")
    model = keras.Sequential(
        [
            L.Input((1, 4, 4)),
            L.Conv2D(2, 3, data_format="channels_first"),
            L.BatchNormalization(axis=1),
        ]
    )
    if why_no_channels_first() is None:
        assert bnm.diagnose(model, x).samples == 8
        return
    with pytest.raises(InputError) as caught:
        bnm.diagnose(model, x)
    assert str(caught.value).startswith(f"diagnose: {CONSEQUENCE}Set TF_ENABLE_ONEDNN_OPTS=1")
