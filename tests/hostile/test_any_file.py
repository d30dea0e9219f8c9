"""Whatever a file holds, reading it ends with an answer or with one of the errors that are due."""

import copy
import io
import json
import zipfile

import numpy as np
import pytest
from hostile import hostile_files as hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._io.arrays import piece_of, pieces_in
from batchnorm_mechanics._io.model_config import Refused, check_config
from batchnorm_mechanics.models.files import load_model
from batchnorm_mechanics.tracing.command import Options, trace_with

EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KEYS = st.sampled_from(
    ["class_name", "module", "config", "registered_name", "inbound_nodes", "function", "layers"]
) | st.text(max_size=8)
NAMES = st.sampled_from(
    ["Dense", "function", "__lambda__", "keras.layers", "keras.saving", "load_model", "builtins"]
) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | NAMES
VALUES = st.recursive(
    LEAVES,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(KEYS, part, max_size=5),
    max_leaves=12,
)


def error_of(call, *kinds):
    """Return the error of a kind that a call ends with, None if it ends well."""
    try:
        call()
    except kinds as error:
        return error
    return None


@EXAMPLES
@given(VALUES)
def test_any_configuration_is_admitted_or_refused(config):
    before = copy.deepcopy(config)
    refused = error_of(lambda: check_config(config), Refused)
    assert refused is None or refused.what
    np.testing.assert_equal(config, before)


def places(value, place=()):
    """Yield the ways to all that a configuration holds."""
    yield place
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in parts:
        yield from places(part, (*place, key))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "plain.keras"
    hostile.plain_model().save(path)
    return hostile.parts_of(path)


@EXAMPLES
@given(data=st.data())
def test_a_model_with_anything_anywhere_is_loaded_or_refused(parts, tmp_path, data):
    config = json.loads(parts["config.json"])
    *way, last = data.draw(st.sampled_from([place for place in places(config) if place]))
    inner = config
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(VALUES)
    hostile.write(tmp_path / "x.keras", {**parts, "config.json": json.dumps(config)})
    error = error_of(lambda: load_model(tmp_path / "x.keras"), InputError)
    assert "\n" not in str(error)


def spoilt(content, at, value):
    changed = bytearray(content)
    changed[at % len(changed)] = value
    return bytes(changed)


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "keras"])
@EXAMPLES
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 10**6) | st.none())
def test_a_file_with_a_wrong_byte_or_an_early_end_is_read_or_refused(
    parts, tmp_path, kind, at, value, cut
):
    memory = io.BytesIO()
    if kind == "npy":
        np.save(memory, np.arange(12.0).reshape(4, 3))
    elif kind == "keras":
        with zipfile.ZipFile(memory, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(
            memory, x=np.arange(12.0).reshape(4, 3)
        )
    content = spoilt(memory.getvalue(), at, value)
    path = tmp_path / f"x.{kind if kind != 'compressed' else 'npz'}"
    path.write_bytes(content if cut is None else content[: cut % len(content)])
    read = load_model if kind == "keras" else lambda path: trace_with(Options(input_file=path))
    error = error_of(lambda: read(path), InputError, ValueError)
    assert "\n" not in str(error)
    # What it says against values that a wrong byte has made is meant for whoever gave them.
    assert error is None or isinstance(error, InputError) or str(error).startswith("trace: ")


@EXAMPLES
@given(
    shape=st.lists(st.integers(-3, 2**62), max_size=4),
    dtype=st.sampled_from(["<f4", ">f8", "<i8", "|V0", "|O", "<U3", "<c8", "|b1", "nonsense"]),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
    stored=st.binary(max_size=64),
)
def test_any_header_of_an_array_is_answered_in_bounded_memory(
    tmp_path, shape, dtype, version, stored
):
    header = repr({"descr": dtype, "fortran_order": False, "shape": tuple(shape)}).encode()
    size = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    content = b"\x93NUMPY" + bytes(version) + size + header + stored
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    refusals = (ValueError, OSError, zipfile.BadZipFile)
    for read in (
        lambda: piece_of(tmp_path / "x.npy").read(),
        lambda: np.asarray(pieces_in(tmp_path / "x.npz")["x"].read()),
    ):
        found = []
        error_of(lambda read=read, found=found: found.append(read()), *refusals)
        assert sum(np.asarray(array).nbytes for array in found) <= len(stored)
