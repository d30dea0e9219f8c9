"""Made-up runs of all studies, for whatever shows results."""

import numpy as np

from batchnorm_mechanics.studies.registry import STUDIES, Run
from batchnorm_mechanics.studies.summary import results

ENVIRONMENT = {
    "batchnorm_mechanics": "0.1.0",
    "python": "3.11.9",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "numpy": "2.4.6",
    "platform": "Linux-6.1-x86_64",
    "processor": "x86_64",
    "cores": 2,
}
DATA = {
    "name": "MNIST",
    "sha256": "0" * 64,
    "shipped": True,
    "train": 60_000,
    "test": 10_000,
    "quick": False,
}
# Last train, val and test accuracy of each training; studies that train alike share it.
LEVELS = {
    (916, 10): (98.85, 97.10, 97.15),
    (100, 10): (94.58, 94.70, 94.55),
    (100, 2): (89.70, 91.20, 91.00),
}
SHIFTS = {"keras-layer": 0.02, "moving-average": 0.0, "reversed": -0.06, "algorithm-2": 0.01}


def run(name: str, seed: int, *, shift: float = 0.0) -> Run:
    """Make one run of a study, always the same for a seed."""
    settings = STUDIES[name].settings
    if settings.track_inputs:
        return _paper_run(name, seed)
    steps = settings.steps_per_epoch or 916
    levels = np.array(LEVELS[steps, settings.epochs])
    common = np.random.default_rng([seed, steps, settings.statistics == "keras-layer"])
    own = np.random.default_rng([seed, *name.encode()])
    noise = common.normal(0, 0.08, 3)
    noise[1:] += own.normal(0, 0.03, 2)
    train, val, test = levels + noise + np.array([0, 1, 1]) * (SHIFTS[settings.statistics] + shift)
    epochs = np.arange(1, settings.epochs + 1)
    reach = np.log1p(epochs * steps) / np.log1p(settings.epochs * steps)
    wobble = common.normal(0, 0.001, settings.epochs) * (epochs < settings.epochs)
    history = {
        "accuracy": train / 100 - 0.45 * (1 - reach) + wobble,
        "loss": 0.1 + 1.5 * (1 - reach),
        "val_accuracy": val / 100 - 0.2 * (1 - reach) + wobble,
        "val_loss": 0.12 + 1.2 * (1 - reach),
    }
    seconds = 7.0 * settings.epochs * steps / 916
    return Run(
        seed, train, val, test, seconds, {k: list(map(float, v)) for k, v in history.items()}
    )


def _paper_run(name: str, seed: int) -> Run:
    settings = STUDIES[name].settings
    rng = np.random.default_rng([seed, *name.encode()])
    along = np.arange(1, settings.epochs + 1)
    with_bn = settings.statistics != "none"
    test = (0.978 if with_bn else 0.962) - (0.06 if with_bn else 0.45) * np.exp(
        -along / (2 if with_bn else 4)
    )
    test = test + rng.normal(0, 0.001, len(along))
    drift = 0.0 if with_bn else -2.5 * (1 - np.exp(-along / 6))
    spread = 1.0 + (0.2 if with_bn else 1.4) * (1 - np.exp(-along / 5))
    middle = drift + rng.normal(0, 0.03, len(along))
    history = {
        "accuracy": test + 0.01,
        "loss": 1.2 - test,
        "val_accuracy": test - 0.002,
        "val_loss": 1.25 - test,
        "test_accuracy": test,
        "percentile_15": middle - spread,
        "percentile_50": middle,
        "percentile_85": middle + spread,
    }
    figures = (100 * float(history[key][-1]) for key in ("accuracy", "val_accuracy"))
    return Run(
        seed,
        *figures,
        100 * float(test[-1]),
        12.0,
        _lists(history),
    )


def _lists(history) -> dict[str, list[float]]:
    return {key: [float(value) for value in values] for key, values in history.items()}


def runs(names=tuple(STUDIES), seeds=(1, 2, 3)) -> dict[str, list[Run]]:
    """Make the runs of some studies."""
    return {name: [run(name, seed) for seed in seeds] for name in names}


def made_up(names=tuple(STUDIES), seeds=(1, 2, 3), *, planned_runs=None, **data) -> dict:
    """Make the results of some studies."""
    return results(
        ENVIRONMENT, {**DATA, **data}, STUDIES, runs(names, seeds), planned_runs=planned_runs
    )
