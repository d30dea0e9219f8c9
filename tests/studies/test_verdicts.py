"""What each change did is judged by its intervals alone, and said with the largest first."""

import pytest

from batchnorm_mechanics.studies.verdicts import headlines, verdicts


def effect(factor, low, difference, high):
    return {
        "factor": factor,
        "from_value": "a",
        "to_value": "b",
        "difference": difference,
        "low": low,
        "high": high,
    }


@pytest.mark.parametrize(
    ("intervals", "kind"),
    [
        ([(0.1, 0.2, 0.3)], "changes it"),
        ([(-0.3, -0.2, -0.1), (-0.5, -0.3, -0.1)], "changes it"),
        ([(-0.1, 0.2, 0.3)], "no effect shown"),
        ([(0.0, 0.1, 0.2)], "no effect shown"),
        ([(0.1, 0.2, 0.3), (-0.1, 0.2, 0.3)], "cannot be told"),
        ([(0.1, 0.2, 0.3), (-0.3, -0.2, -0.1)], "cannot be told"),
        ([(None, 0.2, None)], "cannot be told"),
        ([(0.1, 0.2, 0.3), (None, 0.2, None)], "cannot be told"),
    ],
)
def test_a_change_is_judged_by_all_of_its_intervals(intervals, kind):
    [found] = verdicts([effect("x", *ends) for ends in intervals])
    assert found.kind == kind


def test_the_largest_comes_first_whichever_way_it_goes():
    found = verdicts(
        [
            effect("small", 0.1, 0.2, 0.3),
            effect("none", -0.1, 0.0, 0.1),
            effect("down", -2.2, -2.0, -1.8),
            effect("two", 0.9, 1.0, 1.1),
            effect("two", 1.3, 1.4, 1.5),
        ]
    )
    assert [one.change for one in found] == [
        "down: a → b",
        "two: a → b",
        "small: a → b",
        "none: a → b",
    ]
    assert [one.points for one in found] == [
        "−2.00 points",
        "+1.00 to +1.40 points",
        "+0.20 points",
        "+0.00 points",
    ]
    assert headlines(found) == [
        (
            "What changed the test accuracy, most first:",
            "down (a → b), two (a → b), small (a → b).",
        ),
        ("What is not shown to change it:", "none (a → b)."),
    ]


def test_without_effects_there_is_nothing_to_say():
    assert headlines(verdicts([])) == []
