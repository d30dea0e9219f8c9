"""What a subject is asked in a case, in which order, and what it answers or raises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from batchnorm_mechanics.conformance import record
from batchnorm_mechanics.conformance.cases import Case, Data, FollowUp
from batchnorm_mechanics.conformance.evidence import wrong_kind
from batchnorm_mechanics.conformance.record import Check
from batchnorm_mechanics.conformance.subject import (
    Ability,
    Session,
    Setting,
    Statistics,
    Subject,
)

Answer = TypeVar("Answer")

_REASON_LENGTH = 160
# How a subject may say that it will not normalize a batch; by name, for TensorFlow and ONNX Runtime
# need not be there.
_REFUSALS = {"ValueError", "TypeError", "RuntimeError", "InvalidArgumentError", "InvalidArgument"}


@dataclass(frozen=True, eq=False)
class Claim:
    """Something besides the usual outputs that must hold.

    Attributes:
        what: in words.
        actual: what the subject gave.
        due: what it should be; None for the oracle's value of `like`.
        like: the output whose tolerance applies; None if it must be the same to the last bit.
        first: how many samples of that output this is about; None for all.
        times: how many tolerances off it may be.
    """

    what: str
    actual: np.ndarray
    due: np.ndarray | None
    like: str | None = None
    first: int | None = None
    times: int = 1


@dataclass
class Answers:
    """A subject set up for one case, and what came of asking it.

    Attributes:
        subject, setting, data: who is asked, set up how, with what.
        may_refuse: whether there is so little to normalize that refusing it is a convention.
        actual: the usual outputs, by the names of `record`.
        claims: what else came back.
        checks: those that are decided already: where the subject raised, or was right to refuse.
    """

    subject: Subject
    setting: Setting
    data: Data
    may_refuse: bool
    actual: dict[str, np.ndarray] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def can(self, ability: Ability) -> bool:
        """Return whether the subject has an ability."""
        return ability in self.subject.abilities

    def ask(
        self, what: str, question: Callable[[], Answer], *, in_training: bool = False
    ) -> Answer | None:
        """Return the answer, or None if the subject raised, which is noted as a failed check.

        Args:
            what: the check that fails.
            question: calls the subject and does little else, so that no mistake of ours hides here.
            in_training: too small a batch may be refused then, and the check passes.
        """
        try:
            # Overflow in a subject's own NumPy shows in its results; a warning adds nothing.
            with np.errstate(all="ignore"):
                return question()
        except Exception as error:  # A subject may raise anything, and the run goes on.
            refused = in_training and self.may_refuse and is_refusal(error)
            reason = in_one_line(error)
            reason = f"refused: {reason}" if refused else f"raised {reason}"
            self.checks.append(Check(what, refused, reason=reason))
            return None

    def open(self, what: str) -> Session | None:
        """Return a fresh session, asked for the sake of this check."""
        return self.ask(what, lambda: self.subject.open(self.setting))

    def train(self, session: Session) -> bool:
        """Train on all batches in turn, keep the first output, and return whether none raised."""
        before = self.statistics(session) if self.may_refuse else None
        for x, mask in zip(self.data.batches, self.data.masks, strict=True):
            y = self.ask(
                record.TRAINING_OUTPUT,
                lambda x=x, mask=mask: copied_output(session.train, x, mask),
                in_training=True,
            )
            if y is None:
                self._claim_unmoved(session, before)
                return False
            self.actual.setdefault(record.TRAINING_OUTPUT, y)
        return True

    def statistics(self, session: Session) -> Statistics | None:
        """Return the moving statistics as they are now, if the subject has any."""
        if not self.can(Ability.STATISTICS):
            return None
        return self.ask(record.MOVING_MEAN, lambda: _copied_statistics(session))

    def keep_statistics(self, session: Session) -> None:
        """Keep the moving statistics as they are now, for judging."""
        now = self.statistics(session)
        if now is not None:
            self.actual[record.MOVING_MEAN], self.actual[record.MOVING_VARIANCE] = now

    def _claim_unmoved(self, session: Session, before: Statistics | None) -> None:
        """Hold a subject that refused a batch to having left its statistics alone."""
        after = None if before is None else self.statistics(session)
        if before is not None and after is not None:
            for what, new, old in zip(record.STATISTICS, after, before, strict=True):
                self.claims.append(Claim(f"{what} after a refusal", new, old))

    def infer(self, session: Session) -> None:
        """Keep the inference output."""
        y = self.ask(record.INFERENCE_OUTPUT, lambda: copied_output(session.infer, self.data.probe))
        if y is not None:
            self.actual[record.INFERENCE_OUTPUT] = y

    def gradients(self, session: Session) -> None:
        """Keep the gradients."""
        x, dy, mask = self.data.batches[0].copy(), self.data.dy.copy(), self.data.masks[0]
        slopes = self.ask(
            record.DX,
            lambda: session.gradients(x, dy, *([] if mask is None else [mask])),
            in_training=True,
        )
        if slopes is not None:
            for what, value in zip(record.GRADIENTS, slopes, strict=True):
                if value is not None:
                    self.actual[what] = np.array(value)


def copied_output(
    ask: Callable[..., np.ndarray], x: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return a session's answer to a copy of the input, as a copy of its own.

    A subject that writes to its input must not change the evidence, and one that hands out a view
    of something that it goes on writing to must not change its answer.
    """
    return np.array(ask(x.copy(), *([] if mask is None else [mask.copy()])))


def _copied_statistics(session: Session) -> Statistics:
    return Statistics(*(np.array(part) for part in session.statistics()))


def in_one_line(error: BaseException) -> str:
    """Return an error's type and message, the message cut where it gets long.

    Example:
        >>> in_one_line(KeyError("gamma"))
        "KeyError: 'gamma'"
    """
    message = " ".join(str(error).split())
    if len(message) > _REASON_LENGTH:
        message = message[: _REASON_LENGTH - 4].rstrip() + " ..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Return whether an error can be meant as a no: of a fitting type, and with a message.

    Example:
        >>> is_refusal(ValueError("one sample has no variance")), is_refusal(KeyError("x"))
        (True, False)
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _REFUSALS) and bool(str(error).strip())


def ask_all(answers: Answers, case: Case) -> None:
    """Ask for everything that a case is about and that the subject has.

    Args:
        answers: keeps the answers.
        case: which one.
    """
    first = record.TRAINING_OUTPUT if answers.can(Ability.TRAIN) else record.INFERENCE_OUTPUT
    session = answers.open(first)
    if session is None:
        return
    _QUESTIONS[case.follow_up](answers, session)
    # Without samples nothing depends on the batch, and each has its own idea of a gradient then.
    if case.follow_up is None and case.mask != "all out" and answers.can(Ability.GRADIENTS):
        fresh = answers.open(record.DX)
        if fresh is not None:
            answers.gradients(fresh)


def _usual(answers: Answers, session: Session) -> None:
    """Train on all batches, look at the statistics, and infer by them."""
    if answers.can(Ability.TRAIN):
        if answers.train(session):
            answers.keep_statistics(session)
        if not answers.can(Ability.STATISTICS) and answers.can(Ability.INFER):
            # What moved in training cannot be read: ask one that has only what it was given.
            fresh = answers.open(record.INFERENCE_OUTPUT)
            if fresh is None:
                return
            session = fresh
    if answers.can(Ability.INFER):
        answers.infer(session)


def _saving(answers: Answers, session: Session) -> None:
    """Save and load; the loaded one must infer, hold and learn as the one that was not saved.

    Both train once more, so that a momentum or an epsilon that the file lost shows.
    """
    _usual(answers, session)
    loaded = answers.ask("saving and loading", session.reload)
    if loaded is None:
        return
    x, probe = answers.data.batches[0], answers.data.probe
    both = (session, loaded)
    if answers.can(Ability.INFER):
        _agree(answers, record.INFERENCE_OUTPUT, [one.infer for one in both], probe)
    _statistics_agree(answers, session, loaded, "after loading", like_a_step=False)
    if answers.can(Ability.TRAIN):
        _agree(answers, record.TRAINING_OUTPUT, [one.train for one in both], x)
        _statistics_agree(answers, session, loaded, "one step after loading", like_a_step=True)


def _agree(
    answers: Answers, what: str, asked: list[Callable[..., np.ndarray]], x: np.ndarray
) -> None:
    """Claim that the original and the loaded one give the same."""
    name = f"{what} after loading"
    original, restored = (answers.ask(name, lambda ask=ask: copied_output(ask, x)) for ask in asked)
    if original is not None and restored is not None:
        # Each may be a tolerance away from the truth.
        answers.claims.append(Claim(name, restored, original, like=what, times=2))


def _statistics_agree(
    answers: Answers, session: Session, loaded: Session, when: str, *, like_a_step: bool
) -> None:
    original, restored = answers.statistics(session), answers.statistics(loaded)
    if original is None or restored is None:
        return
    for what, old, new in zip(record.STATISTICS, original, restored, strict=True):
        # What is only stored must come back as it was.
        like = what if like_a_step else None
        answers.claims.append(Claim(f"{what} {when}", new, old, like=like, times=2))


def _repeating(answers: Answers, session: Session) -> None:
    """Infer again; the answer must be the same, and the statistics must stay."""
    _usual(answers, session)
    again = f"{record.INFERENCE_OUTPUT} asked again"
    first = answers.actual.get(record.INFERENCE_OUTPUT)
    second = answers.ask(again, lambda: copied_output(session.infer, answers.data.probe))
    if first is not None and second is not None:
        answers.claims.append(Claim(again, second, first))
    after = answers.statistics(session)
    if after is not None and record.MOVING_MEAN in answers.actual:
        for what, now in zip(record.STATISTICS, after, strict=True):
            answers.claims.append(Claim(f"{what} after inference", now, answers.actual[what]))


def _one_alone(answers: Answers, session: Session) -> None:
    """Infer for one sample alone, which must come out as it does among others."""
    _usual(answers, session)
    what = f"{record.INFERENCE_OUTPUT} of one sample alone"
    y = answers.ask(what, lambda: copied_output(session.infer, answers.data.probe[:1]))
    if y is not None:
        answers.claims.append(Claim(what, y, None, like=record.INFERENCE_OUTPUT, first=1))


def _inputs(answers: Answers, session: Session) -> None:
    """Hold the subject to leaving the arrays that it is given as they are."""
    x, dy, probe = answers.data.batches[0], answers.data.dy, answers.data.probe
    questions: list[tuple[str, Ability, Callable[..., object], tuple[np.ndarray, ...]]] = [
        (record.TRAINING_OUTPUT, Ability.TRAIN, session.train, (x,)),
        (record.INFERENCE_OUTPUT, Ability.INFER, session.infer, (probe,)),
        (record.DX, Ability.GRADIENTS, session.gradients, (x, dy)),
    ]
    for what, ability, question, given in questions:
        if not answers.can(ability):
            continue
        copies = [array.copy() for array in given]
        # The answer itself may be anything, None included.
        asked = answers.ask(what, lambda ask=question, copies=copies: (ask(*copies),))
        if asked is not None:
            # Only dx is asked with a second array.
            for name, copy, array in zip(("input", "dy"), copies, given, strict=False):
                answers.claims.append(Claim(f"{name} after asking for {what}", copy, array))


_QUESTIONS: dict[FollowUp | None, Callable[[Answers, Session], None]] = {
    None: _usual,
    "saving": _saving,
    "repeating": _repeating,
    "one alone": _one_alone,
    "inputs": _inputs,
}


def ask_empty(answers: Answers) -> None:
    """Ask for training and inference on an empty batch, and decide on the answers.

    In training, an error with a message passes as well as an output of the right shape; either must
    leave the moving statistics alone. Inference has nothing to compute, and must give an output of
    the right shape.

    Args:
        answers: with empty batches as its data.
    """
    data = answers.data
    if answers.can(Ability.TRAIN):
        session = answers.open(record.TRAINING_OUTPUT)
        if session is not None:
            before = answers.statistics(session)
            _ask_for_shape(answers, record.TRAINING_OUTPUT, session.train, data.batches[0])
            after = answers.statistics(session)
            if before is not None and after is not None:
                answers.checks += _unmoved(before, after)
    if answers.can(Ability.INFER):
        session = answers.open(record.INFERENCE_OUTPUT)
        if session is not None:
            _ask_for_shape(answers, record.INFERENCE_OUTPUT, session.infer, data.probe)


def _ask_for_shape(
    answers: Answers, what: str, ask: Callable[..., np.ndarray], x: np.ndarray
) -> None:
    in_training = what == record.TRAINING_OUTPUT
    y = answers.ask(what, lambda: copied_output(ask, x), in_training=in_training)
    if y is not None:
        reason = wrong_kind(y, x.shape)
        answers.checks.append(Check(what, reason is None, reason=reason))


def _unmoved(before: Statistics, after: Statistics) -> list[Check]:
    checks = []
    for what, old, new in zip(record.STATISTICS, before, after, strict=True):
        reason = None
        if not np.array_equal(old, new):
            became = "moved" if np.all(np.isfinite(new.astype(np.float64))) else "NaN or infinite"
            reason = f"{became} after a training batch without samples"
        checks.append(Check(what, reason is None, reason=reason))
    return checks
