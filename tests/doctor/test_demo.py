"""The demonstration: an accuracy that goes, and comes back."""

import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor import demo
from batchnorm_mechanics.models.files import load_model


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "kept"
    said = []
    return demo.run(said.append, rows=2000, out=folder), folder, said


def test_the_accuracy_goes_and_comes_back(shown):
    found, _, said = shown
    assert found.healthy > 0.7
    assert found.sick < 0.2
    assert found.repaired >= found.healthy - 0.003
    assert f"{found.healthy:.1%}" in " ".join(said)
    assert f"{found.sick:.1%}" in " ".join(said)


def test_both_causes_are_found_and_repaired(shown):
    found, _, _ = shown
    assert found.diagnosis.findings[0].code == "BN101"
    assert {one.layer for one in found.diagnosis.of("BN101")} == {"bn_1", "bn_2", "bn_3"}
    assert {one.layer for one in found.diagnosis.of("BN105")} == {"bn_1", "bn_2", "bn_3"}
    assert not found.repair.after.is_sick
    assert [found.repair.model.get_layer("bn_1").momentum] == [pytest.approx(0.9)]


def test_what_is_kept_is_the_sick_and_the_repaired_model_and_the_data(shown):
    _, folder, _ = shown
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.Demo.KEPT)
    sick, repaired = (load_model(folder / f"{name}.keras") for name in ("sick", "repaired"))
    assert np.isnan(sick.get_layer("bn_3").moving_mean.numpy()).all()
    assert np.isfinite(repaired.get_layer("bn_3").moving_mean.numpy()).all()
    with np.load(folder / "data.npz") as data:
        assert data["x"].shape == (2000, 28, 28, 1)


def test_the_results_are_json(shown):
    found = shown[0].as_json()
    assert set(found["accuracy"]) == {"healthy", "sick", "repaired"}
    assert found["repair"]["before"]["findings"][0]["code"] == "BN101"


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    with pytest.raises(
        InputError, match=r"^doctor demo: `out` must be a folder that can be written\."
    ):
        demo.run(said.append, rows=100, out=tmp_path / "file" / "folder")
    assert said == []
