"""A user's own code: what is found by module or file, and what is said where nothing is."""

import subprocess
import sys

import pytest
from oracle_cases import whole

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._user_code import find


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """Leave no folder and no module behind."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(spec):
    return find(spec, caller="conform", argument="subject")


def refused(spec, message):
    with pytest.raises(InputError, match=whole(message)):
        found(spec)


def test_a_module_in_the_current_folder_is_found(folder):
    (folder / "mine_here.py").write_text("number = 3\n")
    assert found("mine_here:number") == 3


def test_the_current_folder_comes_before_installed_packages(folder):
    # No other test imports this module of Python's.
    assert "tabnanny" not in sys.modules
    (folder / "tabnanny.py").write_text("number = 4\n")
    assert found("tabnanny:number") == 4


def test_an_installed_module_is_found():
    assert found("fractions:Fraction").__name__ == "Fraction"


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_is_found_with_what_lies_beside_it(absolute, folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "beside_it.py").write_text("EPSILON = 0.25\n")
    (folder / "deep" / "mine.py").write_text("from beside_it import EPSILON\n")
    assert found(f"{folder if absolute else '.'}/deep/mine.py:EPSILON") == 0.25


def test_files_of_one_name_in_two_folders_are_two_files(folder):
    for name in "ab":
        (folder / name).mkdir()
        # Of one content, too: the path tells them apart.
        (folder / name / "mine.py").write_text("place = __file__\n")
    assert [found(f"{name}/mine.py:place") for name in "aba"] == [
        str(folder / name / "mine.py") for name in "aba"
    ]


def test_two_names_of_a_file_come_of_one_import(folder):
    (folder / "mine.py").write_text("class Base: pass\nclass Own(Base): pass\n")
    assert issubclass(found("mine.py:Own"), found("mine.py:Base"))


def test_a_file_that_has_changed_is_imported_anew_and_nothing_is_kept_beside_it(
    folder, monkeypatch
):
    # Whatever the machine says: bytecode would be that of a file as old and as long.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for number in (1, 2):
        (folder / "mine.py").write_text(f"number = {number}\n")
        assert found("mine.py:number") == number
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


def test_the_name_of_a_file_s_module_is_the_same_in_every_process(folder):
    (folder / "mine.py").write_text("class Own: pass\n")
    name = found("mine.py:Own").__module__
    again = (
        "from batchnorm_mechanics._user_code import find\n"
        "print(find('mine.py:Own', caller='a', argument='b').__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=True)
    assert done.stdout == f"{name}\n"
    assert name in sys.modules


@pytest.mark.parametrize("spec", ["Layer", "mine.py", "mine.py:", ":Layer", "mine:not a name"])
def test_a_spec_without_a_name_is_refused(spec):
    refused(
        spec,
        "conform: `subject` must have the form module:Name or path/to/file.py:Name. "
        f"Received: subject={spec!r}. Write the name of a class or function after a colon.",
    )


def test_the_caller_and_the_argument_are_named():
    with pytest.raises(InputError, match=r"^fold: `custom` must .* Received: custom='Square'\. "):
        find("Square", caller="fold", argument="custom")


def test_a_file_that_is_not_there_is_refused(folder):
    refused(
        "none.py:Layer",
        "conform: `subject` must name a file that exists. Received: subject='none.py:Layer'. "
        f"There is no {folder}/none.py; check the path.",
    )


@pytest.mark.parametrize("missing", ["nowhere", "keras.nowhere"])
def test_a_module_that_is_not_there_is_refused(missing):
    refused(
        f"{missing}:Layer",
        "conform: `subject` must name a module that can be imported. Received: "
        f"subject='{missing}:Layer'. There is no '{missing}' here or among the installed packages; "
        "for a file, write path/to/file.py:Name.",
    )


def test_a_package_that_is_not_there_is_named_alone():
    with pytest.raises(InputError, match=r"There is no 'nowhere' here"):
        found("nowhere.deep:Layer")


def test_a_name_that_a_file_does_not_have_is_refused_with_those_that_it_has(folder):
    (folder / "mine.py").write_text("import math\nnumber, _hidden = 3, 4\nclass Layer: pass\n")
    refused(
        "mine.py:Lyer",
        "conform: `subject` must name something in mine.py. Received: subject='mine.py:Lyer'. "
        "It has no 'Lyer'; it has Layer, math, number.",
    )


def test_an_empty_file_has_no_names(folder):
    (folder / "mine.py").write_text("")
    with pytest.raises(InputError, match=r"It has no 'Layer'; it has no public names\.$"):
        found("mine.py:Layer")


@pytest.mark.parametrize(
    ("text", "line", "raised"),
    [
        ("x = 1\nx / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", 1, "SystemExit: 3"),
        ("import nowhere\n", 1, "ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1\nclass Layer\n", 2, "SyntaxError: expected ':' (raising.py, line 2)"),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_what_raises_is_refused_with_what_and_where(text, line, raised, as_module, folder):
    (folder / "raising.py").write_text(text)
    spec = "raising:Layer" if as_module else "raising.py:Layer"
    refused(
        spec,
        f"conform: `subject` must be importable. Received: subject={spec!r}, whose import raised "
        f"{raised} ({folder}/raising.py, line {line}). Repair it and try again.",
    )


def test_a_file_that_raised_can_be_repaired_and_found(folder):
    (folder / "mine.py").write_text("import nowhere_yet\nnumber = 5\n")
    with pytest.raises(InputError, match="must be importable"):
        found("mine.py:number")
    (folder / "nowhere_yet.py").write_text("")
    assert found("mine.py:number") == 5


def test_an_interruption_is_no_mistake_of_the_file(folder):
    (folder / "mine.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        found("mine.py:number")
