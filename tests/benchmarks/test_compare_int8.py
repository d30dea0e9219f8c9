"""The table of int8 files on the page about comparing is what was measured, and bears its text."""

import json

import compare_int8
import pytest

RECORD = json.loads(compare_int8.RECORD.read_text(encoding="utf-8"))
ROWS = {(row["model"], row["scale"]): row for row in RECORD["rows"]}
MODELS = ("as it is", "folded")


def test_the_page_shows_the_record():
    whole = compare_int8.PAGE.read_text(encoding="utf-8")
    assert compare_int8.page(RECORD, whole) == whole


def test_no_stage_is_above_its_floor_and_all_were_found():
    assert list(ROWS) == [(model, scale) for model in MODELS for scale in compare_int8.SCALES]
    for row in ROWS.values():
        assert (row["agrees"], row["without_counterpart"]) == (True, [])
        assert {stage["verdict"] for stage in row["stages"]} == {"agrees"}


@pytest.mark.parametrize("model", MODELS)
def test_one_scale_a_channel_brings_kernels_and_outputs_nearer(model):
    kernel, channel = (ROWS[model, scale] for scale in compare_int8.SCALES)
    assert channel["sqnr"] - kernel["sqnr"] == pytest.approx(2.3, abs=0.2)
    pairs = [
        (one["own"], other["own"])
        for one, other in zip(kernel["stages"], channel["stages"], strict=True)
        if "conv2d" in one["layers"][0]
    ]
    assert len(pairs) == 9
    assert all(1 < after - before < 8 for before, after in pairs)
    assert 0 < kernel["right"] - channel["right"] <= 6


@pytest.mark.parametrize("scale", compare_int8.SCALES)
def test_the_norms_that_stay_add_most_and_folding_them_first_brings_the_outputs_nearer(scale):
    plain, folded = (ROWS[model, scale] for model in MODELS)
    left = [one for one in plain["stages"] if one["layers"][0].startswith("batch_norm")]
    others = [one for one in compare_int8.kept(plain) if one not in left]
    assert len(left) == 4
    assert max(one["own"] for one in left) < 32
    assert min(one["own"] for one in others) > 39
    assert folded["sqnr"] - plain["sqnr"] == pytest.approx(5.3, abs=0.2)
