"""The table of exports on the page about folding is what was measured, and bears out its text."""

import json

import fold_exports
import pytest

MODELS = ("as it is", "folded")
RECORD = json.loads(fold_exports.RECORD.read_text(encoding="utf-8"))


def row(statistics, model):
    (found,) = (
        one for one in RECORD["rows"] if (one["statistics"], one["model"]) == (statistics, model)
    )
    return found


def test_the_page_shows_the_record():
    whole = fold_exports.PAGE.read_text(encoding="utf-8")
    assert fold_exports.page(RECORD, whole) == whole
    assert "| ONNX float32 | as trained | as it is | " in whole


def test_a_page_without_the_marks_is_left_alone():
    with pytest.raises(SystemExit, match="must have <!-- exports --> and"):
        fold_exports.page(RECORD, "no marks")


@pytest.mark.parametrize("statistics", fold_exports.STATISTICS)
def test_what_the_page_says_of_the_table_holds(statistics):
    plain, folded = (row(statistics, model) for model in MODELS)
    for name in fold_exports.FORMATS:
        before, after = (dict(one["formats"][name]) for one in (plain, folded))
        of_both = before.pop("compared"), after.pop("compared")
        # Each export is what its model is, as far as its format can tell.
        assert all(one["agrees"] for one in of_both)
        assert all((one["sqnr"] > 100) == ("int8" not in name) for one in of_both)
        if name.startswith("LiteRT"):
            assert after == before
            continue
        if "int8" in name:
            assert 1.5 < of_both[1]["sqnr"] - of_both[0]["sqnr"] < 7.5
        gone = before["multiplications and additions"] - after["multiplications and additions"]
        assert gone == before["nodes"] - after["nodes"] == 8
        assert (after["quantizers"] < before["quantizers"]) == ("int8" in name)
        if "int8" not in name:
            assert after["accuracy"] == before["accuracy"] == plain["keras"]
        elif statistics == "re-estimated":
            assert abs(after["accuracy"] - before["accuracy"]) <= 0.005 + 1e-9


def test_right_statistics_are_worth_more_than_any_fold():
    for name in fold_exports.FORMATS:
        worst = min(row("re-estimated", one)["formats"][name]["accuracy"] for one in MODELS)
        best = max(row("as trained", one)["formats"][name]["accuracy"] for one in MODELS)
        assert worst - best > 0.4
