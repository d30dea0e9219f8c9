"""What is asked in a case, in which order: the usual outputs, or what the case is about."""

from collections.abc import Callable

import numpy as np

from batchnorm_mechanics.conformance.cases import Case, FollowUp
from batchnorm_mechanics.conformance.hearing import Claim, Hearing, output
from batchnorm_mechanics.conformance.record import (
    DX,
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
)
from batchnorm_mechanics.conformance.subject import Ability, Session

_STATISTICS = (MOVING_MEAN, MOVING_VARIANCE)


def ask_all(hearing: Hearing, case: Case) -> None:
    """Ask for everything that a case is about and that the subject has.

    Args:
        hearing: keeps the answers.
        case: which one.
    """
    first = TRAINING_OUTPUT if hearing.can(Ability.TRAIN) else INFERENCE_OUTPUT
    session = hearing.open(first)
    if session is None:
        return
    _QUESTIONS[case.follow_up](hearing, session)
    # Without samples nothing depends on the batch, and each has its own idea of a gradient then.
    if case.follow_up is None and case.mask != "all out" and hearing.can(Ability.GRADIENTS):
        fresh = hearing.open(DX)
        if fresh is not None:
            hearing.gradients(fresh)


def _usual(hearing: Hearing, session: Session) -> None:
    """Train on all batches, look at the statistics, and infer by them."""
    if hearing.can(Ability.TRAIN):
        if hearing.train(session):
            hearing.keep_statistics(session)
        if not hearing.can(Ability.STATISTICS) and hearing.can(Ability.INFER):
            # What moved in training cannot be read: ask one that has only what it was given.
            fresh = hearing.open(INFERENCE_OUTPUT)
            if fresh is None:
                return
            session = fresh
    if hearing.can(Ability.INFER):
        hearing.infer(session)


def _saving(hearing: Hearing, session: Session) -> None:
    """Save and load; the loaded one must infer, hold and learn as the one that was not saved.

    Both train once more, so that a momentum or an epsilon that the file lost shows.
    """
    _usual(hearing, session)
    loaded = hearing.ask("saving and loading", session.reload)
    if loaded is None:
        return
    x, probe = hearing.data.batches[0], hearing.data.probe
    both = (session, loaded)
    if hearing.can(Ability.INFER):
        _agree(
            hearing, INFERENCE_OUTPUT, [lambda one=one: output(one.infer, probe) for one in both]
        )
    _statistics_agree(hearing, session, loaded, "after loading", like_a_step=False)
    if hearing.can(Ability.TRAIN):
        _agree(hearing, TRAINING_OUTPUT, [lambda one=one: output(one.train, x) for one in both])
        _statistics_agree(hearing, session, loaded, "one step after loading", like_a_step=True)


def _agree(hearing: Hearing, what: str, questions: list[Callable[[], np.ndarray]]) -> None:
    """Claim that the original and the loaded one give the same."""
    name = f"{what} after loading"
    original, restored = (hearing.ask(name, question) for question in questions)
    if original is not None and restored is not None:
        # Each may be a tolerance away from the truth.
        hearing.claims.append(Claim(name, restored, original, like=what, times=2))


def _statistics_agree(
    hearing: Hearing, session: Session, loaded: Session, when: str, *, like_a_step: bool
) -> None:
    original, restored = hearing.statistics(session), hearing.statistics(loaded)
    if original is None or restored is None:
        return
    for what, old, new in zip(_STATISTICS, original, restored, strict=True):
        # What is only stored must come back as it was.
        like = what if like_a_step else None
        hearing.claims.append(Claim(f"{what} {when}", new, old, like=like, times=2))


def _repeating(hearing: Hearing, session: Session) -> None:
    """Infer again; the answer must be the same, and the statistics must stay."""
    _usual(hearing, session)
    again = f"{INFERENCE_OUTPUT} asked again"
    first = hearing.actual.get(INFERENCE_OUTPUT)
    second = hearing.ask(again, lambda: output(session.infer, hearing.data.probe))
    if first is not None and second is not None:
        hearing.claims.append(Claim(again, second, first))
    after = hearing.statistics(session)
    if after is not None and MOVING_MEAN in hearing.actual:
        for what, now in zip(_STATISTICS, after, strict=True):
            hearing.claims.append(Claim(f"{what} after inference", now, hearing.actual[what]))


def _one_alone(hearing: Hearing, session: Session) -> None:
    """Infer for one sample alone, which must come out as it does among others."""
    _usual(hearing, session)
    what = f"{INFERENCE_OUTPUT} of one sample alone"
    y = hearing.ask(what, lambda: output(session.infer, hearing.data.probe[:1]))
    if y is not None:
        hearing.claims.append(Claim(what, y, None, like=INFERENCE_OUTPUT, first=1))


def _inputs(hearing: Hearing, session: Session) -> None:
    """Hold the subject to leaving the arrays that it is given as they are."""
    x, dy, probe = hearing.data.batches[0], hearing.data.dy, hearing.data.probe
    questions: list[tuple[str, Ability, Callable[..., object], tuple[np.ndarray, ...]]] = [
        (TRAINING_OUTPUT, Ability.TRAIN, session.train, (x,)),
        (INFERENCE_OUTPUT, Ability.INFER, session.infer, (probe,)),
        (DX, Ability.GRADIENTS, session.gradients, (x, dy)),
    ]
    for what, ability, question, given in questions:
        if not hearing.can(ability):
            continue
        copies = [array.copy() for array in given]
        # The answer itself may be anything, None included.
        asked = hearing.ask(what, lambda ask=question, copies=copies: (ask(*copies),))
        if asked is not None:
            # Only dx is asked with a second array.
            for name, copy, array in zip(("input", "dy"), copies, given, strict=False):
                hearing.claims.append(Claim(f"{name} after asking for {what}", copy, array))


_QUESTIONS: dict[FollowUp | None, Callable[[Hearing, Session], None]] = {
    None: _usual,
    "saving": _saving,
    "repeating": _repeating,
    "one alone": _one_alone,
    "inputs": _inputs,
}
