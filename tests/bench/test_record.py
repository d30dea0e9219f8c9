import json
import re

import pytest
from bench.made_up_comparisons import layer, results

from batchnorm_mechanics.bench.record import Spread, spread


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


def test_a_ratio_is_taken_within_a_repeat():
    # The repeats say 8, 1 and 0.5; the medians of the samples would say 4 / 2.
    comparison = layer(samples={"ours": [1.0, 2.0, 8.0], "Keras": [8.0, 2.0, 4.0]})
    assert comparison.ratio("Keras") == Spread(0.75, 1.0, 4.5)


def test_a_difference_that_is_not_above_zero_has_no_ratio():
    assert layer(samples={"ours": [1.0, -0.1], "Keras": [3.0, 3.0]}).ratio("Keras") is None
    assert layer(samples={"ours": [1.0, 1.0], "Keras": [3.0, -0.1]}).ratio("Keras") is None


def test_without_ours_there_is_no_ratio():
    assert layer(samples={"Keras": [3.0]}, refused={"ours": "y is off"}).ratio("Keras") is None


def test_the_fraction_of_the_floor_is_of_medians():
    assert layer().fraction("ours") == pytest.approx(0.021 / 0.030)
    assert layer(floor=None).fraction("ours") is None


def test_json_holds_every_sample_and_what_follows_from_them():
    document = json.loads(json.dumps(results(layer()).as_json(), allow_nan=False))
    assert document["finished"] is True
    assert document["date"] == "2026-01-02T03:04:00+00:00"
    assert document["not_installed"] == ["torch"]
    (comparison,) = document["comparisons"]
    keras = comparison["contestants"]["Keras"]
    assert keras["samples"] == [0.15, 0.14, 0.16]
    assert keras["median"] == 0.15
    assert keras["ratio_to_ours"]["median"] == pytest.approx(5.0)
    assert comparison["contestants"]["ours"]["fraction_of_floor"] == pytest.approx(0.7)
    assert comparison["floor"]["median"] == 0.021
    assert comparison["floor"]["limit"] == "two passes over memory"
    assert comparison["floor"]["samples"] == [0.021, 0.022, 0.020]


def test_json_has_null_where_no_limit_is_known():
    (comparison,) = results(layer(floor=None)).as_json()["comparisons"]
    assert comparison["floor"] is None
