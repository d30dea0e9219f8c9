"""What the command line may give: files of all kinds, numbers in words, and what is refused."""

import io
import zipfile

import numpy as np
import pytest
from oracle_cases import whole

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.tracing import numbers
from batchnorm_mechanics.tracing.command import Options, trace_with

A = np.array([[1, 2, 3], [4, 5, 6]], np.float64)


def traced(**options):
    return trace_with(Options(**options))


def text(path, words):
    path.write_text(words, encoding="utf-8")
    return path


def npy(path, array, **options):
    np.save(path, array, **options)
    return path


def test_without_a_file_it_is_the_source_s_example_with_its_gamma_and_beta():
    found = traced()
    np.testing.assert_array_equal(found["x"].value, A)
    assert (found["gamma"].value, found["beta"].value) == (2, 1)
    assert traced(parameters={"gamma": "3"})["gamma"].value == 3


def test_a_file_has_neither_gamma_nor_beta_unless_given(tmp_path):
    found = traced(input_file=npy(tmp_path / "x.npy", A))
    assert "gamma" not in found
    assert found["x"].dtype == "float64"


@pytest.mark.parametrize(
    "words", ["1,2,3\n4,5,6\n", "a,b,c\n1,2,3\n\n4,5,6", "\ufeff1,2,3\r\n4,5,6"]
)
def test_csv_is_read_with_or_without_a_header(tmp_path, words):
    found = traced(input_file=text(tmp_path / "x.csv", words))
    np.testing.assert_array_equal(found["x"].value, A)
    assert found.notes[0] == "The text of a CSV file has no type: it was read as float32."


def test_nan_in_a_csv_is_shown(tmp_path):
    found = traced(input_file=text(tmp_path / "x.csv", "nan,1\n2,3\n"))
    assert np.isnan(found["y"].value[:, 0]).all()


def test_one_of_several_arrays_is_chosen_by_its_key(tmp_path):
    np.savez(tmp_path / "x.npz", a=A, b=A * 2)
    assert traced(input_file=tmp_path / "x.npz", key="b")["x"].value[0, 0] == 2
    np.savez(tmp_path / "one.npz", only=A)
    assert traced(input_file=tmp_path / "one.npz")["x"].value[0, 0] == 1


def test_integers_and_other_types_are_converted_and_this_is_said(tmp_path):
    found = traced(input_file=npy(tmp_path / "x.npy", A.astype(np.uint8)))
    assert found["x"].dtype == "float32"
    assert found.notes[0] == "The input came as uint8 and was converted to float32."
    half = traced(input_file=npy(tmp_path / "x.npy", A), dtype="bfloat16")
    assert half["y"].dtype == "bfloat16"
    assert "converted to bfloat16, as --dtype asks" in half.notes[0]


def test_the_other_order_of_bytes_is_read(tmp_path):
    found = traced(input_file=npy(tmp_path / "x.npy", A.astype(">f4")))
    np.testing.assert_array_equal(found["x"].value, A)
    assert found["x"].dtype == "float32"


def test_parameters_are_numbers_lists_or_files(tmp_path):
    gamma = npy(tmp_path / "g.npy", np.array([1.0, 2.0, 3.0]))
    found = traced(parameters={"gamma": str(gamma), "beta": "0.5, 1, 2"})
    assert found["gamma"].value.tolist() == [1, 2, 3]
    assert found["beta"].value.tolist() == [0.5, 1, 2]


def test_inference_takes_one_given_statistic_and_the_initial_other():
    found = traced(inference=True, parameters={"mean": "1,2,3"})
    assert found["mean"].value.tolist() == [1, 2, 3]
    assert found["variance"].value == 1


def test_momentum_shows_the_running_statistics():
    np.testing.assert_allclose(traced(momentum=0.9)["moving_mean_after"].value, [0.25, 0.35, 0.45])


def test_backward_takes_a_ramp_by_itself_and_says_so(tmp_path):
    found = traced(backward=True)
    np.testing.assert_allclose(found["dy"].value, np.linspace(-1, 1, 6).reshape(2, 3), rtol=1e-6)
    assert "a ramp from -1 to 1" in found.notes[0]
    given = traced(backward=True, dy=npy(tmp_path / "dy.npy", A))
    np.testing.assert_array_equal(given["dy"].value, A)


class Thing:
    """For an array of Python objects."""


def refused(tmp_path):
    """Each bad order, and what is said of it."""
    np.savez(tmp_path / "two.npz", a=A, b=A)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w"):
        pass
    (tmp_path / "none.npz").write_bytes(archive.getvalue())
    (tmp_path / "cut.npy").write_bytes(npy(tmp_path / "whole.npy", A).read_bytes()[:90])
    (tmp_path / "rubbish.npz").write_bytes(b"PK\x03\x04 rubbish")
    (tmp_path / "folder.npy").mkdir()
    objects = npy(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    file = {
        "missing": tmp_path / "missing.npy",
        "text": text(tmp_path / "x.txt", "1,2"),
        "gaps": text(tmp_path / "gaps.csv", "1,2\n3\n"),
        "words": text(tmp_path / "words.csv", "1,2\n3,four\n"),
        "mixed": text(tmp_path / "mixed.csv", "1,two\n3,4\n"),
        "hole": text(tmp_path / "hole.csv", "1,2\n3,\n"),
        "void": text(tmp_path / "void.csv", ""),
        "latin": tmp_path / "latin.csv",
        "strings": npy(tmp_path / "s.npy", np.array([["a"]])),
        "complex": npy(tmp_path / "c.npy", A * 1j),
        "empty": npy(tmp_path / "e.npy", np.zeros((0, 3))),
        "flat": npy(tmp_path / "f.npy", np.arange(6.0)),
        "scalar": npy(tmp_path / "0.npy", np.float64(3)),
        "good": npy(tmp_path / "good.npy", A),
    }
    file["latin"].write_bytes("1,é\n".encode("latin-1"))
    source = lambda name, **more: dict(input_file=file[name], **more)  # noqa: E731
    yield source("missing"), "`input` must", "No such file or directory"
    yield source("text"), "`input` must name a .npy, .npz or .csv file", ""
    yield source("gaps"), "`input` must have as many cells", "row 2 has 1 and the first 2"
    yield source("words"), "`input` must hold numbers alone", "row 2 has 'four'"
    yield source("mixed"), "`input` must hold numbers alone", "row 1 has 'two'"
    yield source("hole"), "`input` must hold numbers alone", "row 2 has ''"
    yield source("void"), "`input` must hold at least one number", ""
    yield source("latin"), "`input` must", "decode"
    yield source("strings"), "`input` must hold real numbers", "dtype <U1"
    yield source("complex"), "`input` must hold real numbers", "complex128"
    yield source("empty"), "`input` must hold at least one number", "(0, 3)"
    yield source("flat"), "`input` must have two axes or more", "(6,)"
    yield source("scalar"), "`input` must have two axes or more", "()"
    yield source("good", key="a"), "`key` must go with an .npz file", ""
    yield {"input_file": objects}, "`input` must", "Save the array anew with numpy.save; objects"
    yield {"input_file": tmp_path / "cut.npy"}, "`input` must", "cut.npy"
    yield {"input_file": tmp_path / "rubbish.npz"}, "`input` must", "zip"
    yield {"input_file": tmp_path / "folder.npy"}, "`input` must", "Is a directory"
    yield {"input_file": tmp_path / "two.npz"}, "`key` must", "It holds a, b."
    yield {"input_file": tmp_path / "two.npz", "key": "c"}, "`key` must", "It holds a, b."
    yield {"input_file": tmp_path / "none.npz"}, "`key` must", "It holds none."
    yield {"key": "a"}, "`key` must go with --input", ""
    yield {"axes": "a"}, "`axes` must be integers with commas between", "axes='a'"
    yield {"axes": ""}, "`axes` must be integers with commas between", ""
    yield {"axes": "0,2"}, "`axes` must lie in [-2, 2)", ""
    yield {"axes": "0,-2"}, "`axes` must not name an axis twice", ""
    yield {"epsilon": 0.0}, "`epsilon` must be a positive number", ""
    yield {"epsilon": float("nan")}, "`epsilon` must be a positive number", ""
    yield {"parameters": {"gamma": "1,2"}}, "`gamma` must be a scalar or have the shape", "(3,)"
    yield {"parameters": {"beta": "two"}}, "`beta` must be a number, numbers", "beta='two'"
    yield {"parameters": {"mean": "1"}}, "`mean` must go with --inference", ""
    yield {"inference": True, "backward": True}, "`backward` must be left out", ""
    yield {"inference": True, "momentum": 0.0}, "`momentum` must be left out", ""
    yield {"momentum": 1.5}, "`momentum` must lie in [0, 1]", ""
    yield {"dy": file["good"]}, "`dy` must go with --backward", ""
    yield {"backward": True, "dy": file["flat"]}, "`dy` must have the shape of the input", "(6,)"


def test_what_cannot_be_used_is_refused_in_one_line_that_names_the_option(tmp_path):
    for options, said, also in refused(tmp_path):
        with pytest.raises(InputError) as error:
            traced(**options)
        message = str(error.value)
        assert message.startswith("trace: "), message
        assert said in message, message
        assert also in message, message
        assert "Received: " in message, message
        assert "\n" not in message, message


def test_a_file_of_too_many_numbers_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "MOST_NUMBERS", 5)
    path = npy(tmp_path / "x.npy", A)
    message = (
        f"trace: `input` must hold at most 5 numbers. Received: input={str(path)!r} with 6. Trace "
        "a few batches of it."
    )
    with pytest.raises(InputError, match=whole(message)):
        traced(input_file=path)
