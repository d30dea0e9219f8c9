"""What the repository promises about its own files."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from batchnorm_mechanics._version import __version__

ROOT = Path(__file__).parents[1]
LOCKS = (
    "requirements.lock",
    "requirements-build.lock",
    "requirements-peers.lock",
    "requirements-fuzz.lock",
    "requirements-conventions.lock",
    "requirements-dev.lock",
    "requirements-lowest.lock",
)
MAX_BYTES = 400_000
LARGE = {"batchnorm_mechanics/studies/data/mnist.npz"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def entries(text: str) -> list[str]:
    """Split a lock into its requirements, each with its hashes."""
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return re.split(r"\n(?=\S)", "\n".join(lines))


def pins(text: str) -> set[str]:
    """Return `name==version` of each requirement."""
    return {re.match(r"\S+", entry)[0] for entry in entries(text)}


def canonical(requirement: str) -> str:
    """Return the normalized name that a requirement begins with."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_no_host_and_no_path(name):
    assert (
        re.findall(r"(?im)^.*(?:https?:|index|find-links|file:|@ |[\s=]/\w).*$", read(name)) == []
    )


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_and_hashes_every_requirement(name):
    pattern = re.compile(r"[\w.-]+==[\w.+!]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in entries(read(name)) if not pattern.fullmatch(entry)] == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_the_development_lock_has_the_versions_of_the_others(name):
    assert pins(read(name)) - pins(read("requirements-dev.lock")) == set()


def test_the_locks_hold_every_declared_dependency():
    project = tomllib.loads(read("pyproject.toml"))
    groups = project["dependency-groups"]
    wanted = {
        "requirements.lock": project["project"]["dependencies"],
        "requirements-build.lock": groups["build"],
        "requirements-peers.lock": groups["peers"],
        "requirements-fuzz.lock": groups["fuzz"],
        "requirements-conventions.lock": groups["conventions"],
        "requirements-dev.lock": [
            item for item in (*groups["dev"], *groups["bench"]) if isinstance(item, str)
        ],
    }
    for name, requirements in wanted.items():
        locked = {canonical(pin) for pin in pins(read(name))}
        assert {canonical(requirement) for requirement in requirements} - locked == set(), name


def test_the_lowest_lock_has_what_is_declared_as_lowest():
    project = tomllib.loads(read("pyproject.toml"))
    locked = pins(read("requirements-lowest.lock"))
    for requirement in project["project"]["dependencies"]:
        name, lowest = re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups()
        zeros = ("", ".0", ".0.0")
        assert locked & {f"{name}=={lowest}{more}" for more in zeros}, (
            f"{requirement}: it needs something newer, or another dependency does. Raise the bound "
            "to what `make lowest` runs."
        )


def test_every_library_that_the_package_imports_is_declared():
    imported = set()
    for path in (ROOT / "batchnorm_mechanics").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    # pytest is there where it is asked for: `conform_cases` makes its tests, and is called by it.
    imported -= {"batchnorm_mechanics", "pytest", *sys.stdlib_module_names}

    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    declared = {canonical(item) for group in [project["dependencies"], *extras] for item in group}
    installed = packages_distributions()
    unknown = {
        name
        for name in imported
        if not declared & {canonical(dist) for dist in installed.get(name, [name])}
    }
    assert unknown == set()


def test_workflows_run_the_whole_check_on_both_systems_and_pin_every_action():
    workflow = read(".github/workflows/ci.yml")
    actions = re.findall(r"uses: (\S+)", workflow)
    assert actions
    assert [one for one in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)] == []
    check = workflow.partition("  check:\n")[2].partition("  lowest:\n")[0]
    assert "system: [ubuntu-latest, macos-latest]" in check
    assert 'python: ["3.11", "3.12", "3.13"]' in check
    assert "run: .ci/run\n" in check


def test_the_changelog_begins_with_this_version():
    entry = re.search(r"(?m)^## \[?v?(\d[^\s\]]*)", read("CHANGELOG.md"))
    assert entry is not None
    assert entry[1] == __version__


def test_no_tracked_file_is_large():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    sizes = {name: (ROOT / name).stat().st_size for name in files}
    assert {name: size for name, size in sizes.items() if size > MAX_BYTES}.keys() - LARGE == set()
