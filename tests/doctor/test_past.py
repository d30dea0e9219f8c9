"""What repair knows of a model's statistics stays with its file."""

import zipfile

import keras
import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.repair import repair
from batchnorm_mechanics.models.files import load_model, save_model
from batchnorm_mechanics.models.mark import estimated_in, mark_estimated
from batchnorm_mechanics.models.norms import norms_in

X = np.random.default_rng(0).normal(2, 3, (512, 4)).astype("float32")


@pytest.fixture(scope="module")
def averaged_file(tmp_path_factory):
    """A model with averaged weights and statistics of before, as saved."""
    keras.utils.set_random_seed(3)
    layers = [
        *[keras.layers.Input((4,)), keras.layers.Dense(8)],
        *[keras.layers.BatchNormalization(momentum=0.9, name="bn"), keras.layers.Dense(1)],
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.99), "mse")
    model.fit(X, X[:, :1] ** 2, epochs=6, verbose=0)
    path = tmp_path_factory.mktemp("averaged") / "model.keras"
    model.save(path)
    return path


@pytest.fixture
def averaged(averaged_file):
    return keras.models.load_model(averaged_file)


def codes(model):
    return {found.code for found in diagnose(model).findings if found.severity != "note"}


def test_a_repaired_file_is_not_called_stale_again(averaged, tmp_path):
    save_model(averaged, tmp_path / "sick.keras")
    sick = load_model(tmp_path / "sick.keras")
    assert codes(sick) == {"BN110"}
    save_model(repair(sick, X).model, tmp_path / "fixed.keras")
    fixed = load_model(tmp_path / "fixed.keras")
    assert codes(fixed) == set()
    # Keras itself reads the file as any other.
    assert codes(keras.models.load_model(tmp_path / "fixed.keras")) == {"BN110"}
    # Other weights may not fit the statistics.
    fixed.layers[0].kernel.assign_add(fixed.layers[0].kernel)
    assert estimated_in(fixed) == set()


def test_a_model_without_a_mark_has_none_in_its_file(averaged, tmp_path):
    save_model(averaged, tmp_path / "model.keras")
    assert "batchnorm_mechanics.json" not in zipfile.ZipFile(tmp_path / "model.keras").namelist()


@pytest.mark.parametrize("content", ["{", "[]", '{"weights": "00"}'])
def test_a_damaged_mark_is_a_damaged_file(averaged, tmp_path, content):
    averaged.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras", "a") as archive:
        archive.writestr("batchnorm_mechanics.json", content)
    with pytest.raises(InputError, match="It cannot be loaded"):
        load_model(tmp_path / "model.keras")


def test_a_mark_goes_with_its_model():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.BatchNormalization()])
    mark_estimated(model, ["batch_normalization"])
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    assert estimated_in(model) == {"batch_normalization"}
    assert estimated_in(other) == set()


@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_one_weight_that_has_left_its_start_shows_that_a_layer_was_trained(name):
    layer = keras.layers.BatchNormalization(name="bn")
    model = keras.Sequential([keras.layers.Input((4,)), layer])
    (norm,) = norms_in(model)
    assert not norm.affine_has_moved
    getattr(layer, name).assign([0.5, 1.0, 0.0, 0.0])
    assert norm.affine_has_moved
