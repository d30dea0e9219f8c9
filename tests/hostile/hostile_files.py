"""Model files that a stranger could send, made by code: each tries something that a model need not.

What a file would do is harmless: it touches `marker` in the current folder, connects to a port of
this machine, imports a module that lies there, or takes memory.
"""

import io
import json
import re
import warnings
import zipfile
import zlib

import h5py
import keras

MODULE = "keras_hub"


def plain_model():
    inputs = keras.layers.Input((2,), name="inputs")
    hidden = keras.layers.Dense(2, name="dense")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(hidden), name="plain")


def parts_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def named(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def layer(class_name, config=None, *, module="keras.layers", nodes=()):
    return {
        "module": module,
        "class_name": class_name,
        "registered_name": None,
        "name": "z",
        "config": {"name": "z", **(config or {})},
        "inbound_nodes": list(nodes),
    }


def called_with(argument, **more):
    return [{"args": [], "kwargs": {"inputs": argument, **more}}]


TENSOR = {
    "class_name": "__keras_tensor__",
    "config": {"shape": [None, 2], "dtype": "float32", "keras_history": ["bn", 0, 0]},
}

# Functions and classes of Keras's that are called with what the file says.
_CALLED = {
    "keras.layers.TFSMLayer": "beside",
    "keras.layers.deserialize": {"class_name": "Dense", "config": {"units": 1}},
    "keras.saving.KerasFileEditor": "plain.keras",
    "keras.saving.load_model": "plain.keras",
    "keras.models.load_model": "plain.keras",
    "keras.models.clone_model": "plain.keras",
    "keras.config.set_epsilon": 0.5,
    "keras.config.enable_unsafe_deserialization": None,
    "keras.backend.clear_session": None,
    "keras.backend.set_floatx": "float16",
    "keras.utils.get_file": "http://127.0.0.1:9/x",
    "keras.utils.set_random_seed": 3,
    "keras.datasets.mnist.load_data": "x.npz",
    "keras.applications.ResNet50": True,
    "keras.preprocessing.image.DirectoryIterator": ".",
    "keras.callbacks.CSVLogger": "marker",
    "keras.callbacks.OrbaxCheckpoint": "marker",
    "keras.utils.image_dataset_from_directory": ".",
    "keras.distribution.initialize": "127.0.0.1:9",
    "keras.ops.ones": [40_000, 50_000],
    "keras.ops.vectorize": "relu",
    "keras.random.normal": [40_000, 50_000],
    "keras.visualization.plot_image_gallery": "x",
    "keras.export.ExportArchive": "marker",
}

LAYERS = {
    **{
        f"calls {name}": layer(
            "Lambda", {"function": named(*name.rsplit(".", 1))}, nodes=called_with(argument)
        )
        for name, argument in _CALLED.items()
    },
    "an activation that is a class": layer(
        "Activation", {"activation": named("keras.layers", "TFSMLayer")}, nodes=called_with(TENSOR)
    ),
    "an initializer that is a function": layer(
        "Dense", {"units": 1, "kernel_initializer": named("keras.config", "set_epsilon")}
    ),
    "a mask that is a function": layer(
        "Lambda",
        {
            "function": named("keras.activations", "relu"),
            "mask": named("keras.saving", "load_model"),
        },
        nodes=called_with(TENSOR),
    ),
    "arguments that are a class": layer(
        "Lambda",
        {
            "function": named("keras.activations", "relu"),
            "arguments": {"x": layer("TFSMLayer", {"filepath": "beside"})},
        },
        nodes=called_with(TENSOR),
    ),
    "a SavedModel": layer("TFSMLayer", {"filepath": "beside"}, nodes=called_with(TENSOR)),
    "a SavedModel, by its module": layer(
        "TFSMLayer", {"filepath": "beside"}, module="keras.src.export.tfsm_layer"
    ),
    "a SavedModel within a layer": layer(
        "TimeDistributed", {"layer": layer("TFSMLayer", {"filepath": "beside"})}
    ),
    "PyTorch's module": layer("TorchModuleWrapper", {"module": "gASVAA=="}),
    "JAX's function": layer("JaxLayer", {"call_fn": "x"}),
    "Python code": layer("Lambda", {"function": {"class_name": "__lambda__", "config": {}}}),
    "Python code for a shape": layer(
        "Lambda",
        {
            "function": named("keras.activations", "relu"),
            "output_shape": {"class_name": "__lambda__", "config": {}},
        },
    ),
    "Python code as Keras 2 had it": layer("Lambda", {"function": ["4wEAAAA=", None, None]}),
    "a vocabulary in a file": layer("StringLookup", {"vocabulary": "plain.keras"}),
    "a vocabulary for text in a file": layer("TextVectorization", {"vocabulary": "plain.keras"}),
    "a call of numbers": layer("RepeatVector", {"n": 10**9}, nodes=called_with([[1.0]])),
    "a call of nothing": layer("Dense", {"units": 1}, nodes=[{}]),
    "a loop of functions": layer("WhileLoop", module="keras.src.ops.core"),
    "an operation that makes numbers": layer(
        "Full", module="keras.src.ops.numpy", nodes=called_with([40_000, 50_000])
    ),
    "a module beside": layer("Anything", module=MODULE),
    "a module beside, deeper": layer("Anything", module=f"{MODULE}.layers.deep"),
    "another module of Keras": layer("Anything", module="keras.src.utils.file_utils"),
    "a module of Python": layer("system", module="os"),
    "a type of TensorFlow": layer("__typespec__", module="tensorflow"),
    "a name with a sequence": layer("Own\x1b[31m", module=None),
    "weights beyond all memory": layer(
        "Dense", {"units": 10**9}, nodes=[{"args": [TENSOR], "kwargs": {}}]
    ),
    "an embedding beyond all memory": layer(
        "Embedding",
        {"input_dim": 10**9, "output_dim": 100},
        nodes=[{"args": [TENSOR], "kwargs": {}}],
    ),
    "a number beyond 64 bits": layer("Dense", {"units": 10**30}),
}


def with_layer(parts, added):
    config = json.loads(parts["config.json"])
    config["config"]["layers"].append(added)
    return {**parts, "config.json": json.dumps(config)}


def add_to_h5(path, added):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"].append(added)
        file.attrs["model_config"] = json.dumps(config)


def _weights(parts, change):
    memory = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(memory, "r+") as file:
        group = file["layers/dense/vars"]
        del group["0"]
        change(group)
    return {**parts, "model.weights.h5": memory.getvalue()}


def _claims(group):
    group.create_dataset("0", shape=(10**9,), dtype="float32", chunks=(1024,))


def _claims_in_a_chunk(group):
    group.create_dataset(
        "0", data=[[1.0]], maxshape=(None, None), chunks=(2**14, 2**14), compression="gzip"
    )


def _texts(group):
    group.create_dataset("0", shape=(10**7,), dtype=h5py.string_dtype(), chunks=(1024,))


def _references(group):
    group.attrs.create("x", [group.ref] * 3, dtype=h5py.ref_dtype)


def _external(group):
    group.create_dataset("0", shape=(2, 2), dtype="float32", external=[("plain.keras", 0, 16)])


def _virtual(group):
    layout = h5py.VirtualLayout(shape=(2, 2), dtype="float32")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2, 2))
    group.create_virtual_dataset("0", layout)


def _linked(group):
    group["0"] = h5py.ExternalLink("other.h5", "/x")


def _soft(group):
    group["0"] = h5py.SoftLink("/layers/bn/vars/0")


def _itself(group):
    group["0"] = group


def with_one_text_many_times(path):
    """Have all the names in an HDF5 file be its longest text, which is in it once."""
    with h5py.File(path, "r+") as file:
        file.attrs["long"] = "x" * 2**20
        file["model_weights"].attrs["layer_names"] = [f"{number:07}" for number in range(2000)]
    content = path.read_bytes()
    heaps = b"|".join(
        re.escape(one.start().to_bytes(8, "little")) for one in re.finditer(b"GCOL", content)
    )
    (long,) = re.findall(b"(?s)(\0\0\x10\0(?:%b)....)" % heaps, content)
    content, many = re.subn(b"(?s)\7\0\0\0(?:%b)...." % heaps, lambda _: long, content)
    assert many >= 2000
    path.write_bytes(content)


WEIGHTS = {
    "data that claim memory": _claims,
    "a chunk that claims memory": _claims_in_a_chunk,
    "texts of any length": _texts,
    "references": _references,
    "data in another file": _external,
    "virtual data": _virtual,
    "a link to another file": _linked,
    "a soft link": _soft,
    "a group within itself": _itself,
}


def _inflated(path, parts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        with archive.open("assets/x", "w") as member:
            for _ in range(150):
                member.write(bytes(2**20))


def _twice(path, parts):
    write(path, parts)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("config.json", parts["config.json"])


def _member(name):
    return lambda path, parts: write(path, {**parts, name: b"x"})


def _encrypted(path, parts):
    write(path, parts)
    content = bytearray(path.read_bytes())
    # The flags of the first member, in the archive's directory.
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def _linked_member(path, parts):
    write(path, parts)
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("assets/link")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")


def _bzipped(path, parts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _longer_than_said(path, parts):
    """Of the weights the directory knows a beginning alone, and its checksum."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", parts["config.json"])
        member = zipfile.ZipInfo("model.weights.h5")
        member.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(member, "w") as stored:
            for _ in range(700):
                stored.write(bytes(2**20))
        member.file_size, member.CRC = 1000, zlib.crc32(bytes(1000))


def _many_parts(path, parts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"[" + b"{}," * 5_000_000 + b"{}]")


def _deep(path, parts):
    write(path, {**parts, "config.json": "[" * 200_000 + "]" * 200_000})


ARCHIVES = {
    "an archive that inflates": _inflated,
    "two members of one name": _twice,
    "a member outside": _member("../marker"),
    "a member at the root": _member("/tmp/marker"),
    "a member of Windows": _member("..\\marker"),
    "an encrypted member": _encrypted,
    "a member that is a link": _linked_member,
    "a configuration nested deep": _deep,
    "a configuration of many parts": _many_parts,
    "members compressed in another way": _bzipped,
    "a member longer than it says": _longer_than_said,
}
