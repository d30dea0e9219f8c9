"""ONNX, LiteRT and OpenVINO: exports of the networks, with and without a fault, and bad files.

The ONNX files here are the networks', exported by Keras, so that no exporter is needed.
"""

import shutil
from pathlib import Path

import compared_networks as networks
import keras
import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.comparison.compare import compare
from batchnorm_mechanics.folding.plan import plan_of

HERE = Path(__file__).parent
NETWORKS = ("mobile", "residual", "separable", "recurrent")


@pytest.fixture(scope="module")
def onnx():
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def names_fit(row):
    """Say whether a label does not speak against a counterpart: what was merged has a number."""
    return row.counterpart.startswith(
        ("Conv__", "LSTM", "Identity", "StatefulPartitionedCall")
    ) or (any(layer in row.counterpart for layer in row.layers))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_agrees_stage_by_stage(onnx, network, name):
    model, data = network(name)
    found = compare(model, HERE / f"{name}.onnx", data)
    assert found.agrees is True
    assert found.lost == ()
    assert all(row.by == "value" and row.own > 100 for row in found.rows)
    assert [row for row in found.rows if not names_fit(row)] == []


def test_a_norm_that_onnx_leaves_by_a_depthwise_convolution_is_a_stage_of_its_own(onnx, network):
    model, data = network("mobile")
    rows = compare(model, HERE / "mobile.onnx", data).rows
    assert ("0_depth_bn",) in [row.layers for row in rows]
    assert ("0_expand", "0_expand_bn") in [row.layers for row in rows]


def with_other_arrays(onnx, name, changed, path):
    """Write an ONNX file again with other stored arrays, known by their numbers."""
    document = onnx.load(HERE / name)
    for old, new in changed:
        hits = [
            one
            for one in document.graph.initializer
            if np.prod(one.dims) == old.size
            and np.allclose(onnx.numpy_helper.to_array(one).ravel(), old.ravel(), rtol=1e-4)
        ]
        assert len(hits) == 1
        array = new.reshape(hits[0].dims).astype(np.float32)
        hits[0].CopyFrom(onnx.numpy_helper.from_array(array, hits[0].name))
    onnx.save(document, path)
    return path


def merged(model, layer):
    """Return kernel and bias of a convolution with its norm in it, the kernel as ONNX has it."""
    weights = plan_of(model).weights[id(model.get_layer(layer))]
    return np.transpose(weights.kernels[0], (3, 2, 0, 1)), weights.bias


@pytest.mark.parametrize("fault", ["epsilon", "swapped_affine", "initial_statistics"])
def test_a_fault_in_an_onnx_file_is_named(onnx, network, tmp_path, fault):
    model, data = network("mobile")
    wrong = networks.faulty(model, "0_project_bn", fault)
    old, new = merged(model, "0_project"), merged(wrong, "0_project")
    path = with_other_arrays(onnx, "mobile.onnx", zip(old, new, strict=True), tmp_path / "b.onnx")
    found = compare(model, path, data)
    assert (found.start.name, found.start.cause.code) == ("0_project_bn", fault)
    assert [row.name for row in found.rows if row.differs] == ["0_project_bn"]


def test_a_quantized_onnx_file_agrees_as_far_as_int8_can(onnx, network):
    model, data = network("mobile")
    found = compare(model, HERE / "mobile_int8.onnx", data)
    assert (found.agrees, found.lost, found.is_quantized) == (True, (), True)
    assert 20 < found.sqnr < 60
    # Of quantized tensors the floor is that of their grids, and not of float32.
    assert all(row.floor < 60 for row in found.rows if row.layers[-1].endswith("relu"))


@pytest.mark.filterwarnings("ignore")  # of the quantizer, which is not ours
@pytest.mark.parametrize(("name", "rows"), [("mobile", 13), ("residual", 22), ("separable", 6)])
def test_a_file_whose_operations_compute_in_integers_agrees_stage_by_stage(
    onnx, network, tmp_path, name, rows
):
    quantization = pytest.importorskip("onnxruntime.quantization")
    model, data = network(name)
    path, (given,) = HERE / f"{name}.onnx", onnx.load(HERE / f"{name}.onnx").graph.input
    quantization.quantize_static(
        path,
        tmp_path / "b.onnx",
        Once({given.name: data}),
        quant_format=quantization.QuantFormat.QOperator,
        per_channel=True,
    )
    nodes = onnx.load(tmp_path / "b.onnx").graph.node
    assert "QLinearConv" in {node.op_type for node in nodes}
    found = compare(model, tmp_path / "b.onnx", data)
    assert (found.agrees, found.lost, len(found.rows)) == (True, (), rows)
    assert all(row.own > 25 for row in found.rows)
    assert all(25 < row.floor < 50 for row in found.rows)


class Once:
    """Samples to calibrate by, as ONNX Runtime asks for them."""

    def __init__(self, batch):
        self._left = [batch]

    def get_next(self):
        return self._left.pop() if self._left else None


def test_a_scale_of_one_channel_that_is_wrong_is_found_in_a_quantized_onnx_file(
    onnx, network, tmp_path
):
    model, data = network("mobile")
    document = onnx.load(HERE / "mobile_int8.onnx")
    stored = {one.name: one for one in document.graph.initializer}
    (kernel,) = (
        node
        for node in document.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in stored
        and list(stored[node.input[0]].dims) == [8, 3, 3, 3]
    )
    scale = onnx.numpy_helper.to_array(stored[kernel.input[1]]).copy()
    assert scale.shape == (8,)
    scale[2] *= 2
    stored[kernel.input[1]].CopyFrom(onnx.numpy_helper.from_array(scale, kernel.input[1]))
    onnx.save(document, tmp_path / "b.onnx")
    found = compare(model, tmp_path / "b.onnx", data)
    assert found.agrees is False
    assert "stem" in found.start.layers


def test_two_onnx_files_are_matched_by_value_and_no_cause_is_tried(onnx, network):
    _, data = network("mobile")
    path = HERE / "mobile.onnx"
    found = compare(path, path, data)
    assert found.agrees is True
    assert found.lost == ()
    assert all(row.own is None and row.cause is None for row in found.rows)
    assert "causes were not tried" in found.notes[0]


def test_small_probabilities_are_apart_by_rounding_alone(onnx, tmp_path):
    kernel = np.linspace(-1, 1, 4, dtype=np.float32)[:, None]
    data = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(1, "sigmoid", name="top")]
    model = keras.Sequential(layers)
    model.set_weights([kernel, np.float32([-17.0])])
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, ["n", n]) for name, n in (("x", 4), ("y", 1))]
    stored = [
        onnx.numpy_helper.from_array(array, name)
        for array, name in ((kernel, "kernel"), (np.float32([-17.0]), "bias"))
    ]
    nodes = [helper.make_node("Gemm", ["x", "kernel", "bias"], ["z"])]
    nodes.append(helper.make_node("Sigmoid", ["z"], ["y"]))
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "b.onnx")
    found = compare(model, tmp_path / "b.onnx", data)
    assert found.sqnr < 80
    assert (found.agrees, found.outputs[0].is_rounding) == (True, True)
    # Another bias is no rounding, though it moves the output by less than a tenth of a unit of 1.
    model.set_weights([kernel, np.float32([-13.0])])
    assert compare(model, tmp_path / "b.onnx", data).agrees is False


def exported(network, name, form, folder, suffix):
    model, data = network(name)
    path = folder / f"{name}{suffix}"
    model.export(str(path), format=form, verbose=False)
    return model, path, data


def quantized(model, data, path, kind):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "int8":
        converter.representative_dataset = lambda: ([row[None]] for row in data)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    elif kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converters, none of which is ours
@pytest.mark.parametrize("name", NETWORKS)
def test_litert_agrees_in_floating_point_and_as_far_as_int8_can(network, tmp_path, name):
    pytest.importorskip("ai_edge_litert")
    model, path, data = exported(network, name, "litert", tmp_path, ".tflite")
    found = compare(model, path, data)
    assert found.agrees is True
    assert found.lost == ()
    assert [row for row in found.rows if not names_fit(row)] == []
    found = compare(model, quantized(model, data, tmp_path / "b.tflite", "int8"), data)
    assert (found.agrees, found.lost, found.is_quantized) == (True, (), True)
    assert 20 < found.sqnr < 60
    assert [row for row in found.rows if not names_fit(row)] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter, which is not ours
@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_agrees_with_weights_of_half_precision_too(network, tmp_path, name):
    openvino = pytest.importorskip("openvino")
    model, path, data = exported(network, name, "openvino", tmp_path, ".xml")
    found = compare(model, path, data)
    assert (found.agrees, found.lost) == (True, ())
    assert found.sqnr > 120
    half = tmp_path / "half.xml"
    openvino.save_model(openvino.Core().read_model(path), half, compress_to_fp16=True)
    found = compare(model, half, data)
    assert (found.agrees, found.lost) == (True, ())
    assert 60 < found.sqnr < 90


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter, which is not ours
def test_swapped_statistics_are_named_where_a_runtime_makes_0_of_what_is_no_number(
    network, tmp_path
):
    pytest.importorskip("openvino")
    model, data = network("mobile")
    model = networks.faulty(model, "stem_bn", "epsilon")
    mean = model.get_layer("stem_bn").moving_mean
    mean.assign(mean * [1, -1, 1, -1, 1, 1, 1, -1])
    other = networks.faulty(model, "stem_bn", "swapped_statistics")
    # Of a variance below 0 there is no root, and OpenVINO's ReLU of that is 0.
    other.export(str(tmp_path / "b.xml"), format="openvino", verbose=False)
    found = compare(model, tmp_path / "b.xml", data)
    assert (found.start.name, found.start.cause.code) == ("stem_bn", "swapped_statistics")


def test_openvino_agrees_as_far_as_int8_can(network, tmp_path):
    openvino = pytest.importorskip("openvino")
    model, data = network("mobile")
    made = openvino.convert_model(HERE / "mobile_int8.onnx")
    assert "FakeQuantize" in {node.get_type_name() for node in made.get_ops()}
    openvino.save_model(made, tmp_path / "b.xml", compress_to_fp16=False)
    found = compare(model, tmp_path / "b.xml", data)
    assert (found.agrees, found.lost, found.is_quantized) == (True, (), True)
    # Each stage of its own, with none that came out as zeros.
    assert len(found.rows) == 18
    assert all(row.own > 40 and 20 < row.floor < 50 for row in found.rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter, which is not ours
@pytest.mark.parametrize(
    ("name", "kind"), [("residual", "weights"), ("recurrent", "float16"), ("separable", "float16")]
)
def test_litert_agrees_with_weights_alone_rounded(network, tmp_path, name, kind):
    pytest.importorskip("ai_edge_litert")
    model, data = network(name)
    found = compare(model, quantized(model, data, tmp_path / "b.tflite", kind), data)
    assert (found.agrees, found.lost, found.is_quantized) == (True, (), False)
    assert 40 < found.sqnr < 90


def refusal(path, **options):
    with pytest.raises(InputError) as error:
        compare(path, path, np.zeros((2, 3), np.float32), **options)
    said = str(error.value).replace(str(path), "FILE").replace(repr(str(path)), "FILE")
    head = "compare: `a` must be a model that can be run here. Received: 'FILE', which "
    assert said.startswith(head)
    return said.removeprefix(head)


def test_files_that_are_no_models_are_refused_in_a_sentence(onnx, tmp_path):
    path = tmp_path / "a.onnx"
    assert refusal(path) == "is not there."
    path.write_bytes(b"\x08\xff\xff no protobuf")
    assert refusal(path).startswith("is no sound ONNX file (")
    path.write_bytes(b"")
    assert refusal(path) == "holds no operation."
    shutil.copy(HERE / "mobile.onnx", path)
    assert refusal(path, max_size=1000).endswith(
        "bytes, more than 1,000: give a larger --max-size."
    )


def test_an_onnx_file_whose_names_are_no_text_is_refused(onnx, tmp_path):
    content = (HERE / "separable.onnx").read_bytes()
    name = onnx.load(HERE / "separable.onnx").graph.node[0].input[0].encode()
    (tmp_path / "a.onnx").write_bytes(content.replace(name, b"\xff" * len(name)))
    assert "is no sound ONNX file (a name in it is no text" in refusal(tmp_path / "a.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "gone.bin", ""])
def test_weights_outside_of_the_folder_of_an_onnx_file_are_not_read(onnx, tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    folder = tmp_path / "models"
    folder.mkdir()
    document = onnx.load(HERE / "mobile.onnx")
    tensor = document.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path = folder / "a.onnx"
    path.write_bytes(document.SerializeToString())
    said = refusal(path)
    assert said.startswith(
        "needs the file 'gone.bin' beside it" if location == "gone.bin" else "names weights outside"
    )


def test_a_link_out_of_the_folder_is_none_of_it(onnx, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(100_000))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    document = onnx.load(HERE / "mobile.onnx")
    tensor = document.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    (folder / "a.onnx").write_bytes(document.SerializeToString())
    assert refusal(folder / "a.onnx").startswith("names weights outside of its folder")


def test_a_litert_file_that_is_damaged_is_refused(tmp_path):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "a.tflite"
    path.write_bytes(b"no flatbuffer")
    assert refusal(path) == "is no LiteRT file: its first bytes are not those of one."
    path.write_bytes(b"\xff\xff\x00\x00TFL3" + bytes(200))
    assert refusal(path).startswith(("is no sound LiteRT file", "LiteRT cannot run"))


def test_openvino_needs_its_weights(tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "a.xml"
    path.write_text("<net/>")
    assert refusal(path) == "needs 'a.bin' beside it, which is not there."
    path.with_suffix(".bin").write_bytes(b"")
    assert refusal(path).startswith("OpenVINO cannot run (")
