"""Write docs/conventions.md from a run: python docs/conventions.py [report.json].

Without a report, made by `bnm conform --json`, it runs the subjects first.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.conformance.subjects import libraries

PAGE = Path(__file__).with_name("conventions.md")
# Beside those that are built in, what `make conventions` installs, by the package each needs: taken
# as it is, or by a function beside this file where the judge does not know the library's tensors.
FURTHER = {
    "haiku": ("haiku:BatchNorm", "Haiku"),
    "sonnet": ("sonnet:BatchNorm", "Sonnet"),
    "equinox": ("equinox.nn:BatchNorm", "Equinox"),
    "mlx": ("docs/further_libraries.py:mlx_batch_norm", "MLX"),
    "paddle": ("docs/further_libraries.py:paddle_batch_norm", "PaddlePaddle"),
}
HEADINGS = libraries() | dict(FURTHER.values())
SUBJECTS = tuple(HEADINGS)

Conventions = Mapping[str, Any]


def _number(name: str) -> Callable[[Conventions], str | None]:
    return lambda found: None if found[name] is None else f"{found[name]:g}"


def _word(name: str) -> Callable[[Conventions], str | None]:
    return lambda found: found[name]


def _start(found: Conventions) -> str | None:
    mean, variance = found["initial_mean"], found["initial_variance"]
    return None if mean is None or variance is None else f"{mean:g} and {variance:g}"


def _axis(found: Conventions) -> str | None:
    return None if found["axis_kept"] is None else f"{found['axis_kept']}"


def _moves(found: Conventions) -> str | None:
    return {True: "yes", False: "no", None: None}[found["moves_in_inference"]]


ROWS: dict[str, Callable[[Conventions], str | None]] = {
    "variance in the moving average": _word("moving_variance"),
    "momentum weighs the value that is": _word("momentum_weighs"),
    "momentum by default": _number("default_momentum"),
    "epsilon, of the square root": _word("epsilon_place"),
    "epsilon by default": _number("default_epsilon"),
    "moving mean and variance at first": _start,
    "axis kept by default": _axis,
    "mode of a call without one": _word("default_mode"),
    "statistics move in inference": _moves,
    "one sample behind a statistic": _word("one_sample"),
    "an empty batch in training": _word("empty_batch"),
    "error as mean/std grows": _word("large_mean"),
}


def table(conventions: Mapping[str, Conventions]) -> list[str]:
    """Return the table of conventions, one column for each subject, as lines of Markdown."""
    lines = [
        "| | " + " | ".join(HEADINGS[name] for name in conventions) + " |",
        "| --- |" + " --- |" * len(conventions),
    ]
    for title, cell in ROWS.items():
        cells = [cell(found) or "–" for found in conventions.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _judged(subject: Mapping[str, Any]) -> str:
    counts = Counter(case["status"] for case in subject["cases"])
    edges = len(_edge_cases(subject))
    measured = counts["measured"] - edges
    said = [f"{counts['pass']} of {counts['pass'] + counts['fail']} cases passed"]
    said += [f"{measured} only measured"] if measured else []
    said += [f"{edges} edge case{'s' if edges > 1 else ''} shown"] if edges else []
    return ", ".join(said) + f", {counts['skipped']} do not apply"


def _edge_cases(subject: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the cases without samples of which a subject made what no other need make."""
    return [
        case
        for case in subject["cases"]
        if case["group"] == "edge cases" and case["status"] == "measured"
    ]


def _failures(subject: Mapping[str, Any]) -> list[str]:
    """Return one line for each way in which a subject failed, and each that is only shown."""
    lines = _ways([(failure["case"], failure) for failure in subject["failures"]])
    shown = [
        (case["case"], check)
        for case in _edge_cases(subject)
        for check in case["checks"]
        if not check["passed"]
    ]
    if shown:
        lines.append("  - edge cases, which nobody defines and which are not judged:")
        lines += [f"  {line}" for line in _ways(shown)]
    return lines


def _ways(found: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return one line for each way of being off, with the cases where it was."""
    ways: dict[str, dict[str, None]] = {}
    largest: dict[str, float] = {}
    for case, check in found:
        why = check["diagnosis"] or check["reason"] or f"{check['what']} off"
        if check["error"] is not None and why.endswith(" off"):
            largest[why] = max(float(check["error"]), largest.get(why, 0.0))
        ways.setdefault(why, {})[case] = None
    return [
        f"  - {why}{f' by up to {largest[why]:.2g}' if why in largest else ''}: "
        f"{', '.join(list(cases)[:3])}{' and more' if len(cases) > 3 else ''}"
        for why, cases in ways.items()
    ]


def _divisor(subjects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which variance normalizes, as far as all agree."""
    other = any("m'-1" in (f["diagnosis"] or "") for s in subjects for f in s["failures"])
    if other:
        return []
    return ["All of them normalize by the biased variance in training, as the paper does.", ""]


CARRY = """\
## Carry weights and settings

| here | gamma | beta | moving mean | moving variance |
| --- | --- | --- | --- | --- |
| Keras 3, ours | `gamma` | `beta` | `moving_mean` | `moving_variance` |
| PyTorch | `weight` | `bias` | `running_mean` | `running_var` |
| flax `nnx` | `scale` | `bias` | `mean` | `var` |
| ONNX | `scale` | `B` | `input_mean` | `input_var` |
| `tf.nn.batch_normalization` | `scale` | `offset` | `mean` | `variance` |

Copy the four arrays as they are; none is transposed. Then set, because the defaults differ:

- **epsilon**: the source's own number, always. It is part of the trained function.
- **momentum**: from PyTorch, `1 - momentum`; between Keras, flax and ONNX the same number. It acts
  only in training.
- **axis**: PyTorch and ONNX keep axis 1. Give Keras `axis=1` if the data stays channels first, or
  move the channels to the end everywhere and keep `axis=-1`.
- **mode**: a PyTorch module begins in training, and flax's unless told `use_running_average`; Keras
  infers unless `training=True`. Compare outputs in inference.
- **moving variance**: copied, it infers the same. Trained on, it drifts to the other kind of
  variance, n/(n-1) times as large or as small for n samples behind each statistic: 1.7% at n = 60,
  nothing to see in a convolution. `bnm.ExponentialMovingAverage(decay, unbiased=True)` keeps
  PyTorch's.

PyTorch to Keras, with the check that every port should have:

```python
import keras
import numpy as np
import torch

theirs = torch.nn.BatchNorm2d(3, eps=1e-5, momentum=0.1)
x = np.random.default_rng(0).normal(3.0, 2.0, (8, 3, 5, 5)).astype("float32")
theirs(torch.from_numpy(x))
theirs.eval()

ours = keras.layers.BatchNormalization(axis=1, epsilon=theirs.eps, momentum=1 - theirs.momentum)
ours.build(x.shape)
names = ("weight", "bias", "running_mean", "running_var")
ours.set_weights([getattr(theirs, name).detach().numpy() for name in names])

expected = theirs(torch.from_numpy(x)).detach().numpy()
print(np.max(np.abs(ours(x).numpy() - expected)) < 1e-6)
```

```
True
```
"""


def page(subjects: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page.

    Args:
        subjects: of the document that `bnm conform --json` prints.
    """
    lines = [
        "# What each library does",
        "",
        "Found by `bnm conform` from the behaviour of each library alone, and written by",
        "`docs/conventions.py`. A dash: it has no such thing, or it could not be told.",
        "",
        *table({subject["name"]: subject["conventions"] for subject in subjects}),
        "",
        "`normalizes`: the output is beta. `poisons`: the moving statistics are spoiled, for good",
        "if by NaN. `exact`: the error does not grow with mean/std; `proportional`: one digit is",
        "lost for each digit of mean/std; `quadratic`: two, as E[x²] − E[x]² loses them.",
        "",
        *_divisor(subjects),
        "## How they did",
        "",
        "Against the float64 oracle, with tolerances that follow from the rounding of each type:",
        "",
    ]
    for subject in subjects:
        lines.append(f"- {subject['description']}: {_judged(subject)}")
        lines += _failures(subject)
    return "\n".join([*lines, "", CARRY])


def run() -> dict[str, Any]:
    """Run the subjects and return the document."""
    command = [sys.executable, "-m", "batchnorm_mechanics", "conform", *SUBJECTS, "--json"]
    root = PAGE.parents[1]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=root)
    if done.returncode not in (0, 1):  # 1: a subject failed, which is what the page tells of.
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def main() -> None:
    """Write the page."""
    document = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else run()
    subjects = {subject["name"]: subject for subject in document["subjects"]}
    lacking = [name for name in SUBJECTS if name not in subjects]
    if lacking:
        sys.exit(f"docs/conventions.py: the report must hold all subjects; it lacks {lacking}.")
    write_atomically(PAGE, page([subjects[name] for name in SUBJECTS]))


if __name__ == "__main__":
    main()
