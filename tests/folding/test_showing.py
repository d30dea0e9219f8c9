"""What came of folding, in a terminal."""

import io
import types
from pathlib import Path

from rich.console import Console

from batchnorm_mechanics.folding.showing import print_fold


def printed(result, **options):
    out = io.StringIO()
    print_fold(result, Console(file=out, width=80, highlight=False), **options)
    return out.getvalue()


def folded(**changes):
    parts = {
        "count": 2,
        "left": {"bn_3": "it is shared", "bn_4": "it is shared"},
        "difference": 2.5e-7,
        "tolerance": 1e-4,
        "samples": 100,
        "speed": 1.5,
        "batch_size": 32,
        "notes": ("a and b [1] have weights of their own now.",),
        "rounding": None,
        "unverified": None,
        "agrees": True,
        "kinds": {},
    }
    return types.SimpleNamespace(**parts | changes)


def test_a_fold_tells_how_much_faster_and_how_near_and_what_stays():
    shown = printed(folded(), file="m.keras", out=Path("f.keras"))
    assert shown.splitlines() == [
        "m.keras: 2 of 4 batch norm layers merged",
        "Speed    1.50 times as fast, 32 samples at a time",
        "Outputs  within 2.5e-07 of the original's, relative to the largest, on 32 random",
        "         samples and 100 samples of the data; rounding explains 0.0001",
        "Left     bn_3, bn_4, because it is shared",
        "Note     a and b [1] have weights of their own now.",
        "Written: f.keras",
    ]


def test_a_fold_that_nobody_could_compare_says_so_and_why():
    changes = {"difference": None, "speed": None, "unverified": "it cannot run here."}
    shown = printed(folded(**changes), file="m.keras", out=Path("f.keras"))
    assert shown.splitlines()[:2] == [
        "m.keras: 2 of 4 batch norm layers merged",
        "Outputs  not compared: it cannot run here.",
    ]


def test_layers_that_stay_for_one_reason_are_told_of_together_whatever_is_beside_each():
    left = {f"bn_{at}": f"before it: conv_{at} has the activation gelu" for at in range(16)}
    left["last"] = "it is shared"
    kinds = dict.fromkeys(left, "before it: a Conv1D has the activation gelu")
    kinds["last"] = left["last"]
    shown = printed(folded(left=left, kinds=kinds, notes=()), file="m.keras", out=Path("f.keras"))
    assert shown[shown.index("Left") :].splitlines() == [
        "Left     bn_0, bn_1, bn_2, bn_3 and 12 more layers, because before it: a Conv1D",
        "         has the activation gelu",
        "Left     last, because it is shared",
        "Written: f.keras",
    ]


def test_a_reason_that_names_the_same_layer_for_all_names_it():
    left = dict.fromkeys(("bn_1", "bn_2"), "before it: conv has an output that is used elsewhere")
    kinds = dict.fromkeys(left, "before it: a Conv2D has an output that is used elsewhere")
    shown = " ".join(printed(folded(left=left, kinds=kinds), file="m.keras").split())
    assert "Left bn_1, bn_2, because before it: conv has an output" in shown


def test_a_fold_of_nothing_says_so_and_compares_nothing():
    shown = printed(
        folded(count=0, left={}, speed=None, samples=0, notes=()),
        file="m.keras",
        out=None,
    )
    assert shown.splitlines() == [
        "m.keras: no batch norm layer",
        "No file was written: nothing could be merged.",
    ]
