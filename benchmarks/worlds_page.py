"""What people read of the records: the pages, and a summary in the terminal."""

import math
from datetime import datetime

from hardware import facts
from worlds_record import (
    ACCELERATED,
    BOTH,
    FORWARD,
    INFERENCE,
    KERAS,
    LAYER_PAIRS,
    LAYERS,
    MEASURES,
    NETWORKS,
    OURS,
    STEPS,
    TORCH,
    WITHOUT,
    WORLDS,
    cases,
    layer_ratio,
    samples,
    share,
    spread,
    step_ratio,
)

# From so many elements on a layer's work outweighs TensorFlow's own for starting it.
LARGE = 2**17
NONE = "-"

_SHOWN_SHAPES = (
    *((60, 100), (32, 8, 8, 128), (32, 7, 7, 512), (2, 10200, 32), (1024, 1024)),
    *((32, 60, 60, 16), (64, 28, 28, 64), (64, 56, 56, 64), (64, 112, 112, 64)),
)
_NAMES = {"off": "without oneDNN", "on": "with oneDNN"}
_TITLES = {"off": "Without oneDNN", "on": "With oneDNN"}

_INTRODUCTION = """\
# With oneDNN and without

Written by `python benchmarks/worlds.py page` from the records that `python benchmarks/worlds.py \
run` made; do not edit.

TensorFlow has two sets of kernels for batch normalization and convolutions: its own and oneDNN's. \
By default it takes oneDNN's only where the processor has AVX-512 with VNNI or newer. Most laptops \
and many servers have no AVX-512 VNNI, so that oneDNN is off there: most readers have the tables \
*without oneDNN*. `TF_ENABLE_ONEDNN_OPTS=1`, set before TensorFlow is imported, turns it on \
anywhere, and `=0` off.

Every number is how many times as long the other took: above 1 the layer named last is faster. It \
is the median over repeats, in each of which all contestants take turns; the quartiles are in \
brackets. What every contestant computes is checked first against float64, and one that computes \
something else is refused. *accelerated* is Keras's layer after `bnm.accelerate`; torch has the \
better of its memory layouts. Where Keras was faster in the median of the first repeats, up to \
three times as many were taken; all are kept and used.

- forward, both: a training step, statistics updated, without and with its gradients, in a graph; \
below 4 million elements as a chain of steps, each fed with the one before. backward = both - \
forward.
- inference: `training=False`, likewise.
- from Python: the same steps, each a call of a compiled function; below a million elements. torch \
is called from Python in any case, and its same samples are compared.
"""


def page(records):
    """Return the page in Markdown, which ends with a line break.

    Args:
        records: by world.
    """
    lines = [_INTRODUCTION]
    for world, record in records.items():
        lines += [f"## {_TITLES[world]}", "", *_machine_lines(record)]
        if cases(record, LAYERS):
            lines += ["", "### Summary", "", *_summary_table(record)]
            for theirs, ours in LAYER_PAIRS:
                lines += ["", f"### {theirs} / {ours}", "", *_ratio_table(record, theirs, ours)]
            lines += ["", "### Time of a step", "", *_time_table(record)]
        if cases(record, NETWORKS):
            lines += ["", "### Networks", "", *_network_notes(), "", *_network_table(record)]
        lines += _refusals(record)
        lines.append("")
    return "\n".join(lines)


def _machine_lines(record):
    parts = [record[part] for part in (LAYERS, NETWORKS) if part in record]
    lines = [f"- {fact}" for fact in facts(parts[0]["machine"])] if parts else []
    for name in (LAYERS, NETWORKS):
        if name not in record:
            continue
        part = record[name]
        date = f"{datetime.fromisoformat(part['date']):%Y-%m-%d %H:%M} UTC"
        finished = "" if part["finished"] else "; **interrupted, some are missing**"
        lines.append(f"- {name}: {date}, in {part['seconds']} s{finished}")
        if part["machine"] != parts[0]["machine"] | {"load": part["machine"]["load"]}:
            lines += [f"  - {fact}" for fact in facts(part["machine"])]
        if (part["machine"]["load"] or 0) > 0.5:
            lines.append(f"  - The machine was busy (load {part['machine']['load']}).")
    return lines


def _summary_table(record):
    rows = []
    for theirs, ours in LAYER_PAIRS:
        for measure in MEASURES:
            row = _summary_row(record, theirs, ours, measure)
            if row is not None:
                rows.append([f"{theirs} / {ours}", measure, *row])
    header = ["", "", f"median from {LARGE:,} elements", "worst of those", "worst of all", "at"]
    return grid(header, rows)


def _summary_row(record, theirs, ours, measure):
    found = [
        (one.median, case["shape"])
        for case in cases(record, LAYERS)
        if (one := layer_ratio(case, theirs, ours, measure)) is not None
    ]
    if not found:
        return None
    large = [value for value, shape in found if math.prod(shape) >= LARGE]
    worst, where = min(found)
    usual = [_number(spread(large).median), _number(min(large))] if large else [NONE, NONE]
    return [*usual, _number(worst), _shape(where)]


def _ratio_table(record, theirs, ours):
    rows = []
    for case in _by_size(record):
        ratios = [layer_ratio(case, theirs, ours, measure) for measure in MEASURES]
        rows.append(
            [_shape(case["shape"]), f"{math.prod(case['shape']):,}", *map(_interval, ratios)]
        )
    return grid(["shape", "elements", *MEASURES], rows)


def _time_table(record):
    names, measures = (OURS, ACCELERATED, KERAS, TORCH), (FORWARD, BOTH, INFERENCE)
    rows = []
    for case in _by_size(record):
        times = [samples(case, name, measure) for measure in measures for name in names]
        rows.append([_shape(case["shape"]), *map(_time, times)])
    return grid(["shape", *(f"{m}: {n}" for m in measures for n in names)], rows)


def _network_notes():
    return [
        "A call of `train_on_batch` or `predict_on_batch`, in turns. *no batch norm*: the same "
        "network whose batch norms pass their input on; no batch norm can be faster. The share of "
        "batch norm and the possible gain (Keras / no batch norm) follow from it; the gain reached "
        "is Keras / accelerated.",
    ]


def _network_table(record):
    rows = []
    for case in cases(record, NETWORKS):
        for kind in STEPS:
            part = share(case, kind)
            keras = case["microseconds"][KERAS][kind]
            rows.append(
                [
                    case["network"],
                    kind,
                    str(case["batch_norms"]),
                    _time(keras),
                    NONE if part is None else f"{part.median:.0%}",
                    _interval(step_ratio(case, KERAS, WITHOUT, kind)),
                    _interval(step_ratio(case, KERAS, ACCELERATED, kind)),
                ]
            )
    header = ["", "", "batch norms", "Keras", "share of batch norm", "possible gain", "gain"]
    return grid(header, rows)


def _refusals(record):
    refused = [
        f"- {name}, {case.get('network') or _shape(case['shape'])}: {reason}"
        for part in (LAYERS, NETWORKS)
        for case in cases(record, part)
        for name, reason in case["refused"].items()
    ]
    return ["", "### Refused", "", *refused] if refused else []


def speed(records):
    """Return the two tables of docs/how/speed.md in Markdown, without a line break at the end.

    Args:
        records: by world.
    """
    by_shape = {
        world: {tuple(case["shape"]): case for case in cases(record, LAYERS)}
        for world, record in records.items()
    }
    rows = []
    for shape in _SHOWN_SHAPES:
        row = [f"`{_shape(shape)}`"]
        for world in WORLDS:
            case = by_shape[world].get(shape)
            for theirs, measure in ((KERAS, BOTH), (TORCH, BOTH), (KERAS, INFERENCE)):
                one = None if case is None else layer_ratio(case, theirs, OURS, measure)
                row.append(_number(None if one is None else one.median))
        rows.append(row)
    kinds = ("Keras, training", "torch, training", "Keras, inference")
    header = ["shape", *(f"{kind}, {_NAMES[world]}" for world in WORLDS for kind in kinds)]
    return "\n".join([*grid(header, rows), "", *_speed_networks(records)])


def _speed_networks(records):
    by_name = {
        world: {case["network"]: case for case in cases(record, NETWORKS)}
        for world, record in records.items()
    }
    rows = []
    for name in dict.fromkeys(name for found in by_name.values() for name in found):
        row = [name]
        for world in WORLDS:
            case = by_name[world].get(name)
            for kind in STEPS:
                one = None if case is None else step_ratio(case, KERAS, ACCELERATED, kind)
                row.append(_number(None if one is None else one.median))
        rows.append(row)
    header = ["network", *(f"{kind}, {_NAMES[world]}" for world in WORLDS for kind in STEPS)]
    return grid(header, rows)


def summary(record):
    """Return a record's ratios as lines for a terminal."""
    lines = []
    for theirs, ours in LAYER_PAIRS:
        if not cases(record, LAYERS):
            break
        lines.append(f"{theirs} / {ours}: {', '.join(MEASURES)}")
        for case in _by_size(record):
            ratios = [layer_ratio(case, theirs, ours, measure) for measure in MEASURES]
            numbers = "".join(f"{_number(one and one.median):>7}" for one in ratios)
            lines.append(f"{_shape(case['shape']):>24}{numbers}")
    for case in cases(record, NETWORKS):
        for kind in STEPS:
            possible = step_ratio(case, KERAS, WITHOUT, kind)
            reached = step_ratio(case, KERAS, ACCELERATED, kind)
            lines.append(
                f"{case['network']}, {kind}: gain {_interval(reached)} "
                f"of the possible {_interval(possible)}"
            )
    return lines + [line for line in _refusals(record) if line]


def _by_size(record):
    return sorted(cases(record, LAYERS), key=lambda case: (math.prod(case["shape"]), case["shape"]))


def _shape(shape):
    return f"({', '.join(map(str, shape))})"


def _number(value):
    if value is None:
        return NONE
    return f"{value:.2f}" if value < 9.995 else f"{value:.0f}" if value < 1e6 else "no time"


def _interval(one):
    if one is None:
        return NONE
    return f"{_number(one.median)} ({_number(one.low)} to {_number(one.high)})"


def _time(found):
    return NONE if found is None else amount(1e-6 * spread(found).median)


def amount(seconds):
    """Return seconds in a unit in which they are easy to read, such as 31.4 ms."""
    scale, unit = next(
        (one for one in ((1.0, "s"), (1e-3, "ms")) if abs(seconds) >= one[0]), (1e-6, "us")
    )
    value = seconds / scale
    return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:.0f} {unit}"


def grid(header, rows):
    """Return a table in Markdown as lines; all columns but the first stand to the right."""
    separator = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, separator, *rows)]
