"""What the page shows of the user's own model, beside what Keras itself computes."""

import json

import keras
import numpy as np
import pytest
import sick_models

import batchnorm_mechanics as bnm
from batchnorm_mechanics.explorer.own import own_model
from batchnorm_mechanics.models.data import Data


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    sick_models.write(folder)
    return folder


def images(rows=40):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.BatchNormalization(name="first"),
            layers.Conv2D(12, 3, name="conv"),
            layers.BatchNormalization(name="second", center=False, epsilon=1e-5),
        ],
        name="images",
    )
    return model, np.random.default_rng(3).normal(2, 3, (rows, 6, 6, 2)).astype(np.float32)


def test_its_layers_got_and_gave_what_keras_says():
    model, x = images()
    before = [weight.numpy() for weight in model.weights]
    found = own_model(model, Data(x, batch_size=16), name="m.keras", data_name="x.npz")
    assert [layer["name"] for layer in found["layers"]] == ["first", "second"]
    first, second = found["layers"]
    given = model.get_layer("conv")(model.get_layer("first")(x[:16], training=False))
    for layer, inputs in ((first, x[:16]), (second, np.asarray(given))):
        outputs = model.get_layer(layer["name"])(inputs, training=False)
        channels = min(inputs.shape[-1], 8)
        rows, results = (
            np.asarray(value).reshape(-1, inputs.shape[-1])[:, :channels]
            for value in (inputs, outputs)
        )
        step = len(rows) // 16
        np.testing.assert_allclose(layer["x"], rows[::step][:16], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer["y"], results[::step][:16], rtol=1e-5, atol=1e-5)
    assert first["by"] == f"Keras {keras.__version__}"
    assert (second["channels"], second["epsilon"], second["beta"]) == (12, 1e-5, [0.0] * 12)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_its_batches_are_those_of_training():
    model, x = images()
    found = own_model(model, Data(x, batch_size=16), name="m.keras", data_name="x.npz")
    batches = found["layers"][0]["batches"]
    assert [batch["count"] for batch in batches] == [16 * 36, 16 * 36, 8 * 36]
    for start, batch in zip((0, 16, 32), batches, strict=True):
        part = x[start : start + 16]
        np.testing.assert_allclose(batch["mean"], part.mean((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(batch["variance"], part.var((0, 1, 2)), rtol=1e-4)
    # In training the second layer gets what the first normalized by the batch.
    inputs = model.get_layer("conv")(model.get_layer("first")(x[:16], training=True))
    mean = np.asarray(inputs).mean((0, 1, 2))
    np.testing.assert_allclose(found["layers"][1]["batches"][0]["mean"], mean, atol=1e-4)


def test_it_says_whose_layer_computed_what_it_gave():
    class Changed(keras.layers.BatchNormalization):
        pass

    layers = [bnm.BatchNormalization(), Changed(), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.layers.Input((2,)), *layers])
    x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    found = own_model(model, Data(x), name="m.keras", data_name="x.npz")
    assert [layer["by"] for layer in found["layers"]] == [
        f"our BatchNormalization {bnm.__version__}",
        f"Changed on Keras {keras.__version__}",
        f"Keras {keras.__version__}",
    ]


def test_it_tells_what_the_doctor_says_and_json_holds_it(files):
    model = keras.saving.load_model(files / "sick.keras")
    with np.load(files / "data.npz") as arrays:
        data = Data(arrays["x"], labels=arrays["y"])
    found = own_model(model, data, name="sick.keras", data_name="data.npz")
    assert found["told"]["is_sick"]
    (group,) = [one for one in found["told"]["groups"] if one["code"] == "BN101"]
    assert (group["severity"], group["where"]) == ("error", "bn_1, channels 3, 17")
    assert found["told"]["title"].startswith("sick.keras: 2 batch norm layers")
    # What is no number has no literal.
    layer = json.loads(json.dumps(found, allow_nan=False))["layers"][0]
    assert [channel for channel, value in enumerate(layer["mean"]) if value is None] == [3, 17]


def test_a_layer_that_cannot_be_seen_is_left_out():
    model, x = images()
    whole = own_model(model, Data(x), name="m.keras", data_name="x.npz")
    assert whole["left"] == 0

    class Hidden(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization(name="unused")
            self.norm.build((None, 2))

        def call(self, inputs):
            return inputs

    hidden = keras.Sequential([keras.layers.Input((6, 6, 2)), Hidden(), *images()[0].layers])
    found = own_model(hidden, Data(x), name="m.keras", data_name="x.npz")
    assert [layer["name"] for layer in found["layers"]] == ["first", "second"]
    assert found["left"] == 1
