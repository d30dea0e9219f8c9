"""Names of subjects, and what is said about those that are none."""

import importlib.util
import subprocess
import sys

import keras
import pytest
from conformance.test_subjects import LAYOUTS, PEERS
from oracle_cases import whole

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance import subjects
from batchnorm_mechanics.conformance.subjects import as_subject, resolve
from batchnorm_mechanics.conformance.subjects.recognize import FORMS

WITHOUT_PEERS = [name for name in LAYOUTS if name not in PEERS]
FILE = """
import keras
from beside import EPSILON

class Layer(keras.layers.BatchNormalization):
    pass

instance = keras.layers.BatchNormalization(epsilon=EPSILON)

def function(x, gamma, beta, mean, variance, *, axis, momentum, epsilon, training):
    return x, mean, variance

class Other:
    pass

number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with one of everything, which imports another beside it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside.py").write_text("EPSILON = 0.25\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    yield path
    sys.modules.pop("beside", None)


@pytest.fixture
def without_peers(monkeypatch):
    found = importlib.util.find_spec
    peers = {package for packages in PEERS.values() for package in packages}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in peers else found(name)
    )


def refused(spec, message):
    with pytest.raises(InputError, match=whole(message)):
        resolve(spec)


def test_without_the_peers_all_other_subjects_can_run(without_peers):
    assert subjects.names_here() == WITHOUT_PEERS
    of_replicas = [name for name in WITHOUT_PEERS if name.endswith("-synchronized")]
    assert subjects.default_names() == [one for one in WITHOUT_PEERS if one not in of_replicas]
    assert subjects.default_names(2) == ["bnm.layer", of_replicas[0], "keras", of_replicas[1]]


def test_all_names_has_the_peers_whether_they_are_installed_or_not(without_peers):
    assert subjects.all_names() == list(LAYOUTS)


@pytest.mark.parametrize("name", WITHOUT_PEERS)
def test_a_built_in_subject_has_its_name_and_no_source(name):
    subject = resolve(name)
    assert (subject.name, subject.source) == (name, None)


def test_naming_subjects_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from batchnorm_mechanics.conformance import subjects\n"
        "subjects.default_names()\n"
        "for name in ('torch', 'flax', 'onnxruntime'):\n"
        "    if name in subjects.default_names():\n"
        "        subjects.resolve(name)\n"
        "heavy = {'tensorflow', 'keras', 'torch', 'jax', 'flax', 'onnx', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["Layer", "instance", "function"])
def test_a_file_s_layer_instance_and_function_are_subjects(name, file):
    subject = resolve(f"{file}:{name}")
    assert (subject.name, subject.source) == (f"{file}:{name}", str(file))
    assert subject.abilities


def test_a_relative_path_is_looked_for_in_the_current_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert resolve("mine.py:Layer").description == "Keras layer class Layer"


def test_a_module_in_the_current_folder_is_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert resolve("mine:Layer").source == "mine"
    del sys.modules["mine"]


def test_an_installed_module_is_found():
    assert resolve("keras.layers:BatchNormalization").takes_epsilon


def test_an_unknown_name_is_refused_with_all_names(without_peers):
    refused(
        "tensorflow",
        "conform: `subject` must be one of bnm.functions, bnm.functions-autodiff, bnm.layer, "
        "bnm.layer-synchronized, bnm.layer-fused, bnm.layer-autodiff, bnm.layer-graph, "
        "bnm.layer-compiled, keras, keras-synchronized, tf.nn, "
        "tf.fused, or a layer or function of your own as path/to/file.py:Name or "
        "package.module:Name. Received: subject='tensorflow'. "
        "Choose one of these. Those that need the peers, pip install 'batchnorm-mechanics[peers]': "
        "torch, flax, onnxruntime.",
    )


def test_with_all_peers_installed_nothing_is_said_of_installing_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"onnxruntime, or a layer .* Choose one of these\.$"):
        resolve("tensorflow")


def test_a_peer_that_is_not_installed_is_refused_with_the_command_that_installs_it(without_peers):
    refused(
        "flax",
        "conform: `subject` must be installed. Received: subject='flax', which needs jax and flax. "
        "Install the peers: pip install 'batchnorm-mechanics[peers]'.",
    )


@pytest.mark.parametrize("spec", ["mine.py", "mine.py:", ":Layer", "mine:not a name"])
def test_a_spec_without_a_name_is_refused(spec):
    refused(
        spec,
        "conform: `subject` must have the form module:Name or path/to/file.py:Name. "
        f"Received: subject={spec!r}. Write the name of a class or function after a colon.",
    )


def test_a_name_that_a_file_does_not_have_is_refused_with_those_that_it_has(file):
    spec = f"{file}:Lyer"
    refused(
        spec,
        f"conform: `subject` must name something in {file}. Received: subject={spec!r}. "
        "It has no 'Lyer'; it has EPSILON, Layer, Other, function, instance, keras, number.",
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("Other", "the class Other"), ("number", "of type int")]
)
def test_what_is_neither_layer_nor_function_is_refused(name, kind, file):
    spec = f"{file}:{name}"
    refused(
        spec,
        f"conform: `subject` must be {FORMS}. Received: subject={spec!r}, {kind}, without "
        "`__call__` and `forward`. Wrap it in one of these.",
    )


def test_an_object_has_its_own_name_or_the_one_that_is_given():
    layer = keras.layers.BatchNormalization
    assert as_subject(layer).name == "BatchNormalization"
    assert as_subject(layer()).name == "BatchNormalization"
    assert as_subject(layer, "mine").name == "mine"


def test_a_subject_stays_what_it_is():
    subject = resolve("keras")
    assert as_subject(subject) is subject
