"""Room 5: the digits that three formulas lose, beside NumPy, TensorFlow and `core`."""

import ast

import ml_dtypes
import numpy as np
import pytest
import rooms
import tensorflow as tf

import batchnorm_mechanics as bnm

TYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
MEANS = [0, 1, 7.3, 200, 3000, 12345, 1e5, 1e6]
SCRIPT = """(() => {
  const fields = Object.fromEntries(
    Object.entries(digits_model.fields).map(([name, field]) => [name, field.initial]));
  return all.map((changes) => {
    const state = digits_model.mend({...fields, ...changes});
    const found = digits_model.computed(state, state.dtype);
    const of = digits_words.subtraction(state, found);
    const rows = digits_words.subtractionBits(of);
    const columns = bits_model.columnsOf(rows);
    return {
      state, found, columns, rows, sentence: digits_words.sentence(of),
      bits: columns && rows.map((row) => bits_model.bitsOf(row, columns)),
      remarks: digits_words.remarks(state, found), code: digits_words.code(state),
      epsilon: digits_model.TYPES.map((type) => digits_model.aboutEpsilon(state, type)),
      said: digits_words.epsilonSentence(state),
    };
  });
})()"""


def room(*changes):
    return rooms.evaluated(SCRIPT, all=changes)


@pytest.fixture(scope="module")
def found():
    asked = [{"mean": mean, "dtype": dtype} for dtype in TYPES for mean in MEANS]
    return {(each["state"]["dtype"], each["state"]["mean"]): each for each in room(*asked)}


def numbers(values):
    return np.array([float(value) for value in values])


def average(values, dtype):
    total = dtype(0)
    for value in values:
        total = total + value
    return total / dtype(len(values))


def stored(each, dtype):
    with np.errstate(over="ignore"):
        return (each["state"]["mean"] + np.array(each["state"]["x"])).astype(dtype)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid", "ignore:divide")
def test_the_textbook_formula_is_computed_in_its_type_bit_for_bit(found):
    for (name, mean), each in found.items():
        dtype = TYPES[name]
        x = stored(each, dtype)
        np.testing.assert_array_equal(numbers(each["found"]["stored"]), x.astype(np.float64))
        own = average(x, dtype)
        variance = average(x * x, dtype) - own * own
        y = (x - own) / np.sqrt(variance + dtype(each["state"]["epsilon"]))
        squares = each["found"]["squares"]
        np.testing.assert_array_equal(float(squares["variance"]), float(variance), err_msg=mean)
        np.testing.assert_array_equal(numbers(squares["y"]), y.astype(np.float64), err_msg=mean)


@pytest.mark.filterwarnings("ignore:invalid")
def test_float64_is_numpy_s(found):
    for (name, _), each in found.items():
        x = stored(each, TYPES[name]).astype(np.float64)
        if np.isfinite(x).all():
            y = (x - x.mean()) / np.sqrt(x.var() + each["state"]["epsilon"])
            # NumPy's mean of a million, in float64, is off by a digit or two of the sixteen.
            np.testing.assert_allclose(numbers(each["found"]["right"]["y"]), y, atol=1e-9)


def test_the_formula_of_tf_nn_gives_what_tensorflow_gives(found):
    """Within what 1 / sqrt may differ by, a unit or two: the products carry it into y."""
    for (name, _), each in found.items():
        x = stored(each, TYPES[name])
        if not np.isfinite(x.astype(np.float64)).all():
            continue
        mean, variance, _ = bnm.moments(x.astype(np.float32)[:, None], axes=[0])
        own = [tf.cast(value, name) for value in (mean, variance)]
        epsilon = tf.cast(each["state"]["epsilon"], name)
        y = tf.nn.batch_normalization(tf.constant(x[:, None]), *own, None, None, epsilon)
        page = each["found"]["tfnn"]
        unit = float(np.finfo(np.float32).eps) if name == "float32" else None
        unit = unit or float(ml_dtypes.finfo(TYPES[name]).eps)
        largest = np.max(np.abs(numbers(page["products"])))
        np.testing.assert_allclose(
            numbers(page["y"]), y.numpy()[:, 0].astype(np.float64), atol=3 * unit * largest
        )


def test_shifted_two_passes_are_those_of_core(found):
    for (name, _), each in found.items():
        x = stored(each, TYPES[name])
        if not np.isfinite(x.astype(np.float64)).all():
            continue
        y, cache = bnm.forward(
            tf.constant(x[:, None]), 1.0, 0.0, axes=[0], epsilon=each["state"]["epsilon"]
        )
        page = each["found"]["shifted"]
        assert page["variance"] == pytest.approx(cache.variance.numpy().item(), rel=1e-6)
        unit = float(ml_dtypes.finfo(TYPES[name]).eps)
        np.testing.assert_allclose(
            numbers(page["y"]), y.numpy()[:, 0].astype(np.float64), rtol=2 * unit, atol=1e-6
        )


def test_only_two_passes_stand_a_mean_of_a_million(found):
    errors = found["float32", 1e6]["found"]["errors"]
    assert errors["shifted"] < 1e-6
    assert errors["tfnn"] > 1e-3
    assert errors["squares"] == "NaN" or errors["squares"] > 1
    assert found["float32", 1]["found"]["errors"]["squares"] < 1e-5


def test_bits_are_those_of_the_numbers(found):
    for each in found.values():
        if each["columns"] is None:
            continue
        top, bottom = each["columns"]["top"], each["columns"]["bottom"]
        powers = 2.0 ** np.arange(top, bottom - 1, -1)
        for row, bits in zip(each["rows"], each["bits"], strict=True):
            if isinstance(row["value"], str):
                continue
            assert len(bits) == len(powers) <= 56
            ones = np.array([bit.endswith("one") and bit != "none" for bit in bits])
            # What lies further down is not drawn.
            assert 0 <= abs(row["value"]) - ones @ powers < 2.0**bottom


def test_bits_that_the_type_has_no_room_for_are_lost():
    (each,) = room({"mean": 3000})
    assert each["sentence"].startswith("float32 has room for 24 bits of E[x²].")
    assert "the first one lies within them; 23 are lost" in each["sentence"]
    kinds = [set(bits) for bits in each["bits"]]
    assert {"lost-one", "lost-zero"} <= kinds[3]
    assert not {"lost-one", "lost-zero"} & (kinds[0] | kinds[1] | kinds[2])
    (each,) = room({"mean": 1e6})
    assert each["sentence"].endswith("nothing of it is left.")
    (each,) = room({"mean": 0, "formula": "shifted"})
    assert each["sentence"].endswith("nothing is lost here.")


def test_what_is_lost_before_batch_norm_begins_is_said():
    alike, at_1e6, wide = room(
        {"mean": 5000, "dtype": "bfloat16"},
        {"mean": 1e6, "dtype": "float16"},
        {"mean": 300, "dtype": "float16"},
    )
    assert any("one value for 6" in line for line in alike["remarks"])
    assert any("x itself is past 65504" in line for line in at_1e6["remarks"])
    assert any("x² is past 65504" in line for line in wide["remarks"])
    assert wide["sentence"].startswith("E[x²] is past 65504")


def test_epsilon_below_the_step_of_a_type():
    small, beside = room({}, {"variance": 1, "small": 1e-3})
    assert [each["sum"] == 0 for each in small["epsilon"]] == [False, False, True]
    assert small["epsilon"][2]["inverse"] == "Infinity"
    assert "float16 holds nothing between 0 and 6e−8" in small["said"][2]
    # bfloat16's numbers are 2**-7 apart at 1.
    assert [each["sum"] == 1 for each in beside["epsilon"]] == [False, True, False]
    assert "so that ε changes nothing" in beside["said"][1]
    for type_name, each in zip(TYPES, beside["epsilon"], strict=True):
        dtype = TYPES[type_name]
        assert each["sum"] == float(dtype(1) + dtype(1e-3))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("mean", [7.3, 3000])
def test_the_copied_python_prints_what_the_page_shows(dtype, mean):
    (each,) = room({"dtype": dtype, "mean": mean, "small": 1e-3, "variance": 2})
    lines = [line.split(" [") for line in rooms.printed(each["code"])]
    # Of the formula that cancels, even a NaN is the page's.
    shown = {
        name: np.array(ast.literal_eval(f"[{text.replace('nan', '0')}")) for name, text in lines
    }
    page = each["found"]
    np.testing.assert_array_equal(shown["x"], numbers(page["stored"]))
    np.testing.assert_allclose(shown["float64"], numbers(page["right"]["y"]), atol=1e-9)
    np.testing.assert_array_equal(shown["squares"], np.nan_to_num(numbers(page["squares"]["y"])))
    unit = float(ml_dtypes.finfo(TYPES[dtype]).eps)
    np.testing.assert_allclose(shown["tfnn"], numbers(page["tfnn"]["y"]), atol=3 * unit * mean)
    np.testing.assert_allclose(shown["shifted"], numbers(page["shifted"]["y"]), rtol=2 * unit)
    at = list(TYPES).index(dtype)
    assert shown["variance + epsilon"].tolist() == [each["epsilon"][at]["sum"]]
