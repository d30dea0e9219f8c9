"""What the doctor says of models that are drawn at random agrees with what Keras computes."""

import keras
import pytest
from generated_models import KINDS, judged, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DRAWN = {
    "kind": st.sampled_from(KINDS),
    "seed": st.integers(0, 2**16),
    "spoil": st.booleans(),
    "unlike": st.booleans(),
    "drop": st.sampled_from(["", "before", "behind"]),
    "flagged": st.booleans(),
}


def check(drawn, *, repairs):
    keras.backend.clear_session()
    found = judged(made(**drawn), repairs=repairs)
    assert not any(found.wrong.values()), (found.wrong, found.about)


def few(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@few(3)
@given(drawn=st.fixed_dictionaries(DRAWN))
def test_no_distance_is_passed_over_and_nothing_is_found_where_there_is_none(drawn):
    check(drawn, repairs=False)


@pytest.mark.thorough
@few(3)
@given(drawn=st.fixed_dictionaries(DRAWN))
def test_repair_makes_no_distance_larger_and_hides_none(drawn):
    check(drawn, repairs=True)
