"""Two models that can only be run as a whole: their steps are matched by what they compute."""

import numpy as np
import pytest
from commands import bnm_here

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.comparison.compare import compare
from batchnorm_mechanics.comparison.ran import Ran, Step, Value
from batchnorm_mechanics.comparison.result import Comparison, Output
from batchnorm_mechanics.comparison.values_alone import rows_by_value

X = np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32)
SUM = 3 * X - 1


def ran(*arrays, form="ONNX", kind="Any"):
    """A chain of steps, each of which makes one array, named by its place."""
    values = [Value(f"{form} {at}", array) for at, array in enumerate((X, *arrays))]
    steps = [Step(str(at), kind, (at - 1,), (at,)) for at in range(1, len(values))]
    return Ran(form, values, steps, (0,), (len(values) - 1,))


def rows(a, b):
    found, lost = rows_by_value(a, b)
    return [(row.layers, row.counterpart) for row in found], lost


def test_each_step_has_the_value_that_is_the_same():
    a, b = ran(SUM, np.abs(SUM)), ran(SUM * 1.000001, np.abs(SUM), form="LiteRT")
    assert rows(a, b) == ([(("1",), "LiteRT 1"), (("2",), "LiteRT 2")], [])


def test_steps_that_b_computes_as_one_are_one_row():
    a, b = ran(3 * X, SUM, np.maximum(SUM, 0)), ran(np.maximum(SUM, 0), form="LiteRT")
    assert rows(a, b) == ([(("1", "2", "3"), "LiteRT 1")], [])


def test_what_only_moves_numbers_is_no_step_and_is_not_missed():
    moved = SUM.transpose(0, 2, 1)
    a, b = ran(X.reshape(8, 12), SUM, moved, np.abs(moved)), ran(SUM, np.abs(SUM), form="LiteRT")
    assert rows(a, b) == ([(("2",), "LiteRT 1"), (("4",), "LiteRT 2")], [])


def test_an_output_has_its_place_and_a_step_that_leads_to_nothing_in_b_is_named():
    a, b = (ran(SUM, wave(SUM), np.exp(wave(SUM))) for wave in (np.sin, np.cos))
    assert rows(a, b) == ([(("1",), "ONNX 1"), (("3",), "ONNX 3")], ["2"])
    assert [row.by for row in rows_by_value(a, b)[0]] == ["value", "output"]


@pytest.mark.parametrize("kinds", [("Sigmoid", "Any"), ("Any", "LOGISTIC")])
def test_what_a_function_up_to_1_rounds_to_0_is_the_same(kinds):
    small = np.full((8, 1), 1e-9, np.float32)
    a, b = ran(SUM, small, kind=kinds[0]), ran(SUM, 40 * small, kind=kinds[1])
    assert rows(a, b) == ([(("1",), "ONNX 1"), (("2",), "ONNX 2")], [])
    assert rows_by_value(a, b)[0][1].by == "value"


def test_of_other_functions_small_numbers_count():
    small = np.full((8, 1), 1e-9, np.float32)
    assert rows_by_value(ran(SUM, small), ran(SUM, 40 * small))[0][1].by == "output"


def answer(decibels, **of_outputs):
    a = ran(*(SUM * (at + 1) for at in range(len(decibels))))
    arrays = [
        value.array * (1 + 10 ** (-size / 20))
        for value, size in zip(a.values[1:], decibels, strict=True)
    ]
    found, lost = rows_by_value(a, ran(*arrays))
    outputs = (Output("output", decibels[-1], 0.1, None, **of_outputs),)
    return Comparison(("a", "b"), ("ONNX", "ONNX"), 8, outputs, tuple(found), tuple(lost))


def test_both_agree_where_the_outputs_do():
    found = answer([130, 110, 120])
    assert (found.agrees, found.start, found.is_judged) == (True, None, False)
    assert found.summary == (
        "Both agree: the outputs are 120 dB apart, and each of 3 stages has a counterpart."
    )


def test_where_they_differ_the_largest_fall_is_named():
    found = answer([130, 110, 125, 60, 55])
    assert found.agrees is False
    assert found.summary == (
        "Both differ: the outputs are 55 dB apart; "
        "up to `3` all is 110 dB apart or nearer, behind `4` it is 60 dB."
    )


def test_small_outputs_of_a_function_up_to_1_agree_and_the_answer_says_why():
    assert answer([130, 40], is_rounding=True).summary == (
        "Both agree: the outputs are 40 dB apart, which is rounding to a unit in the last place "
        "of 1, and each of 2 stages has a counterpart."
    )


def test_two_networks_are_called_so():
    found, lost = rows_by_value(ran(SUM, X), ran(np.cos(SUM), np.sin(SUM)))
    outputs = (Output("output", 0.0, 1.0, None),)
    compared = Comparison(("a", "b"), ("ONNX", "ONNX"), 8, outputs, tuple(found), tuple(lost))
    assert compared.summary == (
        "Both differ: the outputs are 0 dB apart; no stage of A has a counterpart in B: "
        "they part at the first, or are two networks."
    )


def test_a_slow_decline_has_no_place():
    assert "no stage of A could be looked at by itself" in answer([79, 70, 60]).summary


def test_the_table_shows_both_names_and_no_empty_columns():
    lines = str(answer([130, 120])).splitlines()
    head = next(line for line in lines if line.startswith("stage"))
    assert head.split("  ")[0] == "stage of A"
    assert [word for word in ("value of B", "so far", "own", "floor") if word in head] == [
        "value of B",
        "so far",
    ]
    assert "2 ONNX 2 120 dB" in [" ".join(line.split()) for line in lines]


def test_several_inputs_go_by_their_names_in_whatever_order_the_files_have_them(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    sizes = {"z": 3, "b": 1, "y": 3}
    for name, order in (("a", "zb"), ("b", "bz")):
        ends = [
            helper.make_tensor_value_info(one, kind, ["n", sizes[one]]) for one in (*order, "y")
        ]
        node = helper.make_node("Sub", ["z", "b"], ["y"])
        graph = helper.make_graph([node], name, ends[:2], ends[2:])
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        onnx.save(model, tmp_path / f"{name}.onnx")
    data = {"z": X[:, 0], "b": 2 * X[:, 1, :1]}
    found = compare(tmp_path / "a.onnx", tmp_path / "b.onnx", data)
    assert (found.agrees, found.sqnr) == (True, 200)
    with pytest.raises(InputError, match=r"which takes 2 inputs, where the data have 1\.$"):
        compare(tmp_path / "a.onnx", tmp_path / "b.onnx", data["z"])


@pytest.mark.parametrize("way", ["--json", "--html"])
def test_the_command_compares_two_files_of_other_formats(tmp_path, way):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, ["n", 4, 3]) for name in ("x", "y")]
    for name, alpha in (("a", 0.1), ("b", 0.2)):
        nodes = [
            helper.make_node("Exp", ["x"], ["e"]),
            helper.make_node("LeakyRelu", ["x"], ["r"], alpha=alpha),
            helper.make_node("Add", ["e", "r"], ["y"]),
        ]
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / name)
        (tmp_path / name).rename(tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=X)
    page = [tmp_path / "page.html"] if way == "--html" else []
    files = "a.onnx", "b.onnx", "--data", "data.npz"
    ended = bnm_here("compare", *files, way, *page, cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "")
    assert "data.npz: 8 samples, (4, 3) float32" in ended.out
    if page:
        assert "<th>Verdict</th>" not in page[0].read_text()
        assert "<svg" in page[0].read_text()
