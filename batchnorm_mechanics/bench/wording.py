"""Numbers and names of the bench as people read them."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchnorm_mechanics.bench.record import Comparison, Spread, Unit, spread
from batchnorm_mechanics.bench.run import Results

_LAYOUT = ", channels "
MISSING = "-"


def ratio_text(ratio: Spread | None) -> str:
    """Return how many times as much, in two digits or whole.

    Example:
        >>> ratio_text(Spread(4.0, 5.12, 6.0)), ratio_text(Spread(20.0, 31.4, 40.0))
        ('5.1x', '31x')
    """
    if ratio is None:
        return MISSING
    value = ratio.median
    return f"{value:.2f}x" if value < 2 else f"{value:.1f}x" if value < 9.95 else f"{value:.0f}x"


def amount(value: float, unit: Unit) -> str:
    """Return seconds or bytes in a unit in which they are easy to read.

    Example:
        >>> amount(0.0314, "seconds"), amount(114e6, "bytes"), amount(2.5e-5, "seconds")
        ('31.4 ms', '114 MB', '25 us')
    """
    if unit == "bytes":
        return f"{value / 1e6:.3g} MB"
    for scale, name in ((1.0, "s"), (1e-3, "ms")):
        if abs(value) >= scale:
            digits = f"{value / scale:.3g}" if abs(value) < 999.5 * scale else f"{value:.0f}"
            return f"{digits} {name}"
    return f"{value / 1e-6:.3g} us"


def interval(spread: Spread, unit: Unit) -> str:
    """Return a median with its quartiles.

    Example:
        >>> interval(Spread(0.001, 0.002, 0.003), "seconds")
        '2 ms (1 ms to 3 ms)'
    """
    low, median, high = (amount(value, unit) for value in spread)
    return f"{median} ({low} to {high})"


def family(name: str) -> str:
    """Return a contestant's name without its memory layout.

    Example:
        >>> family("torch, channels first"), family("Keras, XLA")
        ('torch', 'Keras, XLA')
    """
    return name.partition(_LAYOUT)[0]


def best_of(comparison: Comparison, wanted: str) -> str | None:
    """Return the member of a family that took least; None if none was measured."""
    members = [name for name in comparison.samples if family(name) == wanted]
    return min(members, key=lambda name: comparison.spread(name).median) if members else None


def peers(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the families that ours is compared with, in the order of their first appearance."""
    return list(
        dict.fromkeys(
            family(name)
            for comparison in comparisons
            for name in comparison.samples
            if not family(name).startswith(comparison.ours)
        )
    )


def cell(comparison: Comparison, wanted: str) -> str:
    """Return a peer's ratio; a star where torch was faster with the channels first."""
    name = best_of(comparison, wanted)
    if name is None:
        return MISSING
    return ratio_text(comparison.ratio(name)) + ("*" if name.endswith("first") else "")


def headline(comparison: Comparison) -> list[str]:
    """Return what is said of ours: its median, and the limit as a fraction of it."""
    ours = comparison.ours
    if ours not in comparison.samples:
        return ["refused", MISSING]
    fraction = comparison.fraction(ours)
    return [
        amount(comparison.spread(ours).median, comparison.unit),
        MISSING if fraction is None else f"{fraction:.2f}",
    ]


def limit_text(comparison: Comparison) -> str:
    """Return the median and the quartiles of the limit."""
    return (
        MISSING if comparison.floor is None else interval(spread(comparison.floor), comparison.unit)
    )


def limit_name(comparisons: Sequence[Comparison]) -> str | None:
    """Return what the limit of a table is, None if no comparison in it has one."""
    return next((f"limit: {one.limit}" for one in comparisons if one.floor is not None), None)


def groups(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], list[Comparison]]:
    """Group comparisons by what one table holds: part and measure, in order of appearance."""
    found: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        # Processes are compared with different things, so each has a table of its own.
        own = comparison.case if comparison.part == "import" else comparison.measure
        found.setdefault((comparison.part, own), []).append(comparison)
    return found


def machine_facts(machine: Mapping[str, Any]) -> list[str]:
    """Return what `machine.describe` found as three lines: hardware, kernels and versions."""
    versions = [f"{name} {one}" for name, one in machine["versions"].items() if one is not None]
    return [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gb']} GB; {machine['system']}",
        f"Instruction sets: {' '.join(machine['flags']) or 'not known'}; TensorFlow runs "
        f"{'with' if machine['onednn'] else 'without'} oneDNN, decided by "
        f"{machine['onednn_set_by']}",
        f"Python {machine['python']}, {', '.join(versions)}",
    ]


def machine_lines(results: Results) -> list[str]:
    """Return the machine, the versions and the way of measuring, a fact a line."""
    machine = results.machine
    hardware, *facts = machine_facts(machine)
    lines = [
        f"{results.started:%Y-%m-%d %H:%M} UTC; {hardware}",
        *facts,
        f"Medians of {results.request.many} repeats ({results.request.few} where a sample takes "
        "seconds), all contestants in turns in each repeat. Ratios are taken within a repeat.",
    ]
    if results.not_installed:
        lines.append(f"Not installed: {', '.join(results.not_installed)}")
    if (machine["load"] or 0) > 0.5:
        lines.append(f"The machine was busy at the start (load {machine['load']}): do not publish.")
    return lines


def notes(part: str) -> list[str]:
    """Return how a part is measured."""
    return {
        "layer": [
            "Training mode, float32, statistics updated. Results of all contestants are checked "
            "first: y, dx, dgamma, dbeta, mean and variance. Below 4 million elements a sample is "
            "a chain of steps, each fed with the last one's y and dx: a loop in the graph for "
            "TensorFlow and JAX, a loop in Python for torch. Larger ones are one call.",
            "backward = (forward + backward) - forward. torch: the faster of its memory layouts, "
            "* where that has the channels first.",
            "of limit: the time of two passes over memory, by the copy measured in the same run "
            "(4 copies forward + backward, 1.5 forward, 2.5 backward), as a fraction of ours; "
            "for tensors over 50 MB.",
            "called from Python: the same steps, each a call from Python of a compiled function of "
            "one step (tf.function, jax.jit), or of torch's module.",
        ],
        "model": [
            "train_on_batch and predict_on_batch, the same weights, results checked first.",
            "of limit: the time of the same model without batch norm, whose layers pass their "
            "input on, in turns with the others, as a fraction of ours. It computes something "
            "else; no batch norm layer can be faster than none.",
        ],
        "study": [
            "Each repeat trains new models from the same weights with the same batches.",
            "of limit: the time of the dense layers' matrix products alone, those of the gradients "
            "included, as many steps of them in one loop that XLA compiles, in turns with the "
            "others, as a fraction of ours.",
            "runs: as `bnm reproduce` has them, in new processes side by side: from their start "
            "to the last file, import and compilation included.",
        ],
        "import": ["Processes from start to end, with warm file caches."],
    }[part]
