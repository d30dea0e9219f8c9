"""Whether pairs of files agree that somebody else published, one network in two formats.

Run as: python benchmarks/compare_published.py FOLDER, which writes
benchmarks/records/compare_published.json and the table of docs/howto/compare.md; with --page alone,
the table from the record.

It needs onnx, onnxruntime and ai-edge-litert. FOLDER holds the networks as the wheel of
openwakeword 0.5.1 has them (pip download --no-deps openwakeword==0.5.1, unpacked): .onnx and
.tflite of one name; and recordings of speech as .wav files, as Debian's package alsa-utils has
them. Each network gets what it is made for: sound, the spectra of it, or what the second network
makes of these.
"""

from importlib.metadata import version
from pathlib import Path

import fold_exports
import numpy as np
import worlds_page
from hardware import describe

RECORD = Path(__file__).parent / "records" / "compare_published.json"
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "compare.md"
MARK = "published"
SOURCE = "openwakeword 0.5.1"
RATE = 16_000
# Of the spectra, how many make one sample and how many lie between two.
WINDOW, STRIDE = 76, 8
SOUND, SPECTRA = "melspectrogram", "embedding_model"


def heard(folder):
    """Return all recordings in a folder as one, at 16 kHz."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    parts = []
    for path in sorted(folder.rglob("*.wav")):
        rate, sound = wavfile.read(path)
        parts.append(resample_poly(sound.reshape(len(sound), -1)[:, 0].astype(float), RATE, rate))
    return np.concatenate(parts).astype(np.float32)


def run(path, inputs):
    """Return what an ONNX file computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def windows(rows, length, stride):
    """Return overlapping parts of an array, each of some rows."""
    starts = range(0, len(rows) - length + 1, stride)
    return np.stack([rows[start : start + length] for start in starts])


def inputs_of(models, sound):
    """Return what each network is given: a function of its name and how many rows it takes."""
    # The published program scales spectra so before they go on.
    spectra = np.squeeze(run(models[SOUND], sound[None])) / 10 + 2
    seen = windows(spectra, WINDOW, STRIDE)[..., None]
    heard_as = np.squeeze(run(models[SPECTRA], seen))
    by_name = {SOUND: windows(sound, RATE, RATE), SPECTRA: seen}
    return lambda name, rows: by_name.get(name, windows(heard_as, rows, 1))


def measured(folder):
    """Compare all pairs in a folder; return the record."""
    import onnx

    import batchnorm_mechanics as bnm

    models = {path.stem: path for path in sorted(folder.rglob("*.onnx"))}
    given = inputs_of(models, heard(folder))
    rows = []
    for name, path in models.items():
        other = path.with_suffix(".tflite")
        if not other.is_file():
            continue
        takes = onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim
        inputs = given(name, takes[1].dim_value if len(takes) > 1 else 0)
        found = bnm.compare(path, other, inputs).as_json()
        kept = ("agrees", "answer", "sqnr", "samples", "outputs", "stages", "without_counterpart")
        rows.append({"network": name, **{one: found[one] for one in kept}})
    return {
        "machine": describe(),
        "packages": {one: version(one) for one in ("onnx", "onnxruntime", "ai-edge-litert")},
        "source": SOURCE,
        "rows": rows,
    }


def table(record):
    """Return what the page shows of a record, in Markdown."""
    header = ["network", "stages", "with a counterpart", "farthest", "outputs", "agree"]
    rows = []
    for row in record["rows"]:
        matched, alone = len(row["stages"]), len(row["without_counterpart"])
        before = [one["inherited"] for one in row["stages"][:-1]]
        farthest = f"{min(before):.0f} dB" if before else "-"
        figures = [f"{matched + alone}", f"{matched}", farthest, f"{row['sqnr']:.0f} dB"]
        rows.append([f"`{row['network']}`", *figures, "yes" if row["agrees"] else "no"])
    packages = ", ".join(f"{name} {found}" for name, found in record["packages"].items())
    samples = record["rows"][0]["samples"]
    samples = record["rows"][0]["samples"]
    counted = f"{record['source']}, {samples} samples each; farthest: of all stages but the last"
    return "\n".join([*worlds_page.grid(header, rows), "", f"{counted}; {packages}."])


def page(record, whole):
    """Return the page with the table of a record between its marks."""
    return fold_exports.between(MARK, table(record), whole, f"compare_published: {PAGE.name}")


if __name__ == "__main__":
    fold_exports.record_and_page(
        __doc__, RECORD, PAGE, measured=measured, page=page, folder="of the networks and of speech"
    )
