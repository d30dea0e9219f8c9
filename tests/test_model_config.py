"""What a model's file may name: each name that Keras exports is admitted on purpose, or refused."""

import importlib
import inspect

import keras
import pytest
from keras.src import api_export

from batchnorm_mechanics._io.model_config import Refused, admitted, check_config

EXPORTED = sorted(api_export.REGISTERED_NAMES_TO_OBJS)
# Whole modules of which nothing may be called: they read files, reach the network, or change
# what all of the process sees.
NO_MODULE = (
    "keras._legacy",
    "keras.applications",
    "keras.backend",
    "keras.callbacks",
    "keras.config",
    "keras.datasets",
    "keras.distillation",
    "keras.distribution",
    "keras.export",
    "keras.legacy",
    "keras.models",
    "keras.ops.image",
    "keras.optimizers.legacy",
    "keras.preprocessing",
    "keras.saving",
    "keras.tree",
    "keras.utils",
    "keras.visualization",
    "keras.wrappers",
)
# They turn configurations or names into things.
MAKERS = {"get", "serialize", "deserialize"}
NO_CLASS = {
    "keras.layers.FlaxLayer",
    "keras.layers.JaxLayer",
    "keras.layers.TFSMLayer",
    "keras.layers.TorchModuleWrapper",
    "keras.optimizers.OptimizerMap",
    "keras.Function",
    "keras.Initializer",
    "keras.InputSpec",
    "keras.KerasTensor",
    "keras.Loss",
    "keras.Metric",
    "keras.Operation",
    "keras.Optimizer",
    "keras.Quantizer",
    "keras.Regularizer",
    "keras.RematScope",
    "keras.StatelessScope",
    "keras.SymbolicScope",
    "keras.Variable",
    "keras.name_scope",
}
# Functions of these modules make layers, random numbers, or more numbers than they get.
NO_FUNCTIONS = ("keras", "keras.layers", "keras.quantizers", "keras.random")
ELEMENTWISE = admitted()["functions"]["keras.ops"]


def is_admitted(name, kind):
    module, _, last = name.rpartition(".")
    thing = {"module": module, "class_name": last, "config": {}}
    if kind == "function":
        thing = {**thing, "class_name": "function", "config": last, "registered_name": last}
    try:
        check_config(thing)
    except Refused:
        return False
    return True


def is_within(name, modules):
    return any(name.startswith(f"{module}.") for module in modules)


def is_class(name):
    return inspect.isclass(api_export.get_symbol_from_name(name))


def is_due(name):
    """Whether a name that Keras exports is to be admitted; a new one has to be decided on."""
    module, _, last = name.rpartition(".")
    if is_within(name, NO_MODULE):
        return False
    if is_class(name):
        return name not in NO_CLASS
    if module == "keras.ops":
        return last in ELEMENTWISE
    return module not in NO_FUNCTIONS and last not in MAKERS


def test_each_name_that_keras_exports_is_decided_on():
    assert len(EXPORTED) > 1000
    kinds = {name: "class" if is_class(name) else "function" for name in EXPORTED}
    found = {name for name, kind in kinds.items() if is_admitted(name, kind)}
    assert found == {name for name in EXPORTED if is_due(name)}


def test_a_class_that_is_named_as_a_function_is_refused():
    # It would be called with arguments of the file's.
    assert [name for name in EXPORTED if is_class(name) and is_admitted(name, "function")] == []


@pytest.mark.parametrize("module", [m for m in admitted()["classes"] if m.startswith("keras.src")])
def test_operations_that_run_functions_or_make_arrays_of_nothing_are_refused(module):
    refused = {"AssociativeScan", "Cond", "ForiLoop", "Map", "Scan", "Switch", "VectorizedMap"}
    refused |= {"WhileLoop", "JVP", "Arange", "Array", "Full", "Geomspace", "Linspace", "Logspace"}
    there = importlib.import_module(module)
    names = {
        name
        for name, thing in vars(there).items()
        if inspect.isclass(thing)
        and issubclass(thing, keras.Operation)
        and thing.__module__ == module
    }
    assert admitted()["classes"][module] == names - refused


def test_what_is_admitted_is_there():
    for modules in admitted().values():
        for module, names in modules.items():
            there = importlib.import_module(module)
            assert [name for name in names if not hasattr(there, name)] == []


def test_layers_that_take_a_file_take_a_list_in_its_place():
    words = {"path", "file", "dir", "url", "vocabulary"}
    takers = {
        (name, argument)
        for name in admitted()["classes"]["keras.layers"]
        for argument in inspect.signature(getattr(keras.layers, name).__init__).parameters
        if any(word in argument for word in words)
    }
    lookups = {"IntegerLookup", "StringLookup", "TextVectorization"}
    assert takers == {(name, "vocabulary") for name in lookups} | {
        ("IntegerLookup", "vocabulary_dtype")
    }
    for name in lookups:
        thing = {"module": "keras.layers", "class_name": name}
        check_config({**thing, "config": {"vocabulary": ["a", "b"]}})
        with pytest.raises(Refused, match="a list is due"):
            check_config({**thing, "config": {"vocabulary": "/etc/passwd"}})


def dense(**more):
    return {"module": "keras.layers", "class_name": "Dense", "config": {"units": 2}, **more}


def nested(depth):
    found = 0
    for _ in range(depth):
        found = [found]
    return found


TENSOR = {"class_name": "__keras_tensor__", "config": {"shape": [None, 2], "dtype": "float32"}}


@pytest.mark.parametrize(
    ("config", "place", "what"),
    [
        ({"a": [dense(), dense(class_name="TFSMLayer")]}, "a[1]", "'keras.layers.TFSMLayer'"),
        (dense(config={"activation": {"class_name": "__lambda__"}}), "config.activation", "code"),
        (dense(class_name=["Dense"]), "", "two names are due"),
        (dense(module=3), "", "two names are due"),
        ({"class_name": "function", "module": "keras.ops", "config": {}}, "", "a name is due"),
        (dense(inbound_nodes=[{"args": [[1.0]], "kwargs": {}}]), "inbound_nodes[0]", "tensor"),
        (dense(inbound_nodes=[{}]), "inbound_nodes[0]", "without a tensor"),
        (dense(inbound_nodes=[[]]), "inbound_nodes[0]", "without a tensor"),
        (dense(config={"units": 2**70}), "config.units", "64 bits"),
        (nested(150), "..." + ("[0]" * 101)[-200:], "nested"),
        ({"a b": [2**70]}, "['a b'][0]", "64 bits"),
        ({"\x1b[31m" * 100: 2**70}, "['\\x1b[31m\\x1b[31m", "64 bits"),
        ([dense()] * 50_001, "[50000]", "50,000 classes"),
        (dense(class_name="x" * 10_000), "", "'keras.layers.xxx"),
    ],
)
def test_the_place_and_what_stands_there_are_named(config, place, what):
    with pytest.raises(Refused) as refused:
        check_config(config)
    assert refused.value.place[: len(place) or None] == place
    assert what in refused.value.what
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "config",
    [
        dense(inbound_nodes=[{"args": [TENSOR], "kwargs": {"training": True}}]),
        dense(inbound_nodes=[{"args": [[TENSOR, 1.0]], "kwargs": {}}]),
        dense(inbound_nodes=[[["before", 0, 0, {}]]]),
        dense(inbound_nodes=[]),
        {"class_name": "Dense", "config": {"units": 2}},
        {"class_name": "function", "module": "builtins", "config": "relu"},
        {"class_name": "mine", "module": "elsewhere", "config": {}},
        {"class_name": "X", "registered_name": "pack>Mine", "module": None, "config": {}},
        {"class_name": "function", "module": "builtins", "config": "mine"},
        nested(90),
    ],
)
def test_honest_configurations_pass(config):
    check_config(config, custom={"mine", "pack>Mine"})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"class_name": "Mine", "module": "elsewhere", "config": {}}, "Mine"),
        ({"class_name": "Mine", "registered_name": "pack>Mine", "module": None}, "Mine"),
        ({"class_name": "Anything", "module": "keras_hub"}, "Anything"),
        ({"class_name": "function", "module": "builtins", "config": "mine"}, "mine"),
    ],
)
def test_what_a_users_own_code_may_have_is_named(config, name):
    with pytest.raises(Refused) as refused:
        check_config(config)
    assert refused.value.unknown == name
