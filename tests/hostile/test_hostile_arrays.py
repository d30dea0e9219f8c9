"""What arrays claim, or unpack to, is refused before memory is asked for."""

import io
import resource
import warnings
import zipfile

import numpy as np
import pytest
from commands import bnm_here
from hostile import hostile_files as hostile

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import pieces_in
from batchnorm_mechanics.models.data import load_data
from batchnorm_mechanics.studies import dataset
from batchnorm_mechanics.tracing.command import Options, trace_with

MEGABYTES = 400


def header(shape):
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        written, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return written.getvalue()


def inflating(path, name="x", *, start=None):
    """Write an archive of zeros, a thousandth of their size; by default float32 of 64 columns."""
    start = header((MEGABYTES * 2**12, 64)) if start is None else start
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{name}.npy", "w") as member,
    ):
        member.write(start)
        for _ in range(MEGABYTES):
            member.write(bytes(2**20))
    return path


def refused_in_little(call):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        call()
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 300_000, f"{taken} kB"
    return str(error.value)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    return inflating(tmp_path_factory.mktemp("bomb") / "x.npz")


def test_data_that_inflate_are_refused(bomb):
    message = refused_in_little(lambda: load_data(bomb))
    assert "Its compressed arrays unpack to 419,430,400 bytes, more than the " in message
    assert message.endswith("If you know who made it, allow that many: --max-size.")


def test_arrays_are_bounded_all_together(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{name: np.zeros((9, 10**5)) for name in "abc"})
    one = 9 * 10**5 * 8
    assert len(load_data(tmp_path / "a.npz", most=3 * one).source) == 3
    with pytest.raises(InputError, match=f"unpack to {3 * one:,} bytes, more than the"):
        load_data(tmp_path / "a.npz", most=3 * one - 1)


def test_what_is_not_compressed_is_not_bounded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 2)))
    assert load_data(tmp_path / "a.npz", most=1).rows == 9


def test_more_can_be_allowed_by_the_commands(tmp_path):
    hostile.plain_model().save(tmp_path / "m.keras")
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((8_000_000, 2)))
    ended = bnm_here("doctor", "m.keras", "--data", "x.npz", cwd=tmp_path)
    assert ended.code == 2
    assert "--max-size" in ended.err
    np.savez_compressed(tmp_path / "y.npz", x=np.zeros((64, 2)))
    for command in (["doctor"], ["repair", "--dry-run"], ["fold", "--out", "f.keras"]):
        words = [command[0], "m.keras", *command[1:], "--data", "y.npz", "--max-size"]
        # The model itself takes some hundred bytes more.
        assert bnm_here(*words, 10**6, cwd=tmp_path).code in {0, 1}


def test_a_trace_is_refused_by_its_numbers(bomb):
    message = refused_in_little(lambda: trace_with(Options(input_file=bomb)))
    assert "must hold at most 20,000,000 numbers" in message


def test_the_data_of_the_studies_are_bounded(tmp_path):
    names = ("x_train", "y_train", "x_test", "y_test")
    path = inflating(tmp_path / "x.npz", names[0])
    with zipfile.ZipFile(path, "a") as archive:
        for name in names[1:]:
            archive.writestr(f"{name}.npy", header((0,)))
    message = refused_in_little(lambda: dataset.load(str(path), minimum_rows=1))
    assert "It unpacks to 419," in message
    assert message.endswith("save it anew with numpy.savez, uncompressed.")


def test_a_header_of_any_length_is_not_read(tmp_path):
    start = b"\x93NUMPY\x02\x00" + (MEGABYTES * 2**20).to_bytes(4, "little")
    path = inflating(tmp_path / "x.npz", start=start)
    assert "cannot be read" in refused_in_little(lambda: load_data(path))


def test_another_compression_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", header((2, 64)) + bytes(512))
    message = refused_in_little(lambda: load_data(tmp_path / "x.npz", most=2**40))
    assert "x.npy is compressed, but not by deflate" in message


def test_a_header_of_python_2_is_read_without_a_warning(tmp_path):
    old = header((2, 64)).replace(b"(2, 64), }", b"(2L, 64L), }")[: len(header((2, 64)))]
    (tmp_path / "x.npy").write_bytes(old[:-1] + b"\n" + bytes(512))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data(tmp_path / "x.npy").rows == 2


def test_damage_has_one_name(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.arange(1000.0))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[200:300] = b"\xff" * 100
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises((zipfile.BadZipFile, ValueError)):
        pieces_in(tmp_path / "x.npz")["x"].read()
