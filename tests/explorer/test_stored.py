"""What the page says that Keras computed, Keras computes."""

import re

import numpy as np

from batchnorm_mechanics.explorer import stored


def kept():
    """The numbers in the file, each list by its name."""
    text = stored.PATH.read_text(encoding="utf-8")
    return {name: eval(value) for name, value in re.findall(r"^  (\w+): (.*),$", text, flags=re.M)}


def test_the_stored_numbers_are_keras_s():
    numbers, now = kept(), stored.keras_numbers()
    assert set(numbers) == set(now)
    # To the last digits: kernels differ, and with them the order of the sums.
    for name in ("called", "training"):
        np.testing.assert_allclose(numbers[name], now[name], rtol=5e-7, atol=0)


def test_the_file_is_as_its_script_writes_it():
    assert stored.module(kept()) == stored.PATH.read_text(encoding="utf-8")
