"""The records of `worlds.py`: how they are kept, and the ratios that follow from them.

A record is of one world. It has a part "layers" and a part "networks", each with its own date and
machine, so that one can be measured anew without the other.
"""

import json
import re
import statistics
from pathlib import Path
from typing import NamedTuple

from batchnorm_mechanics._io.files import write_atomically

FOLDER = Path(__file__).parent / "records"
# By world: the value of TF_ENABLE_ONEDNN_OPTS.
WORLDS = {"off": "0", "on": "1"}
LAYERS, NETWORKS = "layers", "networks"
PARTS = (LAYERS, NETWORKS)

OURS, ACCELERATED, KERAS, TORCH, WITHOUT = "ours", "accelerated", "Keras", "torch", "no batch norm"
FORWARD, BACKWARD, BOTH, INFERENCE = "forward", "backward", "both", "inference"
BOTH_CALLS, INFERENCE_CALLS = "both, from Python", "inference, from Python"
MEASURES = (FORWARD, BACKWARD, BOTH, INFERENCE, BOTH_CALLS, INFERENCE_CALLS)
TRAIN, PREDICT = "training step", "prediction step"
STEPS = (TRAIN, PREDICT)
# Every ratio that is reported: who is divided by whom.
LAYER_PAIRS = ((KERAS, OURS), (KERAS, ACCELERATED), (TORCH, OURS))

_DIGITS = 4


def path(folder, world):
    """Return where a world's record is."""
    return Path(folder) / f"onednn-{world}.json"


def read(folder, world):
    """Return a world's record, {"world": world} where there is none."""
    file = path(folder, world)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"world": world}


def write(folder, world, record):
    """Write a world's record whole or not at all; every list of samples is a line."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    lines = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{_joined(found[1])}]", text)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(path(folder, world), lines + "\n")


def _joined(items):
    return re.sub(r",\s+", ", ", items)


def microseconds(samples):
    """Return seconds as microseconds of four digits, in which every sample is kept.

    Args:
        samples: {contestant: {kind: [seconds]}}.
    """
    return {
        name: {kind: [_rounded(1e6 * one) for one in found] for kind, found in kinds.items()}
        for name, kinds in samples.items()
    }


def _rounded(value):
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short >= 10 ** (_DIGITS - 1) else short


class Spread(NamedTuple):
    """The quartiles of samples; half of the samples lie from `low` to `high`."""

    low: float
    median: float
    high: float


def spread(samples):
    """Return the quartiles of samples.

    Args:
        samples: one or more numbers.

    Returns:
        The quartiles, the least and the greatest sample included in what they are taken over, as
        NumPy's percentiles are. All three are the sample where there is but one.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError(
            "spread: `samples` must have one number or more. "
            f"Received: samples={samples!r}. Measure at least once."
        )
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    return Spread(*statistics.quantiles(samples, n=4, method="inclusive"))


def ratio(theirs, ours):
    """Return the quartiles of how many times as long theirs took, each repeat by itself.

    A difference of two times, as `backward` is one, can be 0 or less by chance. Such a repeat is
    kept too: it counts as endless for whoever took no time, and as 1 where both took none.
    """
    pairs = zip(theirs, ours, strict=True)
    return _quartiles([_over(max(0.0, one), max(0.0, other)) for one, other in pairs])


def _over(theirs, ours):
    if ours == 0:
        return 1.0 if theirs == 0 else float("inf")
    return theirs / ours


def _quartiles(values):
    # Between a number and infinity there is no point in the middle.
    finite = [min(value, 1e9) for value in values]
    return spread(finite)


def samples(case, name, measure):
    """Return a contestant's samples of a measure at a shape, None if it has none.

    Args:
        case: of a record's part "layers".
        name: of a contestant; "torch" is the better of its layouts.
        measure: one of `MEASURES`. torch is called from Python in any case, so that its `both` and
            `inference` are the same from Python.
    """
    found = case["microseconds"]
    if name == TORCH:
        layouts = [_measured(kinds, measure) for key, kinds in found.items() if _is_torch(key)]
        layouts = [one for one in layouts if one is not None]
        return min(layouts, key=lambda one: spread(one).median) if layouts else None
    return _measured(found[name], measure) if name in found else None


def _is_torch(name):
    return name.startswith(TORCH)


def _measured(kinds, measure):
    if measure == BACKWARD:
        return [both - forward for both, forward in zip(kinds[BOTH], kinds[FORWARD], strict=True)]
    return kinds.get(measure)


def layer_ratio(case, theirs, ours, measure):
    """Return the quartiles of a ratio at a shape, None where either was not measured."""
    numerator, denominator = samples(case, theirs, measure), samples(case, ours, measure)
    if measure in (BOTH_CALLS, INFERENCE_CALLS) and theirs == TORCH and denominator:
        numerator = samples(case, theirs, measure.partition(",")[0])
    if numerator is None or denominator is None:
        return None
    return ratio(numerator, denominator)


def step_ratio(case, theirs, ours, kind):
    """Return the quartiles of a ratio of a network's steps, None where one was not measured."""
    found = case["microseconds"]
    if theirs not in found or ours not in found:
        return None
    return ratio(found[theirs][kind], found[ours][kind])


def share(case, kind):
    """Return what share of a network's step Keras's batch norm is: 0.4 is 40 per cent."""
    gain = step_ratio(case, KERAS, WITHOUT, kind)
    return None if gain is None else Spread(*(1 - 1 / one if one else 0.0 for one in gain))


def cases(record, part):
    """Return a part's cases, none where it was not measured."""
    return record.get(part, {}).get("cases", [])
