"""Causes are named at what they explain, and come first."""

import pytest

from batchnorm_mechanics.doctor.causes import ordered
from batchnorm_mechanics.doctor.rules import RULES

LAYERS = ("one", "two", "three")


def made(code, layer="one", **evidence):
    severity = evidence.pop("severity", None)
    return RULES[code].finding(layer, cause="...", remedy="...", severity=severity, **evidence)


def roots(*findings, order=LAYERS):
    return {one.key: one.root for one in ordered(findings, order)}


def keys(*findings, order=LAYERS):
    return [one.key for one in ordered(findings, order)]


@pytest.mark.parametrize(
    "cause", ["BN101", "BN102", "BN103", "BN104", "BN105", "BN106", "BN110", "BN113", "BN115"]
)
def test_wrong_statistics_explain_the_gap_of_their_layer(cause):
    assert roots(made("BN201", own_gap=2.0), made(cause)) == {
        "BN201 one": f"{cause} one",
        f"{cause} one": None,
    }


def test_of_several_that_explain_a_gap_the_worst_is_named_and_of_equals_the_first_code():
    gap = made("BN201", own_gap=2.0)
    assert roots(gap, made("BN106"), made("BN115"))["BN201 one"] == "BN115 one"
    assert roots(gap, made("BN110"), made("BN106"))["BN201 one"] == "BN106 one"


def test_another_layers_statistics_do_not_explain_a_gap_of_the_layers_own():
    assert roots(made("BN201", "two", own_gap=2.0), made("BN103"))["BN201 two"] is None


def test_what_concerns_the_whole_model_explains_every_layer():
    found = roots(made("BN201", "one"), made("BN201", "two"), made("BN106", ""))
    assert found == {"BN201 one": "BN106", "BN201 two": "BN106", "BN106": None}


def test_a_gap_that_is_not_the_layers_own_is_explained_by_the_first_before_it():
    found = roots(
        made("BN201", "three", own_gap=0.1),
        made("BN201", "two", own_gap=2.0),
        made("BN201", "one", own_gap=1.0),
    )
    assert found == {"BN201 one": None, "BN201 two": None, "BN201 three": "BN201 one"}


def test_nothing_after_a_layer_explains_it():
    found = roots(made("BN201", "two", own_gap=0.1), made("BN201", "three", own_gap=2.0))
    assert found["BN201 two"] is None


def test_the_cause_of_a_cause_is_the_root():
    found = roots(made("BN201", "two", own_gap=0.1), made("BN201", "one"), made("BN103", "one"))
    assert found["BN201 two"] == "BN103 one"
    swapped = roots(made("BN205", "two"), made("BN102", "one"), made("BN115", "one"))
    assert swapped == {"BN205 two": "BN115 one", "BN102 one": "BN115 one", "BN115 one": None}


def test_another_domain_explains_the_gaps_of_all_layers():
    found = roots(made("BN203"), made("BN201", own_gap=3.0), made("BN201", "two", own_gap=0.7))
    assert found == {"BN203 one": None, "BN201 one": "BN203 one", "BN201 two": "BN203 one"}


def test_a_frozen_layers_note_is_not_explained_by_a_domain():
    assert roots(made("BN203"), made("BN201", "two", severity="note"))["BN201 two"] is None


def test_a_domain_is_not_blamed_for_statistics_that_were_never_updated():
    found = roots(made("BN203"), made("BN201", own_gap=3.0), made("BN103"))
    assert found == {"BN201 one": "BN103 one", "BN103 one": None}


@pytest.mark.parametrize("cause", ["BN104", "BN105", "BN113"])
def test_a_reason_that_explains_no_shift_leaves_the_domain_to_blame(cause):
    found = roots(made("BN203"), made("BN201", own_gap=3.0), made(cause))
    assert found == {"BN203 one": None, "BN201 one": "BN203 one", f"{cause} one": None}


def test_a_baked_flag_explains_that_the_batch_counts():
    assert roots(made("BN202"), made("BN107"))["BN202 one"] == "BN107 one"


def test_batches_of_one_explain_a_collapsed_variance():
    assert roots(made("BN104"), made("BN206"))["BN104 one"] == "BN206 one"


def test_nan_is_explained_by_weights_at_a_layer_before_and_not_after():
    assert roots(made("BN205", "two"), made("BN101", "one"))["BN205 two"] == "BN101 one"
    # A layer's own weights come after its input.
    assert roots(made("BN205", "two"), made("BN101", "two"))["BN205 two"] is None
    both = roots(made("BN205", "two"), made("BN101", "two"), made("BN101", "one"))
    assert both["BN205 two"] == "BN101 one"
    assert roots(made("BN205", "two"), made("BN101", "three"))["BN205 two"] is None
    assert roots(made("BN205", ""), made("BN101", "three"))["BN205"] == "BN101 three"


def test_a_root_that_a_rule_named_itself_stays():
    named = made("BN108", "two", root="BN107 one")
    assert roots(named, made("BN107", "one"))["BN108 two"] == "BN107 one"
    assert roots(named)["BN108 two"] is None  # such a finding does not exist


def test_a_model_that_was_never_trained_has_no_gap_worth_more_than_a_note():
    (_, gap) = ordered([made("BN201", own_gap=2.0), made("BN103", "", severity="note")], LAYERS)
    assert (gap.code, gap.severity) == ("BN201", "note")
    (_, gap) = ordered([made("BN201", own_gap=2.0), made("BN103")], LAYERS)
    assert gap.severity == "error"


def test_roots_come_first_and_what_they_explain_last():
    assert keys(
        made("BN201", "two", own_gap=0.1),
        made("BN112", "one"),
        made("BN108", "three"),
        made("BN105", "one"),
        made("BN201", "one"),
    ) == ["BN105 one", "BN108 three", "BN112 one", "BN201 one", "BN201 two"]


def test_within_a_group_severity_then_code_then_the_order_of_layers_decides():
    assert keys(
        made("BN111", "one"),
        made("BN111", "two"),
        made("BN108", "three"),
        made("BN108", "two"),
        order=("two", "three", "one"),
    ) == ["BN108 two", "BN108 three", "BN111 two", "BN111 one"]


def test_of_two_with_one_code_and_layer_the_first_stays():
    first, second = made("BN115", chance=0.01), made("BN115", gap=3.0)
    assert [dict(one.evidence) for one in ordered([first, second], LAYERS)] == [{"chance": 0.01}]
