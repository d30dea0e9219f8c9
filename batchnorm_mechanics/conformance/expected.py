"""What the float64 oracle gives for the data of a case."""

from collections.abc import Callable

import numpy as np

from batchnorm_mechanics import reference
from batchnorm_mechanics.conformance.evidence import Evidence
from batchnorm_mechanics.conformance.record import (
    DBETA,
    DGAMMA,
    DX,
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
)


def expected(evidence: Evidence, what: str) -> np.ndarray:
    """Return what an output should be.

    Args:
        evidence: the data; for the inference output also the subject's own moving statistics in
            `actual`, if it has any, in place of those it was set up with.
        what: the name of the output.

    Returns:
        float64, in the output's shape.
    """
    # NaN and infinity are data here, and the cases that hold them say so.
    with np.errstate(all="ignore"):
        return _ORACLE[what](evidence)


def decay(evidence: Evidence) -> float:
    """Return the weight of the old value that the momentum amounts to, as documented.

    Raises:
        ValueError: the momentum is not known, so that there is nothing to expect.
    """
    momentum = evidence.setting.momentum
    if momentum is None:
        raise ValueError(
            "decay: `evidence.setting.momentum` must be known. Received: "
            "evidence.setting.momentum=None. Do not judge moving statistics without it."
        )
    return 1 - momentum if evidence.momentum_weighs == "new" else momentum


def epsilon(evidence: Evidence) -> float:
    """Return the epsilon of the setting.

    Raises:
        ValueError: it is not known, so that there is nothing to expect.
    """
    if evidence.setting.epsilon is None:
        raise ValueError(
            "epsilon: `evidence.setting.epsilon` must be known. Received: "
            "evidence.setting.epsilon=None. Judge nothing without it."
        )
    return evidence.setting.epsilon


def inference_statistics(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and variance by which the subject should infer: its own where it has them."""
    given = evidence.setting
    mean = evidence.actual.get(MOVING_MEAN, given.moving_mean)
    variance = evidence.actual.get(MOVING_VARIANCE, given.moving_variance)
    return np.asarray(mean).astype(np.float64), np.asarray(variance).astype(np.float64)


def moving_statistics(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the moving mean and variance after all batches."""
    setting = evidence.setting
    mean, variance = reference.exponential_moving_average(
        evidence.batches,
        evidence.axes,
        decay(evidence),
        unbiased=evidence.unbiased,
        masks=evidence.masks,
        initial_mean=_given(setting.moving_mean, 0.0),
        initial_variance=_given(setting.moving_variance, 1.0),
    )
    return mean, variance


def _given(value: np.ndarray | None, otherwise: float) -> np.ndarray:
    return np.asarray(otherwise if value is None else value, np.float64)


def _training_output(evidence: Evidence) -> np.ndarray:
    setting = evidence.setting
    return reference.forward(
        evidence.batches[0],
        setting.gamma,
        setting.beta,
        evidence.axes,
        epsilon(evidence),
        evidence.masks[0],
    )[0]


def _inference_output(evidence: Evidence) -> np.ndarray:
    setting = evidence.setting
    mean, variance = inference_statistics(evidence)
    return reference.infer(
        evidence.probe,
        mean,
        variance,
        setting.gamma,
        setting.beta,
        evidence.axes,
        epsilon(evidence),
    )


def _gradient(name: str) -> Callable[[Evidence], np.ndarray]:
    def gradient(evidence: Evidence) -> np.ndarray:
        return reference.gradients(
            evidence.dy,
            evidence.batches[0],
            evidence.setting.gamma,
            evidence.axes,
            epsilon(evidence),
            evidence.masks[0],
        )[name]

    return gradient


_ORACLE: dict[str, Callable[[Evidence], np.ndarray]] = {
    TRAINING_OUTPUT: _training_output,
    INFERENCE_OUTPUT: _inference_output,
    MOVING_MEAN: lambda evidence: moving_statistics(evidence)[0],
    MOVING_VARIANCE: lambda evidence: moving_statistics(evidence)[1],
    DX: _gradient("d_x"),
    DGAMMA: _gradient("d_gamma"),
    DBETA: _gradient("d_beta"),
}
