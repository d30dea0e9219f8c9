"""Nothing at warning or above may be found in any healthy model."""

import pytest
from doctor.cases import case_of, found_by
from doctor.healthy_models import BATCH, MAKERS, healthy

from batchnorm_mechanics.doctor.diagnose import diagnose

# The notes that a healthy model may get, by code, without data.
NOTES = {
    "frozen_fine_tuned": {"BN114"},
    "mobilenet_v2": {"BN104"},
    "resnet_50": {"BN109"},
}
# Each layer is off by less than a quarter of a deviation, and the outputs by a third of a spread;
# not one prediction changes.
LOUD = {"briefly_fine_tuned": {"BN200"}}


def findings_without_data(model):
    case = case_of(model)
    assert case.norms
    return found_by(["BN1"], case)


MARKS = {
    "channels_first": pytest.mark.channels_first,
    # Each takes five seconds and more.
    **dict.fromkeys(
        (
            "residual",
            "frozen_fine_tuned",
            "briefly_fine_tuned",
            "long_trained",
            "mobilenet_v2",
            "resnet_50",
        ),
        pytest.mark.thorough,
    ),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in MAKERS])
def test_nothing_is_wrong_with_a_healthy_model(name):
    # One test for each model, since each is made anew in each process: what is found with data
    # belongs in here as well.
    model, x = healthy(name)
    assert len(x) >= 100
    findings = findings_without_data(model)
    assert [one for one in findings if one.severity != "note"] == []
    assert {one.code for one in findings} == NOTES.get(name, set())
    with_data = diagnose(model, x, batch_size=BATCH).findings
    assert {one.code for one in with_data} == NOTES.get(name, set()) | LOUD.get(name, set())
    assert {one.code for one in with_data if one.severity != "note"} == LOUD.get(name, set())
