import copy
import json
import subprocess
import sys

import keras
import networks
import numpy as np
import pytest
import turns
import worlds
import worlds_layers as layers
import worlds_page as pages
import worlds_record as records
from contestants import TensorFlowLayer
from problem import make_problem
from turns import Job, Plan

LARGEST = 300_000

MACHINE = {
    "processor": "Made-up 9000",
    "flags": ["avx2"],
    "cores": 2,
    "threads": 2,
    "memory_gb": 16.0,
    "load": 0.1,
    "system": "Linux 6",
    "python": "3.11.0",
    "versions": {"tensorflow": "2.21.0", "torch": None},
    "onednn": False,
    "onednn_set_by": "TF_ENABLE_ONEDNN_OPTS=0",
}


def layer_case(shape, **microseconds):
    found = {
        name: {"forward": forward, "both": both, "inference": forward}
        for name, (forward, both) in microseconds.items()
    }
    return {"shape": list(shape), "steps": 1, "refused": {}, "microseconds": found}


def made_up(world="off"):
    part = {
        "date": "2026-01-02T03:04+00:00",
        "machine": MACHINE,
        "finished": True,
        "seconds": 9,
    }
    shape = layer_case(
        (64, 56, 56, 64),
        ours=([1.0, 1.0, 2.0], [2.0, 2.0, 5.0]),
        accelerated=([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]),
        Keras=([3.0, 4.0, 8.0], [9.0, 8.0, 15.0]),
    )
    small = layer_case(
        (60, 100),
        ours=([1.0] * 3, [2.0] * 3),
        accelerated=([1.0] * 3, [2.0] * 3),
        Keras=([0.5] * 3, [3.0] * 3),
    )
    times = {"Keras": 4.0, "accelerated": 2.0, "no batch norm": 1.0}
    network = {
        "network": "made up",
        "batch_norms": 3,
        "refused": {},
        "microseconds": {
            name: {kind: [value] * 3 for kind in records.STEPS} for name, value in times.items()
        },
    }
    return {
        "world": world,
        "layers": {**part, "cases": [shape, small]},
        "networks": {**part, "cases": [network]},
    }


def both():
    return {world: made_up(world) for world in records.WORLDS}


def test_a_ratio_is_taken_within_a_repeat_and_its_median_is_shown():
    case = made_up()["layers"]["cases"][0]
    assert records.layer_ratio(case, "Keras", "ours", "forward").median == 4.0
    # (9 - 3) / (2 - 1), (8 - 4) / (2 - 1), (15 - 8) / (5 - 2)
    assert records.layer_ratio(case, "Keras", "ours", "backward").median == 4.0
    assert records.layer_ratio(case, "torch", "ours", "forward") is None
    assert records.layer_ratio(case, "Keras", "ours", "both, from Python") is None


def test_a_repeat_whose_difference_is_not_above_zero_is_kept():
    assert records.ratio([1.0, 2.0, -1.0], [1.0, 1.0, 1.0]).median == 1.0
    assert records.ratio([1.0, 1.0, 1.0], [-1.0, 0.5, 0.5]).median == 2.0
    assert records.ratio([-1.0], [-1.0]).median == 1.0


def test_torch_has_its_better_layout_and_is_called_from_python_in_any_case():
    case = layer_case((60, 100), ours=([1.0], [2.0]))
    slow, fast = {"both": [9.0], "forward": [4.0]}, {"both": [6.0], "forward": [5.0]}
    case["microseconds"] |= {"torch, channels last": slow, "torch, channels first": fast}
    case["microseconds"]["ours"]["both, from Python"] = [12.0]
    assert records.layer_ratio(case, "torch", "ours", "both").median == 3.0
    assert records.layer_ratio(case, "torch", "ours", "forward").median == 4.0
    assert records.layer_ratio(case, "torch", "ours", "both, from Python").median == 0.5


def test_samples_keep_four_digits_and_come_back_from_the_file(tmp_path):
    kept = records.microseconds({"ours": {"both": [1.23456e-5, 0.1234567, 2e-6]}})
    assert kept == {"ours": {"both": [12.35, 123500, 2.0]}}
    record = made_up()
    record["layers"]["cases"][0]["microseconds"]["ours"]["both"] = [12.35, 123500]
    records.write(tmp_path, "off", record)
    assert records.read(tmp_path, "off") == record
    assert '"both": [12.35, 123500]' in records.path(tmp_path, "off").read_text()
    assert records.read(tmp_path, "on") == {"world": "on"}


def test_the_page_has_ratios_summary_networks_and_the_machine():
    text = pages.page(both())
    for expected in (
        "## Without oneDNN",
        "## With oneDNN",
        "Instruction sets: avx2; TensorFlow runs without oneDNN, decided by "
        "TF_ENABLE_ONEDNN_OPTS=0",
        "- layers: 2026-01-02 03:04 UTC, in 9 s",
        "| Keras / ours | forward | 4.00 | 4.00 | 0.50 | (60, 100) |",
        "| (60, 100) | 6,000 | 0.50 (0.50 to 0.50) | 2.50 (2.50 to 2.50) |",
        "| made up | training step | 3 | 4 us | 75% | 4.00 (4.00 to 4.00) | 2.00 (2.00 to 2.00) |",
        "`TF_ENABLE_ONEDNN_OPTS=1`, set before TensorFlow is imported",
    ):
        assert expected in text
    assert text.index("| (60, 100) | 6,000") < text.index("| (64, 56, 56, 64) | 12,845,056")
    assert "interrupted" not in text
    assert "Refused" not in text


def test_the_page_says_what_was_refused_and_what_is_missing():
    found = both()
    found["on"]["layers"]["finished"] = False
    found["on"]["layers"]["cases"][0]["refused"] = {"torch": "y is off by 1"}
    text = pages.page(found)
    assert "interrupted, some are missing" in text
    assert "- torch, (64, 56, 56, 64): y is off by 1" in text


def test_the_readme_s_tables_have_both_worlds_side_by_side():
    text = pages.speed(both())
    assert "| `(60, 100)` | 1.50 | - | 0.50 | 1.50 | - | 0.50 |" in text
    assert "| made up | 2.00 | 2.00 | 2.00 | 2.00 |" in text


def test_without_records_there_is_no_page(tmp_path):
    with pytest.raises(SystemExit, match=r"Run `worlds\.py run` first"):
        worlds.main(["page", "--records", str(tmp_path), "--to", str(tmp_path / "page.md")])


def test_a_shape_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        worlds.main(["run", "--shapes", "60x100"])
    assert "'60x100' is no shape; write it like 60,100" in capsys.readouterr().err


def test_both_worlds_start_alike_but_for_onednn():
    off, on = (worlds.environment(world) for world in ("off", "on"))
    assert (off.pop("TF_ENABLE_ONEDNN_OPTS"), on.pop("TF_ENABLE_ONEDNN_OPTS")) == ("0", "1")
    assert off == on
    assert (off["OMP_WAIT_POLICY"], off["KMP_BLOCKTIME"]) == ("PASSIVE", "0")


class OnlyTraining(keras.layers.BatchNormalization):
    """Right in training; in inference faster than all others, for it does nothing."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True, mask=mask) if training else inputs


def test_a_contestant_that_computes_something_else_is_refused_and_not_timed():
    problem = make_problem((64, 8))
    contestants = [
        TensorFlowLayer("Keras", keras.layers.BatchNormalization, problem),
        TensorFlowLayer("cheat", OnlyTraining, problem),
    ]
    plan = Plan(least=2, most=2, seconds=0.1)
    found = layers.measure_shape(problem, contestants, plan, lambda message: None)
    assert list(found["microseconds"]) == ["Keras"]
    assert found["refused"]["cheat"].startswith("inference's y is off by")
    assert set(found["microseconds"]["Keras"]) == set(records.MEASURES) - {"backward"}


def test_a_network_that_computes_something_else_is_refused(monkeypatch):
    (network,) = networks.named(["dense"])
    monkeypatch.setattr(networks, "disagreement", lambda *models: "it is wrong")
    plan = Plan(least=1, most=1, seconds=0.1)
    found = networks.measure_network(network, plan, lambda message: None)
    assert found["refused"] == {"accelerated": "it is wrong"}
    assert set(found["microseconds"]) == {"Keras", "no batch norm"}
    assert found["batch_norms"] == 5


def test_mini_xception_has_the_batch_norms_of_its_description():
    network = networks.mini_xception(7)
    kinds = [one for one in network.layers if isinstance(one, keras.layers.BatchNormalization)]
    assert len(kinds) == 14
    assert {one.gamma.shape[0] for one in kinds} == {8, 16, 32, 64, 128}
    assert network.output_shape == (None, 7)


@pytest.mark.parametrize(("theirs", "expected"), [(2e-3, [3, 2]), (5e-4, [3, 2, 10])])
def test_more_repeats_are_taken_where_keras_is_faster_and_all_are_kept(
    theirs, expected, monkeypatch
):
    blocks = []

    def interleave(jobs, *, repeats):
        blocks.append((list(jobs), repeats))
        seconds = {"ours": 1e-3, "Keras": theirs}
        return {(name, kind): [seconds[name]] * repeats for name in jobs for kind in jobs[name]}

    monkeypatch.setattr(turns, "interleave", interleave)
    jobs = {name: {"both": Job(lambda: None)} for name in ("ours", "Keras")}
    plan = Plan(least=3, most=5, seconds=1.0)
    found = turns.timed(jobs, plan, (("Keras", "ours"),))
    assert [repeats for _, repeats in blocks] == expected
    # The turn goes on where the block before ended.
    assert [names[0] for names, _ in blocks] == ["ours", "Keras", "Keras"][: len(blocks)]
    assert {len(kinds["both"]) for kinds in found.values()} == {sum(expected)}


def test_the_shapes_are_forty_of_all_ranks_and_widths():
    shapes = layers.SHAPES
    assert len(set(shapes)) == len(shapes) == 40
    assert {len(shape) for shape in shapes} == {2, 3, 4, 5}
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert min(sizes) == 1000
    assert max(sizes) > 5e7
    assert sum(size >= pages.LARGE for size in sizes) >= 20
    channels = (*(1, 3, 4, 8, 16, 24, 32, 48, 64, 96, 100, 128, 256, 512, 728, 1024, 2048),)
    assert {shape[-1] for shape in shapes} == set(channels)
    assert set(pages._SHOWN_SHAPES) <= set(shapes)


@pytest.mark.thorough
def test_a_little_of_it_runs_from_end_to_end_in_one_world(tmp_path):
    command = [sys.executable, worlds.__file__, "run", "--quick", "--world", "off"]
    done = subprocess.run(
        [*command, "--shapes", "60,10", "--records", tmp_path],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Keras / ours" in done.stdout
    assert "timing" in done.stderr
    assert "retracing" not in done.stderr
    record = records.read(tmp_path, "off")
    assert record["layers"]["machine"]["onednn"] is False
    assert record["layers"]["finished"]
    assert record["networks"]["finished"]
    assert [case["shape"] for case in record["layers"]["cases"]] == [[60, 10]]
    (network,) = record["networks"]["cases"]
    assert (network["network"], network["accelerated"]) == ("dense, 128 of 784", 5)
    both = {"off": record, "on": copy.deepcopy(record)}
    assert "| (60, 10) | 600 |" in pages.page(both)


def recorded():
    files = {world: records.path(records.FOLDER, world) for world in records.WORLDS}
    missing = [world for world, file in files.items() if not file.exists()]
    if missing:
        pytest.skip(f"nobody has measured yet with oneDNN {' and '.join(missing)}")
    return {world: records.read(records.FOLDER, world) for world in files}


def test_the_records_are_whole_small_and_of_their_worlds():
    for world, record in recorded().items():
        assert record["world"] == world
        assert records.path(records.FOLDER, world).stat().st_size < LARGEST
        for part in records.PARTS:
            assert record[part]["finished"]
            assert record[part]["machine"]["onednn"] is (world == "on")
            assert all(case["refused"] == {} for case in record[part]["cases"])
        assert len(record["layers"]["cases"]) == 40
        assert len(record["networks"]["cases"]) == 5
        json.dumps(record, allow_nan=False)


def test_the_page_is_what_the_records_say():
    expected = pages.page(recorded())
    assert worlds.PAGE.read_text(encoding="utf-8") == expected
