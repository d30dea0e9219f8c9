import re

import pytest
from worlds_record import Spread, spread


def test_the_quartiles_are_those_of_numpy():
    import numpy as np

    samples = [5.0, 1.0, 4.0, 8.0, 9.0, 2.5]
    assert spread(samples) == pytest.approx(tuple(np.percentile(samples, [25, 50, 75])))


def test_one_sample_is_all_its_quartiles():
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0)


def test_no_samples_are_refused():
    message = (
        "spread: `samples` must have one number or more. Received: samples=[]. "
        "Measure at least once."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        spread([])
