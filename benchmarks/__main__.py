"""Run the benchmarks into one JSON file, which `python -m pyperf compare_to` compares with another.

A contestant that computes something else is refused, and not timed.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PARTS = tuple(sorted(one.stem.removeprefix("bench_") for one in FOLDER.glob("bench_*.py")))


def main(arguments):
    """Run the parts in turn; the exit code is 1 if any of them left something out."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks",
        usage=f"%(prog)s [{'|'.join(PARTS)}]... [-o FILE] [options of pyperf]",
        description=__doc__,
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("results/bench.json"),
        help="it is replaced if it exists (default: %(default)s)",
    )
    # An option of pyperf may have a value, which is no part: parts come first.
    parts = list(itertools.takewhile(lambda one: not one.startswith("-"), arguments))
    options, rest = parser.parse_known_args(arguments[len(parts) :])
    for part in parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}, only {', '.join(PARTS)}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.unlink(missing_ok=True)
    scripts = [FOLDER / f"bench_{part}.py" for part in parts or PARTS]
    codes = [
        subprocess.run(
            [sys.executable, script, "--append", options.output, *rest], check=False
        ).returncode
        for script in scripts
    ]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
