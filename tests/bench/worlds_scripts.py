"""The scripts of benchmarks/ as modules; they stand beside the package, not in it."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name):
    # For this import alone: other scripts there are named like folders of these tests.
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
