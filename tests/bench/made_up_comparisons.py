"""Comparisons as the bench makes them, with numbers that are easy to check."""

from datetime import UTC, datetime

from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.run import Request, Results


def layer(**changes):
    settings = {
        "part": "layer",
        "case": "(64, 56, 56, 64)",
        "measure": "forward + backward",
        "ours": "ours",
        "samples": {
            "ours": [0.030, 0.028, 0.032],
            "ours, XLA": [0.15, 0.15, 0.15],
            "Keras": [0.15, 0.14, 0.16],
            "torch, channels last": [0.09, 0.084, 0.096],
            "torch, channels first": [0.06, 0.056, 0.064],
        },
        "how": "one step a sample",
        "floor": [0.021, 0.022, 0.020],
        "limit": "two passes over memory",
    }
    return Comparison(**{**settings, **changes})


def results(*comparisons, finished=True):
    machine = {
        "processor": "Made-up 9000",
        "flags": ["sse4_2", "avx2"],
        "onednn": False,
        "onednn_set_by": "the processor",
        "cores": 2,
        "threads": 2,
        "memory_gb": 16.0,
        "load": 0.1,
        "system": "Linux 6",
        "python": "3.11.0",
        "versions": {"tensorflow": "2.21.0", "torch": None},
    }
    return Results(
        Request(("layer",), repeats=3),
        machine,
        ["torch"],
        list(comparisons),
        finished,
        datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )
