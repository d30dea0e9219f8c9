"""Judge a batch without samples: refuse it or ignore it, but let it poison nothing."""

import numpy as np

from batchnorm_mechanics.conformance.comparison import wrong_kind
from batchnorm_mechanics.conformance.hearing import Hearing, in_one_line, is_refusal, output
from batchnorm_mechanics.conformance.record import (
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
    Check,
)
from batchnorm_mechanics.conformance.subject import Ability, Session


def judge_empty(hearing: Hearing) -> list[Check]:
    """Ask for training and inference on an empty batch.

    Args:
        hearing: with empty batches as its data.

    Returns:
        The checks. In training, an error with a message passes as well as an output of the right
        shape; either must leave the moving statistics alone. Inference has nothing to compute, and
        must give an output of the right shape.
    """
    if hearing.can(Ability.TRAIN):
        session = hearing.open(TRAINING_OUTPUT)
        if session is not None:
            before = hearing.statistics(session)
            hearing.checks.append(_training(session, hearing.data.batches[0]))
            after = hearing.statistics(session)
            if before is not None and after is not None:
                hearing.checks += _unmoved(before, after)
    if hearing.can(Ability.INFER):
        session = hearing.open(INFERENCE_OUTPUT)
        probe = hearing.data.probe
        if session is not None:
            y = hearing.ask(INFERENCE_OUTPUT, lambda: output(session.infer, probe))
            if y is not None:
                hearing.checks.append(_shaped(INFERENCE_OUTPUT, y, probe.shape))
    return hearing.checks


def _training(session: Session, x: np.ndarray) -> Check:
    try:
        with np.errstate(all="ignore"):
            y = output(session.train, x)
    except Exception as error:  # A subject may raise anything; here it may even be right to.
        refused = is_refusal(error)
        reason = in_one_line(error)
        return Check(TRAINING_OUTPUT, refused, reason=f"refused: {reason}" if refused else reason)
    return _shaped(TRAINING_OUTPUT, y, x.shape)


def _shaped(what: str, y: np.ndarray, shape: tuple[int, ...]) -> Check:
    reason = wrong_kind(y, shape)
    return Check(what, reason is None, reason=reason)


def _unmoved(
    before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
) -> list[Check]:
    checks = []
    for what, old, new in zip((MOVING_MEAN, MOVING_VARIANCE), before, after, strict=True):
        reason = None
        if not np.array_equal(old, new):
            became = "moved" if np.all(np.isfinite(new.astype(np.float64))) else "NaN or infinite"
            reason = f"{became} after a training batch without samples"
        checks.append(Check(what, reason is None, reason=reason))
    return checks
