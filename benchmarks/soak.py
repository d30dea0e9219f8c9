"""What the doctor leaves in a process that goes on for an hour: memory, files, threads.

Run as: python benchmarks/soak.py [--minutes 60] [--rounds N]

Models of changing kind and size are made, diagnosed, recalibrated, repaired and folded, each new
and then let go. Every minute it prints what the process holds. At the end memory must be where it
was after the warm-up, within 5 %, and nothing else may be left; the exit code says it.

After each turn through the kinds, Keras's session is cleared: until then about a megabyte stays of
each new model that Keras's own `predict` computes, without any code of ours. `--keep` shows that.
"""

import argparse
import contextlib
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import doctor_models as models
import keras
import numpy as np

import batchnorm_mechanics as bnm

FLAT = 0.05
# Of the time: caches of TensorFlow's fill, and memory is asked for that is used again.
WARM_UP = 0.2
SHAPES = {
    models.dense: (12,),
    models.norm_first: (12,),
    models.ours: (12,),
    models.convolutional: (12, 12, 3),
    models.residual: (12, 12, 1),
    models.mobile: (12, 12, 3),
    models.two_models: (12,),
    models.two_branches: (12,),
    models.recurrent: (16, 3),
    models.subclassed: (12,),
}
# Those whose size can be asked for.
WIDTHS = {models.dense: "widths", models.convolutional: "filters"}
# Whose layers only their own code knows.
NOT_FOLDED = (models.subclassed,)


@dataclass(frozen=True)
class Held:
    """What a process holds: bytes of memory, and numbers of what else it must give back."""

    seconds: float
    rounds: int
    memory: int
    files: int
    threads: int
    temporary: int

    def __str__(self):
        return (
            f"{self.seconds / 60:6.1f} min {self.rounds:6d} rounds {self.memory / 2**20:8.1f} MiB "
            f"{self.files:4d} files open {self.threads:4d} threads "
            f"{self.temporary:4d} temporary files"
        )


def held(begun, rounds, temporary):
    """Return what this process holds now, and has in the folder for temporary files."""
    gc.collect()
    return Held(
        seconds=time.monotonic() - begun,
        rounds=rounds,
        memory=resident(),
        files=len(os.listdir("/dev/fd")),  # noqa: PTH208 - a descriptor that is open has no path
        threads=threads(),
        temporary=sum(1 for _ in temporary.rglob("*")),
    )


def resident():
    """Return the bytes of this process that are in memory."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    import subprocess

    found = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return 1024 * int(found.stdout)


def threads():
    """Return how many threads there are, TensorFlow's included where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def one_round(rng, number):
    """Do everything once with a model that nobody has seen before."""
    make = list(SHAPES)[number % len(SHAPES)]
    shape, rows = SHAPES[make], int(rng.integers(40, 160))
    x = rng.normal(rng.uniform(-3, 3), rng.uniform(0.5, 4), (rows, *shape)).astype("float32")
    labels = rng.integers(0, 4, rows)
    size = {WIDTHS[make]: tuple(map(int, rng.integers(4, 24, 2)))} if make in WIDTHS else {}
    batch = int(rng.choice((16, 32)))

    def new():
        model = make(shape, **size)
        model(x[:2])
        model.compile(
            optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        return model

    model = new()
    bnm.diagnose(model, x, labels=labels, batch_size=batch)
    bnm.recalibrate(model, x, batch_size=batch)
    copy = new()
    copy.set_weights(model.get_weights())
    statistics = models.norms_of(copy)[0].moving_mean
    statistics.assign(np.full(statistics.shape, np.nan, "float32"))
    repaired = bnm.repair(copy, x, labels=labels, batch_size=batch)
    if not any("BN101" in str(step) for step in repaired.steps):
        raise SystemExit(f"soak: {make.__name__} was not repaired: {repaired}")
    if make not in NOT_FOLDED and not bnm.fold(model, x, batch_size=batch).agrees:
        raise SystemExit(f"soak: {make.__name__} folded is another model")


@contextlib.contextmanager
def own_temporary_files():
    """Have Python, and what asks the environment, put temporary files into a folder of its own."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp(prefix="soak-")
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    try:
        yield Path(folder)
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable
        shutil.rmtree(folder)


def soak(*, seconds, rounds=None, every=60.0, show=print, keep=False):
    """Do rounds until the time is over, or so many, and return what was held along the way."""
    with own_temporary_files() as temporary:
        return _soak(temporary, seconds, rounds, every, show, keep)


def _soak(temporary, seconds, rounds, every, show, keep):
    rng, begun, done = np.random.default_rng(0), time.monotonic(), 0
    found = []
    while time.monotonic() - begun < seconds and (rounds is None or done < rounds):
        one_round(rng, done)
        done += 1
        # By whole turns: each kind of model has a size of its own.
        whole = done % len(SHAPES) == 0
        if whole and not keep:
            keras.utils.clear_session()
        if whole and (not found or time.monotonic() - begun >= found[-1].seconds + every):
            found.append(held(begun, done, temporary))
            show(found[-1])
    return found


def judged(found, flat=FLAT):
    """Return what is not as it was after the warm-up, in words."""
    after = [one for one in found if one.seconds >= WARM_UP * found[-1].seconds]
    part = max(1, len(after) // 5)
    first, last = after[:part], after[-part:]

    def mean(many):
        return sum(one.memory for one in many) / len(many)

    growth = mean(last) / mean(first) - 1
    wrong = [f"memory grew by {100 * growth:.1f} %"] if growth > flat else []
    for name in ("files", "threads", "temporary"):
        before, now = (getattr(one, name) for one in (first[-1], last[-1]))
        if now > before:
            wrong.append(f"{name}: {now}, and {before} after the warm-up")
    return growth, wrong


def main():
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, help="at most so many")
    parser.add_argument("--keep", action="store_true", help="never clear the session")
    options = parser.parse_args()
    found = soak(
        seconds=60 * options.minutes,
        rounds=options.rounds,
        every=min(60.0, options.minutes),
        keep=options.keep,
        show=lambda one: print(one, flush=True),
    )
    growth, wrong = judged(found)
    print(f"memory after the warm-up and at the end: {100 * growth:+.1f} %")
    print("; ".join(wrong) or "flat, and nothing is left")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
