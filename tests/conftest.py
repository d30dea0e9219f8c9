"""What all tests share: a quiet TensorFlow, seeded random numbers, and the way to oracle_cases."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

# Before anything imports TensorFlow: its start-up messages would bury the tests' own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# At the end, where it hides nothing: the folders here are named like modules of Python's own.
sys.path.append(str(Path(__file__).parent))

# Here and nowhere below: each conftest that had them would start a browser of its own, and one
# process cannot run two.
from browser import chromium, open_page  # noqa: F401 - fixtures


@pytest.fixture
def rng():
    return np.random.default_rng(0)
