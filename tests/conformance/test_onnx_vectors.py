"""The ONNX project's own vectors for BatchNormalization, given to our functions.

Its node vectors are computed by code in the package `onnx`, its vectors converted from PyTorch are
files in it. Both come with the tolerance that the project runs its backends with.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
import tensorflow as tf
from onnx import helper, numpy_helper
from onnx.backend.test.case import node as node_cases

import batchnorm_mechanics as bnm

NODE_VECTORS = [
    "test_batchnorm_example",
    "test_batchnorm_epsilon",
    "test_batchnorm_example_training_mode",
    "test_batchnorm_epsilon_training_mode",
]
CONVERTED_VECTORS = [
    "test_BatchNorm1d_3d_input_eval",
    "test_BatchNorm2d_eval",
    "test_BatchNorm2d_momentum_eval",
    "test_BatchNorm3d_eval",
    "test_BatchNorm3d_momentum_eval",
]
# As the operator has them where a node does not.
DEFAULTS = {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0}


class Vector(NamedTuple):
    """Inputs x, scale, bias, mean and variance, and the outputs that are due."""

    model: onnx.ModelProto
    inputs: list
    outputs: list
    attributes: dict
    tolerance: dict


def attributes_of(model):
    (node,) = model.graph.node
    assert node.op_type == "BatchNormalization"
    named = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return {**DEFAULTS, **named}


def node_vectors():
    # This one operator's module: the package's own loader computes those of all operators, in 15 s.
    importlib.import_module("onnx.backend.test.case.node.batch_normalization")
    found = {}
    for case in node_cases._NodeTestCases:
        if [node.op_type for node in case.model.graph.node] == ["BatchNormalization"]:
            ((inputs, outputs),) = case.data_sets
            found[case.name] = Vector(
                case.model,
                list(inputs),
                list(outputs),
                attributes_of(case.model),
                {"rtol": case.rtol, "atol": case.atol},
            )
    return found


def converted_vectors():
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
    found = {}
    for case in sorted(folder.glob("test_BatchNorm*")):
        model = onnx.load(case / "model.onnx")
        x, y = (
            numpy_helper.to_array(onnx.load_tensor(case / "test_data_set_0" / name))
            for name in ("input_0.pb", "output_0.pb")
        )
        held = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        inputs = [x, *(held[name] for name in model.graph.node[0].input[1:])]
        tolerance = {"rtol": 1e-3, "atol": 1e-7}
        found[case.name] = Vector(model, inputs, [y], attributes_of(model), tolerance)
    return found


@pytest.fixture(scope="module")
def vectors():
    return {**node_vectors(), **converted_vectors()}


def ours(vector):
    x, scale, bias, mean, variance = vector.inputs
    axes = [axis for axis in range(x.ndim) if axis != 1]
    options = {"axes": axes, "epsilon": vector.attributes["epsilon"]}
    if not vector.attributes["training_mode"]:
        return [bnm.infer(x, mean, variance, scale, bias, **options)]
    y, cache = bnm.forward(x, scale, bias, **options)
    policy = bnm.ExponentialMovingAverage(decay=vector.attributes["momentum"])
    state = policy.init(mean.shape)._replace(mean=tf.constant(mean), variance=tf.constant(variance))
    state = policy.update(state, cache.mean, cache.variance, cache.count)
    return [y, *policy.read(state)]


def test_the_package_has_the_vectors_that_we_know_of(vectors):
    assert sorted(vectors) == sorted(NODE_VECTORS + CONVERTED_VECTORS)


@pytest.mark.parametrize("name", NODE_VECTORS + CONVERTED_VECTORS)
def test_our_functions_give_what_a_vector_says(name, vectors):
    vector = vectors[name]
    outputs = ours(vector)
    assert len(outputs) == len(vector.outputs)
    for actual, expected in zip(outputs, vector.outputs, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected, **vector.tolerance)


@pytest.mark.parametrize("name", NODE_VECTORS)
def test_onnx_runtime_gives_what_a_vector_says(name, vectors):
    runtime = pytest.importorskip("onnxruntime")
    vector = vectors[name]
    session = runtime.InferenceSession(
        vector.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, vector.inputs, strict=True)))
    for actual, expected in zip(outputs, vector.outputs, strict=True):
        np.testing.assert_allclose(actual, expected, **vector.tolerance)


def test_the_vectors_tell_the_biased_moving_variance_from_the_unbiased_one(vectors):
    vector = vectors["test_batchnorm_example_training_mode"]
    x, variance = vector.inputs[0], vector.inputs[4]
    unbiased = 0.9 * variance + 0.1 * x.var((0, 2, 3), ddof=1)
    assert not np.allclose(unbiased, vector.outputs[2], **vector.tolerance)
