"""The public names, and what importing the package does and does not do in a fresh process."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import batchnorm_mechanics as bnm

ROOT = Path(bnm.__file__).parents[1]
STUB = ast.parse(Path(bnm.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))


def fresh(code, **environment):
    """Run code in a new interpreter; return what it wrote to descriptors 1 and 2."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TF_", "KERAS_"))
    }
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def named_in_the_stub():
    for node in STUB.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("the stub has no __all__")


@pytest.mark.parametrize("name", named_in_the_stub())
def test_every_name_of_the_stub_is_there(name):
    assert getattr(bnm, name) is not None


def test_the_stub_lists_what_it_imports_and_the_version():
    imported = [
        alias.asname or alias.name
        for node in STUB.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted([*imported, "__version__"]) == sorted(named_in_the_stub())


def test_dir_and_all_name_what_the_stub_names():
    public = {name for name in named_in_the_stub() if not name.startswith("_")}
    assert public <= set(bnm.__all__)
    assert public <= set(dir(bnm))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = bnm.no_such_name


def test_importing_the_package_imports_neither_tensorflow_nor_keras():
    out, err = fresh(
        "import sys, batchnorm_mechanics\n"
        "print(batchnorm_mechanics.__version__)\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    assert out.split("\n")[:2] == [bnm.__version__, "[]"]
    assert err == ""


def test_a_failed_import_of_tensorflow_says_why(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'told before')\nraise ImportError('no such library')\n"
    )
    out, err = fresh(
        "import batchnorm_mechanics as bnm\n"
        "try:\n    bnm.moments\nexcept ImportError as error:\n    print(error)",
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert out == "no such library\n"
    assert err == "told before"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    import keras

    path = tmp_path_factory.mktemp("saved") / "model.keras"
    layer = bnm.BatchNormalization(statistics=bnm.PooledPopulation())
    keras.Sequential([keras.layers.Input((3,)), layer]).save(path)
    return path


LOAD = (
    "model = keras.saving.load_model({!r})\n"
    "print(type(model.layers[0]).__module__, model.layers[0].statistics)"
)
LOADED = "batchnorm_mechanics.layers.batch_normalization PooledPopulation()\n"


def test_the_first_computation_prints_nothing_and_keras_then_finds_our_layer_in_a_file(saved):
    out, err = fresh(
        "import batchnorm_mechanics as bnm\n"
        "print(bnm.moments([[1.0], [3.0]], 0).mean.numpy().tolist())\n"
        f"import keras\n{LOAD.format(str(saved))}"
    )
    assert out == f"[2.0]\n{LOADED}"
    assert err == ""


@pytest.mark.thorough
def test_keras_finds_our_layer_in_a_file_if_it_was_imported_first(saved):
    out, _ = fresh(f"import keras\nimport batchnorm_mechanics\n{LOAD.format(str(saved))}")
    assert out == LOADED


def test_another_backend_breaks_no_import_and_is_named_when_a_layer_is_asked_for(tmp_path):
    # Keras and TensorFlow as far as we ask them: a real Keras would want the other backend there.
    (tmp_path / "keras.py").write_text(
        "class config:\n    @staticmethod\n    def backend():\n        return 'jax'\n"
    )
    (tmp_path / "tensorflow.py").write_text(
        "class config:\n    @staticmethod\n    def list_physical_devices():\n        return []\n"
    )
    out, err = fresh(
        "import batchnorm_mechanics as bnm\n"
        "import keras\n"
        "print(keras.config.backend())\n"
        "try:\n    bnm.BatchNormalization\nexcept ImportError as error:\n    print(error)",
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert out == (
        "jax\n"
        "batchnorm_mechanics.layers: Keras must run on the TensorFlow backend. Received: "
        "backend='jax'. Set the environment variable KERAS_BACKEND=tensorflow before Keras is "
        "first imported.\n"
    )
    assert err == ""
