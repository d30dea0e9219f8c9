"""The studies are what the source and the paper describe, and each factor changes one thing."""

import dataclasses

import pytest

from batchnorm_mechanics.studies.registry import (
    FACTORS,
    STUDIES,
    Published,
    quick,
    with_paper_steps,
)

PUBLISHED = {
    "keras-916-baked": ("BatchNorm_experimental-v1", Published(98.84, 97.02, 97.11)),
    "algorithm2-100-short": ("BatchNormCustom_experimental-v1", Published(89.73, 91.50, None)),
    "reversed-100-short": ("BatchNormCustom_experimental-v1", Published(89.58, 90.67, None)),
    "algorithm2-100": ("BatchNormCustom_final-v1", Published(94.95, 94.70, 94.59)),
    "reversed-100": ("BatchNormCustom_final-v1", Published(93.87, 94.17, 93.71)),
}


def test_the_five_published_runs_are_there_with_their_source_and_figures():
    found = {
        name: (study.source, study.published)
        for name, study in STUDIES.items()
        if study.published is not None
    }
    assert found == PUBLISHED


def test_the_published_runs_share_the_set_up_of_the_source():
    for name in PUBLISHED:
        settings = STUDIES[name].settings
        assert settings.hidden_units == (100, 100, 100)
        assert settings.activation == "tanh"
        assert (settings.kernel, settings.kernel_scale) == ("orthogonal", 1.0)
        assert (settings.optimizer, settings.learning_rate) == ("adam", 1e-3)
        assert (settings.batch_size, settings.epsilon, settings.split_seed) == (60, 1e-3, 100)
        assert settings.validation_fraction == 1 / 12


@pytest.mark.parametrize(
    ("name", "steps", "validation_batches", "epochs", "baked", "reset"),
    [
        ("keras-916-baked", None, None, 10, (False, True, True), False),
        ("algorithm2-100-short", 100, 50, 2, (False, False, False), True),
        ("reversed-100-short", 100, 50, 2, (False, False, False), True),
        ("algorithm2-100", 100, 50, 10, (False, False, False), True),
        ("reversed-100", 100, 50, 10, (False, False, False), True),
    ],
)
def test_each_published_run_keeps_its_quirks(name, steps, validation_batches, epochs, baked, reset):
    settings = STUDIES[name].settings
    assert settings.steps_per_epoch == steps
    assert settings.validation_batches == validation_batches
    assert settings.epochs == epochs
    assert settings.baked_training == baked
    assert settings.reset_each_epoch == reset


# Resetting each epoch belongs to how the source computed the statistics, and validating on 50
# batches to `take(100)`: neither touches what is compared, the accuracy on all of the test file.
BELONGS_TO = {
    "statistics": {"statistics", "reset_each_epoch"},
    "batches an epoch": {"steps_per_epoch", "validation_batches"},
    "layer": {"statistics"},
    "baked training=True": {"baked_training"},
    "epochs": {"epochs"},
    "batch norm": {"statistics"},
}


@pytest.mark.parametrize(
    "factor", FACTORS, ids=lambda factor: f"{factor.from_study} to {factor.to_study}"
)
def test_the_two_studies_of_a_factor_differ_in_that_factor_alone(factor):
    before, after = (
        dataclasses.asdict(STUDIES[name].settings) for name in (factor.from_study, factor.to_study)
    )
    changed = {key for key in before if before[key] != after[key]}
    assert changed
    assert changed <= BELONGS_TO[factor.name]


def test_the_length_of_the_papers_experiment_is_an_option():
    longer = with_paper_steps(STUDIES["paper-with-bn"], 50_000).settings
    assert longer.epochs * longer.steps_per_epoch == 50_000
    shortest = with_paper_steps(STUDIES["paper-with-bn"], 7).settings
    assert shortest.epochs * shortest.steps_per_epoch == 7


def test_the_length_of_the_papers_experiment_leaves_other_studies_alone():
    study = STUDIES["keras-916"]
    assert with_paper_steps(study, 7) is study


def test_a_quick_study_keeps_all_but_its_size():
    for study in STUDIES.values():
        small = quick(study).settings
        assert small.rows == 6000
        assert small.epochs <= 3
        size = {
            "rows": None,
            "steps_per_epoch": study.settings.steps_per_epoch,
            "epochs": study.settings.epochs,
        }
        assert dataclasses.replace(small, **size) == study.settings
