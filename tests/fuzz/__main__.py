"""Fuzz by coverage: python tests/fuzz TARGET... [SECONDS], for atheris; `make fuzz` runs it.

Each target runs in a process of its own, begins with the corpus, and ends after its time or with
the first input that breaks its property, which is kept as a file in the current folder.
"""

import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

TESTS = Path(__file__).parents[1]
# Watched are our own code, and of others what parses for us, as far as it is Python.
PACKAGES = ["batchnorm_mechanics", "typer"]
MODULES = ("zipfile", "numpy.lib._format_impl", "json.decoder", "json.scanner")


def main(words):
    """Run targets, all by default, one after another; return an exit code."""
    seconds = next((word for word in words if word.isdigit()), "300")
    names = [word for word in words if not word.isdigit()]
    if names[:1] == ["--one"]:
        return run(names[1], seconds)
    known = sorted(path.name for path in Path(__file__).with_name("corpus").iterdir())
    if unknown := set(names) - set(known):
        print(f"fuzz: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        return 2
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is not installed; it is for Python 3.11 on Linux.")
        return 2
    codes = []
    for name in names or known:
        print(f"Fuzzing {name} for {seconds} s", flush=True)
        with tempfile.TemporaryDirectory(prefix="bnm-fuzz-") as folder:
            environment = {**os.environ, "TMPDIR": folder, "TF_CPP_MIN_LOG_LEVEL": "2"}
            done = [sys.executable, str(Path(__file__).parent), "--one", name, seconds]
            codes.append(subprocess.run(done, env=environment, check=False).returncode)
    return max(map(abs, codes))


def run(name, seconds):
    """Fuzz one target in this process, which ends with it."""
    sys.path.append(str(TESTS))
    # First, and alone: what is imported before cannot be watched.
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from fuzz import targets
    for module in map(importlib.import_module, MODULES):
        for owner in (module, *filter(inspect.isclass, vars(module).values())):
            for function in filter(inspect.isfunction, vars(owner).values()):
                if function.__module__ == module.__name__:
                    atheris.instrument_func(function)

    target = targets.TARGETS[name]
    folder = Path(tempfile.mkdtemp())
    for given, content in targets.corpus(name):
        (folder / given).write_bytes(content)

    def mutated(data, most, seed):
        return target.mutate(data, Random(seed), lambda part: atheris.Mutate(part[:most], most))[
            :most
        ]

    settings = [
        f"-max_total_time={seconds}",
        f"-max_len={targets.mutations.LONGEST}",
        f"-timeout={3 * targets.MOST_SECONDS}",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={name}-",
        "-print_final_stats=1",
        *(["-handle_int=0", "-handle_term=0"] if target.takes_signals else []),
    ]
    atheris.Setup([sys.argv[0], *settings, str(folder)], target.one, custom_mutator=mutated)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
