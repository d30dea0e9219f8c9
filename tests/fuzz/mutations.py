"""Changes of an input that keep its form, so that what reads it gets further than its first byte.

Each takes bytes, a generator of random numbers, and `also`, which changes bytes without knowing
what they are: a fuzzer has its own, which knows what was tried before.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from random import Random

import h5py
import numpy as np

# Bytes of an input.
LONGEST = 8192
_LARGEST = 2**24

Also = Callable[[bytes], bytes]
Mutate = Callable[[bytes, Random, Also], bytes]

# What no line of ours may hold; lines end in a newline, and tables have none of the others.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
NAMES = """
    class_name module config registered_name inbound_nodes function layers vocabulary name
    keras_history args kwargs shape dtype build_config compile_config Dense Lambda Functional
    Sequential __lambda__ __keras_tensor__ __numpy__ keras keras.layers keras.saving load_model
    builtins relu Package>Own
""".split()  # noqa: SIM905 - as a list it would have a line for each
ODD = (
    None,
    True,
    -1,
    0,
    2**63,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    [],
    {},
    "\ud800",
    "\x1b[2J",
)
WORDS = """
    trace conform doctor repair fold reproduce --input --key --axes --gamma --beta --epsilon
    --dtype --inference --mean --variance --momentum --backward --dy --compare --json --html
    --data --labels --batch-size --trust --custom --max-size --select --ignore --explain --rules
    --out --only --method --sequential --dry-run --cases --strict --verbose --list --seeds
    --require axes,float64
    --paper-steps --quick --version --help -- x.npy x.csv x.keras x.h5 x.npz a.py:B a:B 0,1 1e400
    nan -1 BN101 bn2 demo keras float16 pooled
""".split()  # noqa: SIM905 - likewise


def of_bytes(data, random, also=None):
    """Change any bytes."""
    if also is not None:
        return also(data)
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(5)
        if kind == 0:
            changed[at:at] = random.randbytes(random.randint(1, 8))
        elif kind == 1:
            del changed[at : at + random.randint(1, 64)]
        elif kind == 2:
            changed[at : at + 4] = random.choice((b"\xff" * 4, b"\0" * 4, b"\0\0\0\x7f"))
        elif kind == 3:
            begin = random.randrange(len(changed) + 1)
            changed[at:at] = changed[begin : begin + random.randint(1, 64)]
        elif at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
    return bytes(changed)


def of_lines(data, random, also=None):
    """Change the words of a command, one in each line."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    kind = random.randrange(5)
    if kind == 0:
        lines.insert(at, random.choice(WORDS).encode())
    elif kind == 1:
        lines[at] = random.choice(WORDS).encode()
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines[at] = of_bytes(lines[at], random, also)
    else:
        lines[at] *= random.choice((2, 300, 5000))
    return b"\n".join(lines)


def of_json(data, random, also=None):
    """Change one node of a document, or its text where it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(data, random, also)
    if not random.randrange(8):
        return of_bytes(data, random, also)
    holder = [document]
    places = list(_places(holder))
    inner, key = random.choice(places)
    inner_other, key_other = random.choice(places)
    kind = random.randrange(6)
    if kind == 0:
        inner[key] = random.choice(ODD)
    elif kind == 1:
        inner[key] = random.choice(NAMES)
    elif kind == 2:
        # Through text: a document in itself would have no end.
        inner[key] = json.loads(json.dumps(inner_other[key_other]))
    elif kind == 3:
        for _ in range(random.choice((1, 20, 300))):
            inner[key] = random.choice(([inner[key]], {random.choice(NAMES): inner[key]}))
    elif kind == 4 and isinstance(inner, dict):
        inner[random.choice(NAMES)] = inner.pop(key)
    elif isinstance(inner[key], dict):
        inner[key][random.choice(NAMES)] = random.choice((*ODD, *NAMES))
    elif isinstance(inner[key], str):
        inner[key] = of_bytes(inner[key].encode("utf-8", "replace"), random, also).decode(
            "utf-8", "replace"
        )
    else:
        inner[key] = [inner[key]] * random.choice((2, 50))
    try:
        return json.dumps(holder[0]).encode()
    except RecursionError:
        return of_bytes(data, random, also)


def _places(value):
    """Yield each part as what holds it, and its place there."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        for key, part in list(inner.items() if isinstance(inner, dict) else enumerate(inner)):
            yield inner, key
            if isinstance(part, dict | list):
                waiting.append(part)


def of_model(data, random, also=None):
    """Change a `.keras` or `.h5` file: a member, its configuration, its weights, or any bytes."""
    if not random.randrange(4):
        return of_bytes(data, random, also)
    try:
        if data.startswith(b"\x89HDF"):
            return of_hdf5(data, random, also)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(one, archive.read(one)) for one in archive.infolist()]
        return _of_archive(members, random, also)
    except Exception:
        # It is damaged already.
        return of_bytes(data, random, also)


def _of_archive(members, random, also):
    at = random.randrange(len(members))
    one, content = members[at]
    kind = random.randrange(8)
    if kind == 0:
        name = random.choice((*ODD[9:10], "../x", "/x", "a:b", "config.json", "model.weights.h5"))
        members.append((zipfile.ZipInfo(name), content))
    elif kind == 1:
        del members[at]
    elif kind == 2:
        one.compress_type = random.choice(
            (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        )
    elif kind == 3:
        # Bounded: what was multiplied before is multiplied again.
        content *= min(random.choice((2, 100, 3000)), _LARGEST // max(len(content), 1))
    elif one.filename.endswith(".h5"):
        content = of_hdf5(content, random, also)
    elif one.filename.endswith(".npy"):
        content = of_array(content, random, also)
    elif one.filename.endswith(".json"):
        content = of_json(content, random, also)
    else:
        content = of_bytes(content, random, also)
    if kind != 1:
        members[at] = one, content
    written = io.BytesIO()
    with (
        zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive,
        warnings.catch_warnings(action="ignore"),
    ):
        for member, stored in members:
            archive.writestr(member, stored)
    data = written.getvalue()
    # Sizes, flags and offsets that do not agree with what is there.
    return data if random.randrange(6) else _of_directory(data, random)


def _of_directory(data, random):
    """Change a field of an archive's directory, or of its end."""
    changed = bytearray(data)
    at = data.find(random.choice((b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04")))
    field = at + random.randrange(4, 46)
    changed[field : field + 2] = random.choice((b"\xff\xff", b"\0\0", random.randbytes(2)))
    return bytes(changed)


def of_hdf5(data, random, also=None):
    """Change an attribute, a data set or a link of an HDF5 file, or any bytes."""
    if not random.randrange(4):
        return of_bytes(data, random, also)
    memory = io.BytesIO(data)
    with h5py.File(memory, "r+") as file:
        groups, sets = [file], []
        file.visititems(
            lambda _, one: (groups if isinstance(one, h5py.Group) else sets).append(one)
        )
        group = random.choice(groups)
        kind = random.randrange(7)
        name = random.choice(("0", "1", "vars", "model_config", "x"))
        if name in group and kind > 1:
            del group[name]
        if kind == 0:
            _of_attribute(random.choice((*groups, *sets)), random, also)
        elif kind == 1 and sets:
            del file[random.choice(sets).name]
        elif kind == 2:
            shape = random.choice(((), (0,), (1,), (2, 2), (2**20, 2**20), (2**31,)))
            chunks = tuple(min(size, 512) for size in shape) if shape and 0 not in shape else None
            dtype = random.choice(("f4", "f8", "i8", "S3", h5py.string_dtype(), "f2,i4"))
            group.create_dataset(name, shape, dtype, chunks=chunks)
        elif kind == 3:
            # A chunk may be larger than what it is a part of.
            shape = random.choice(((1,), (2, 2)))
            chunks = tuple(random.choice((1, 2**14)) for _ in shape)
            group.create_dataset(
                name, shape, "f4", chunks=chunks, maxshape=(None,) * len(shape), compression="gzip"
            )
        elif kind == 4:
            group[name] = random.choice(
                (h5py.SoftLink("/"), h5py.SoftLink("x"), h5py.ExternalLink("x.h5", "/"), group)
            )
        elif kind == 5:
            group.create_dataset(name, data=random.choice(("text", b"bytes", np.eye(2), 3)))
        else:
            group.create_group(name)
    return memory.getvalue()


def _of_attribute(holder, random, also):
    names = [*holder.attrs, "model_config", "training_config", "dtype"]
    name = random.choice(names)
    value = holder.attrs.get(name)
    if isinstance(value, str | bytes) and random.randrange(3):
        text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        holder.attrs[name] = of_json(text, random, also)
    else:
        holder.attrs[name] = random.choice((1, 0.5, "text", b"{}", "{}", np.zeros(2), ["a", "b"]))


SHAPES = (
    (),
    (0,),
    (3,),
    (2, 2),
    (-1, 2),
    (2**31, 2**31),
    (2**70,),
    (1,) * 40,
    (0, 2**62, 2**62),
    (10**6,),
)
DTYPES = (
    "<f4",
    ">f8",
    "<f2",
    "|b1",
    "<i8",
    "|u1",
    "<c8",
    "<f16",
    "|O",
    "|V0",
    "<U3",
    "M8[s]",
    [("a", "<f4")],
)


def of_array(data, random, also=None):
    """Change a `.npy` or `.npz` file: a member, what a header claims, or any bytes."""
    if data.startswith(b"PK"):
        return of_model(data, random, also)
    if not data.startswith(b"\x93NUMPY") or not random.randrange(3):
        return of_bytes(data, random, also)
    length = int.from_bytes(data[8:10], "little")
    header, stored = data[10 : 10 + length], data[10 + length :]
    kind = random.randrange(4)
    if kind == 0:
        header = of_bytes(header, random, also)
    else:
        claims = {
            "descr": random.choice(DTYPES),
            "fortran_order": random.choice((True, False, None)),
            "shape": random.choice(SHAPES),
        }
        header = (repr(claims) if kind == 1 else repr({**claims, "descr": "<f4"})).encode()
    version = random.choice(((1, 0), (1, 0), (2, 0), (3, 0)))
    size = (
        len(header) if random.randrange(8) else random.getrandbits(16 if version == (1, 0) else 32)
    )
    start = data[:6] + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little")
    return start + header + stored


def of_trace(data, random, also=None):
    """Change what `bnm trace` is to read, or how."""
    line, _, content = data.partition(b"\n")
    kind = random.randrange(4)
    if kind == 0:
        words = [*line.decode("utf-8", "replace").split(" "), "0", "", ""][:4]
        at = random.randrange(1, 4)
        choice = (
            ("0", "1", "0,1", "-1", "5", "x"),
            ("", "float16", "float64", "bfloat16"),
            ("", "2", "1,2", "nan"),
        )
        words[at] = random.choice(choice[at - 1])
        line = " ".join(words).encode()
    elif kind == 1 and line.startswith(b"csv"):
        cells = re.split(b"([,\n])", content)
        cells[random.randrange(len(cells))] = random.choice(
            (
                b"1e39",
                b"nan",
                b"-inf",
                b"1_0",
                b"",
                b'"',
                b"\xff",
                "\u0663".encode(),
                b"1" * 400,
                b"\r",
                b"\0",
            )
        )
        content = b"".join(cells)
    elif line.startswith(b"np"):
        content = of_array(content, random, also)
    else:
        content = of_bytes(content, random, also)
    return line + b"\n" + content
