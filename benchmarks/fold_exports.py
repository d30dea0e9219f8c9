"""What folding before an export changes: ONNX and LiteRT, float32 and int8, handwritten digits.

Run as: python benchmarks/fold_exports.py, which writes benchmarks/records/fold_exports.json and the
table of docs/howto/fold.md; with --page alone, the table from the record.

It needs onnx, onnxruntime, tf2onnx and ai-edge-litert beside TensorFlow. A small network of
depthwise convolutions is trained for so few steps that its moving statistics lag behind, as they
do in fine-tuning. It is exported as it is and folded, with these statistics and with re-estimated
ones, and each export classifies the same test images. All are quantized with the same 256 images.
"""

import argparse
import json
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import figures
import worlds_page
from hardware import describe, limit_process

from batchnorm_mechanics._io.files import write_atomically

RECORD = Path(__file__).parent / "records" / "fold_exports.json"
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "fold.md"
MARK = "exports"
SEED, STEPS, BATCH, TEST, CALIBRATION, COMPARED = 0, 300, 64, 2_000, 256, 64
FORMATS = (
    "ONNX float32",
    "ONNX int8, one scale a kernel",
    "ONNX int8, one scale a channel",
    "LiteRT float32",
    "LiteRT int8",
)
KERAS = "Keras, not exported"
STATISTICS = ("as trained", "re-estimated")
# What turns numbers into whole ones and back.
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def network(keras):
    """Return a classifier of images: nine batch norms, four of them behind depthwise layers."""
    layers = keras.layers

    def block(x, units, stride):
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(units, 1, use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(12, 3, 2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for units, stride in ((16, 1), (24, 2), (24, 1), (32, 2)):
        x = block(x, units, stride)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def digits():
    """Return images and labels to train on, and others to judge by."""
    from batchnorm_mechanics.studies import dataset

    loaded = dataset.load(minimum_rows=STEPS * BATCH)
    rows = STEPS * BATCH
    scaled = [part[..., None].astype("float32") / 255 for part in (loaded.x_train, loaded.x_test)]
    return scaled[0][:rows], loaded.y_train[:rows], scaled[1][:TEST], loaded.y_test[:TEST]


def quantized(plain, x, *, per_channel):
    """Quantize an ONNX file with some images, and return the new one, beside it."""
    import onnxruntime
    from onnxruntime import quantization

    name = onnxruntime.InferenceSession(str(plain)).get_inputs()[0].name

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{name: x[:CALIBRATION]}])

        def get_next(self):
            return next(self.batches, None)

    file = plain.with_name(f"{plain.stem}-int8-{per_channel}.onnx")
    kind = quantization.QuantType.QInt8
    quantization.quantize_static(plain, file, Reader(), per_channel=per_channel, weight_type=kind)
    return file


def onnx_figures(model, folder, images, labels, x):
    """Yield the figures of ONNX exports of a model by format."""
    import onnx
    import onnxruntime

    plain = folder / "model.onnx"
    model.export(plain, format="onnx", verbose=False)

    def figures_of(file):
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        (outputs,) = session.run(None, {entry.name: images})
        nodes = Counter(node.op_type for node in onnx.load(file).graph.node)
        return {
            "accuracy": float((outputs.argmax(1) == labels).mean()),
            "compared": compared(model, file, images),
            "nodes": sum(many for kind, many in nodes.items() if kind not in _QUANTIZERS),
            "multiplications and additions": nodes["Mul"] + nodes["Add"],
            "quantizers": sum(nodes[kind] for kind in _QUANTIZERS),
        }

    yield FORMATS[0], figures_of(plain)
    for per_channel, label in ((False, FORMATS[1]), (True, FORMATS[2])):
        yield label, figures_of(quantized(plain, x, per_channel=per_channel))


def litert_figures(model, folder, images, labels, x):
    """Yield the figures of LiteRT exports of a model by format."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    # By way of a SavedModel: the converter knows no Keras 3.
    model.export(folder / "saved", format="tf_saved_model", verbose=False)
    for quantized, label in ((False, FORMATS[3]), (True, FORMATS[4])):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([row[None]] for row in x[:CALIBRATION])
        file = folder / "model.tflite"
        file.write_bytes(converter.convert())
        interpreter = Interpreter(str(file))
        (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        outputs = interpreter.get_tensor(end["index"])
        kinds = Counter(one["op_name"] for one in interpreter._get_ops_details())
        delegates = kinds.pop("DELEGATE", 0)
        yield (
            label,
            {
                "accuracy": float((outputs.argmax(1) == labels).mean()),
                "compared": compared(model, file, images),
                "nodes": sum(kinds.values()) - kinds["QUANTIZE"] - kinds["DEQUANTIZE"],
                "multiplications and additions": kinds["MUL"] + kinds["ADD"],
                "quantizers": kinds["QUANTIZE"] + kinds["DEQUANTIZE"],
                "delegates": delegates,
            },
        )


def compared(model, file, images):
    """Return what `compare` says of an export: decibels of the outputs, and whether all is well."""
    import batchnorm_mechanics as bnm

    found = bnm.compare(model, file, images, samples=COMPARED)
    return {"agrees": found.agrees, "sqnr": found.sqnr, "stages": len(found.rows)}


def trained_on(x, y):
    """Return the network, trained."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = network(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss)
    model.fit(x, y, batch_size=BATCH, verbose=0)
    return model


def measured():
    """Train, fold, export and judge; return the record."""
    import batchnorm_mechanics as bnm

    x, y, images, labels = digits()
    trained = trained_on(x, y)
    rows = []
    for statistics in STATISTICS:
        if statistics == STATISTICS[1]:
            bnm.recalibrate(trained, x)
        folded = bnm.fold(trained, images[:64])
        if folded.left or not folded.agrees:
            raise SystemExit(f"fold_exports: {folded}")
        for name, model in (("as it is", trained), ("folded", folded.model)):
            accuracy = float((model.predict(images, verbose=0).argmax(1) == labels).mean())
            row = {"statistics": statistics, "model": name, "keras": accuracy, "formats": {}}
            with tempfile.TemporaryDirectory() as folder:
                given = (model, Path(folder), images, labels, x)
                row["formats"] = {**dict(onnx_figures(*given)), **dict(litert_figures(*given))}
            rows.append(row)
    packages = ("onnx", "onnxruntime", "tf2onnx", "ai-edge-litert")
    return {
        "machine": describe(),
        "packages": {name: version(name) for name in packages},
        "steps": STEPS,
        "batch_size": BATCH,
        "test_images": TEST,
        "rows": rows,
    }


def table(record):
    """Return what the page shows of a record, in Markdown."""
    rows = []
    for row in record["rows"]:
        before = [KERAS, row["statistics"], row["model"], f"{row['keras']:.4f}"]
        rows.append([*before, "", "", "", ""])
        for name, found in row["formats"].items():
            counts = [found["nodes"], found["multiplications and additions"], found["quantizers"]]
            lead = [name, row["statistics"], row["model"]]
            outputs = f"{found['compared']['sqnr']:.0f} dB"
            rows.append([*lead, f"{found['accuracy']:.4f}", outputs, *map(str, counts)])
    # Both models of one export beside each other, for that is what is to be compared.
    order = (KERAS, *FORMATS)
    rows.sort(key=lambda one: (order.index(one[0]), STATISTICS.index(one[1])))
    header = ["export", "statistics", "model", "accuracy", "outputs", "nodes", "Mul and Add"]
    packages = ", ".join(f"{name} {found}" for name, found in record["packages"].items())
    trained = f"{record['steps']} steps of {record['batch_size']} images of MNIST"
    judged = f"judged by {record['test_images']:,} others"
    outputs = f"outputs: by `bnm.compare`, against its Keras model, {COMPARED} images"
    grid = worlds_page.grid([*header, "quantizers"], rows)
    return "\n".join([*grid, "", f"Trained by {trained}, {judged}; {outputs}; {packages}."])


def page(record, whole):
    """Return the page with the table of a record between its marks."""
    return between(MARK, table(record), whole, f"fold_exports: {PAGE.name}")


def between(mark, text, whole, name):
    """Return a page with a text between two marks; `name` says in an error which page it is."""
    first, last = figures.marks(mark)
    if whole.count(first) != 1 or whole.count(last) != 1:
        raise SystemExit(f"{name} must have {first} and {last} once each.")
    before, _, rest = whole.partition(first)
    return f"{before}{first}\n\n{text}\n\n{last}{rest.partition(last)[2]}"


def record_and_page(about, record_file, page_file, *, measured, page, folder=None):
    """Measure unless told not to; write the record and the page.

    Args:
        about: what is measured, for `--help`; its first line.
        record_file, page_file: where both lie.
        measured: returns a new record; of a folder, where the command takes one.
        page: takes a record and the page, and returns the page with its table.
        folder: what is in the folder that the command takes; None where it takes none.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--page", action="store_true", help="measure nothing; write the table")
    if folder is not None:
        parser.add_argument("folder", type=Path, nargs="?", help=folder)
    given = parser.parse_args()
    if not given.page:
        if folder is not None and given.folder is None:
            parser.error("name the folder, or give --page")
        limit_process()
        record = measured() if folder is None else measured(given.folder)
        write_atomically(record_file, json.dumps(record, indent=2) + "\n")
    record = json.loads(record_file.read_text(encoding="utf-8"))
    write_atomically(page_file, page(record, page_file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    record_and_page(__doc__, RECORD, PAGE, measured=measured, page=page)
