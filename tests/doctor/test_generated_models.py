"""What the doctor says of models that are drawn at random agrees with what Keras computes."""

import keras
import pytest
from generated_models import BATCH, KINDS, LARGE, NOTHING, distance, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import batchnorm_mechanics as bnm

# 512 samples tell a distance to about a tenth of it.
ERROR = 1.2
# Of a flag that wanders: it parts modes otherwise than by statistics.
FLAGS = {"BN107", "BN202"}
DRAWN = {
    "kind": st.sampled_from(KINDS),
    "seed": st.integers(0, 2**16),
    "spoil": st.booleans(),
    "unlike": st.booleans(),
    "drop": st.sampled_from(["", "before", "behind"]),
    "flagged": st.booleans(),
}


def loud(diagnosis):
    return [one for one in diagnosis.findings if one.severity != "note"]


def judge(drawn, *, repairs):
    keras.backend.clear_session()
    one = made(**drawn)
    apart, _ = distance(one.model, one.x)
    found = loud(bnm.diagnose(one.model, one.x, batch_size=BATCH))
    if apart > ERROR * LARGE:
        assert found, "a distance is never passed over in silence"
    if apart < NOTHING:
        assert not [each for each in found if each.code not in FLAGS], "nor is there an alarm"
    if repairs:
        done = bnm.repair(one.model, one.x, batch_size=BATCH)
        after, _ = distance(done.model, one.x)
        assert after <= 1.02 * apart + 0.02, "no repair makes the distance larger"
        if after > ERROR * LARGE:
            assert loud(done.after), "and none is said to have left nothing"


def few(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@few(4)
@given(drawn=st.fixed_dictionaries(DRAWN))
def test_no_distance_is_passed_over_and_nothing_is_found_where_there_is_none(drawn):
    judge(drawn, repairs=False)


@pytest.mark.slow
@few(8)
@given(drawn=st.fixed_dictionaries(DRAWN))
def test_repair_makes_no_distance_larger_and_hides_none(drawn):
    judge(drawn, repairs=True)
