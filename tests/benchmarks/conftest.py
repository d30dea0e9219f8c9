"""The scripts of benchmarks/ as modules: they stand beside the package, not in it."""

import sys
from pathlib import Path

# At the end, where it hides nothing.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
