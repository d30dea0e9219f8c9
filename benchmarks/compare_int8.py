"""Where int8 loses what it loses, by one scale a kernel and one a channel: handwritten digits.

Run as: python benchmarks/compare_int8.py, which writes benchmarks/records/compare_int8.json and the
table of docs/howto/compare.md; with --page alone, the table from the record.

It needs onnx, onnxruntime and tf2onnx beside TensorFlow. The network of fold_exports.py, with
re-estimated statistics, is exported as it is and folded; ONNX Runtime quantizes both, by one scale
for each kernel and by one for each channel, and `bnm.compare` compares each file with its model.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import fold_exports
import worlds_page
from hardware import describe

RECORD = Path(__file__).parent / "records" / "compare_int8.json"
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "compare.md"
MARK = "int8"
SAMPLES = 256
SCALES = ("kernel", "channel")


def compared(model, path, images, labels):
    """Return what `compare` finds between a model and its file, and how good the file is."""
    import onnxruntime

    import batchnorm_mechanics as bnm

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images})
    found = bnm.compare(model, path, images, samples=SAMPLES).as_json()
    return {
        "right": int((outputs.argmax(1) == labels).sum()),
        **{name: found[name] for name in ("agrees", "sqnr", "stages", "without_counterpart")},
    }


def measured():
    """Train, fold, export, quantize and compare; return the record."""
    import batchnorm_mechanics as bnm

    x, y, images, labels = fold_exports.digits()
    trained = fold_exports.trained_on(x, y)
    bnm.recalibrate(trained, x)
    rows = []
    for name, model in (("as it is", trained), ("folded", bnm.fold(trained, images[:64]).model)):
        right = int((model.predict(images, verbose=0).argmax(1) == labels).sum())
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "model.onnx"
            model.export(plain, format="onnx", verbose=False)
            for scale in SCALES:
                path = fold_exports.quantized(plain, x, per_channel=scale == "channel")
                found = compared(model, path, images, labels)
                rows.append({"model": name, "scale": scale, "keras": right, **found})
    return {
        "machine": describe(),
        "packages": {name: version(name) for name in ("onnx", "onnxruntime", "tf2onnx")},
        "samples": SAMPLES,
        "test_images": len(images),
        "rows": rows,
    }


def kept(row):
    """Return the stages of a row that make an error of their own, and can be told by it."""
    return [one for one in row["stages"] if one["own"] is not None and one["own"] < 100]


def worst(row):
    """Return the stage that adds most."""
    return min(kept(row), key=lambda one: one["own"])


def table(record):
    """Return what the page shows of a record, in Markdown."""
    header = ["model", "one scale a", "right answers", "outputs", "adds most", "own", "floor"]
    rows = []
    for row in record["rows"]:
        stage = worst(row)
        name = " + ".join(f"`{one}`" for one in stage["layers"])
        figures = [f"{value:.1f} dB" for value in (row["sqnr"], stage["own"], stage["floor"])]
        lead = [row["model"], row["scale"], f"{row['right']:,} (Keras {row['keras']:,})"]
        rows.append([*lead, figures[0], name, *figures[1:]])
    packages = ", ".join(f"{name} {found}" for name, found in record["packages"].items())
    counted = f"Right answers of {record['test_images']:,}; compared on {record['samples']} of them"
    return "\n".join([*worlds_page.grid(header, rows), "", f"{counted}; {packages}."])


def page(record, whole):
    """Return the page with the table of a record between its marks."""
    return fold_exports.between(MARK, table(record), whole, f"compare_int8: {PAGE.name}")


if __name__ == "__main__":
    fold_exports.record_and_page(__doc__, RECORD, PAGE, measured=measured, page=page)
