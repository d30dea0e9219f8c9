"""What a subject is asked in a case, in which order, and what it answers or raises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from batchnorm_mechanics._user_code import own_place
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

# Between an array that was given and what was asked.
_ASKING = " after asking for "
_REASON_LENGTH = 160
NOT_IMPLEMENTED = "NotImplementedError"
# The same of TensorFlow and of ONNX Runtime, which need not be there.
_NOT_IMPLEMENTED = {NOT_IMPLEMENTED, "UnimplementedError", "NotImplemented"}
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
            if in_training and self.may_refuse and is_refusal(error):
                self.checks.append(Check(what, True, reason=f"refused: {in_one_line(error)}"))
            else:
                self.checks.append(raised(what, error))
            return None

    def open(self, what: str) -> Session | None:
        """Return a fresh session, asked for the sake of this check."""
        return self.ask(what, lambda: self.subject.open(self.setting))

    def output(
        self,
        what: str,
        ask: Callable[..., np.ndarray],
        x: np.ndarray,
        mask: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Return a session's answer to a copy of the input, as a copy of its own, or None.

        A subject that writes to its input must not change the evidence, and one that hands out a
        view of something that it goes on writing to must not change its answer.
        """
        given = [x.copy()] if mask is None else [x.copy(), mask.copy()]
        in_training = what == record.TRAINING_OUTPUT
        return self.ask(what, lambda: np.array(ask(*given)), in_training=in_training)

    def train(self, session: Session) -> bool:
        """Train on all batches in turn, keep the first output, and return whether none raised."""
        before = self.statistics(session) if self.may_refuse else None
        for x, mask in zip(self.data.batches, self.data.masks, strict=True):
            y = self.output(record.TRAINING_OUTPUT, session.train, x, mask)
            if y is None:
                if before is not None:
                    # One that refuses a batch must leave its statistics alone.
                    self.claim_statistics(" after a refusal", self.statistics(session), before)
                return False
            self.actual.setdefault(record.TRAINING_OUTPUT, y)
        return True

    def statistics(self, session: Session) -> Statistics | None:
        """Return copies of the moving statistics as they are now, if the subject has any."""
        if not self.can(Ability.STATISTICS):
            return None
        return self.ask(
            record.MOVING_MEAN, lambda: Statistics(*map(np.array, session.statistics()))
        )

    def claim_statistics(
        self, when: str, now: Statistics | None, due: Statistics | None, *, computed: bool = False
    ) -> None:
        """Claim that the statistics are what they should be, where both are there.

        Args:
            when: they were asked for; a part of each claim's name.
            now: what came.
            due: what should have come.
            computed: whether both are computed, each a tolerance away from the truth perhaps;
                what is only stored must come back as it was.
        """
        if now is None or due is None:
            return
        for what, new, old in zip(record.STATISTICS, now, due, strict=True):
            like = what if computed else None
            self.claims.append(Claim(what + when, new, old, like=like, times=2))

    def claim_statistics_elsewhere(self, session: Session) -> None:
        """Claim that each further replica has the statistics that are due of the first."""
        if not self.can(Ability.STATISTICS):
            return
        found = self.ask(record.MOVING_MEAN + record.ON_REPLICA + "2", session.statistics_elsewhere)
        for number, statistics in enumerate(found or (), 2):
            for what, value in zip(record.STATISTICS, statistics, strict=True):
                name = f"{what}{record.ON_REPLICA}{number}"
                self.claims.append(Claim(name, value, None, like=what))

    def infer(self, session: Session) -> None:
        """Keep the inference output."""
        y = self.output(record.INFERENCE_OUTPUT, session.infer, self.data.probe)
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


def raised(what: str, error: Exception) -> Check:
    """Return the check that failed because the subject raised.

    Args:
        what: the check.
        error: the exception; one that says that something is not implemented keeps no name of its
            own, for each library has its own of that.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    kind = NOT_IMPLEMENTED if names & _NOT_IMPLEMENTED else type(error).__name__
    reason = f"raised {in_one_line(error)}"
    return Check(what, False, reason=reason, raised=kind, where=own_place(error))


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


def told_by_itself(what: str) -> str | None:
    """Return the mistake that a failed check names by what it is about, None for all others.

    Example:
        >>> told_by_itself("input after asking for dx"), told_by_itself("dx")
        ('input overwritten', None)
    """
    name, asked, _ = what.partition(_ASKING)
    return f"{name} overwritten" if asked else None


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


def _usual(answers: Answers, session: Session) -> Statistics | None:
    """Train on all batches, look at the statistics, which are returned, and infer by them."""
    now = None
    if answers.can(Ability.TRAIN):
        if answers.train(session):
            now = answers.statistics(session)
            answers.actual |= {} if now is None else dict(zip(record.STATISTICS, now, strict=True))
            answers.claim_statistics_elsewhere(session)
        if not answers.can(Ability.STATISTICS) and answers.can(Ability.INFER):
            # What moved in training cannot be read: ask one that has only what it was given.
            fresh = answers.open(record.INFERENCE_OUTPUT)
            if fresh is None:
                return None
            session = fresh
    if answers.can(Ability.INFER):
        answers.infer(session)
    return now


def _saving(answers: Answers, session: Session) -> None:
    """Save and load; the loaded one must infer, hold and learn as the one that was not saved.

    Both train once more, so that a momentum or an epsilon that the file lost shows.
    """
    _usual(answers, session)
    loaded = answers.ask("saving and loading", session.reload)
    if loaded is None:
        return
    if answers.can(Ability.INFER):
        asked = [one.infer for one in (session, loaded)]
        _agree(answers, record.INFERENCE_OUTPUT, asked, answers.data.probe)
    original, restored = answers.statistics(session), answers.statistics(loaded)
    answers.claim_statistics(record.LOADED, restored, original)
    if answers.can(Ability.TRAIN):
        asked = [one.train for one in (session, loaded)]
        _agree(answers, record.TRAINING_OUTPUT, asked, answers.data.batches[0])
        original, restored = answers.statistics(session), answers.statistics(loaded)
        answers.claim_statistics(record.STEP_LATER, restored, original, computed=True)


def _agree(
    answers: Answers, what: str, asked: list[Callable[..., np.ndarray]], x: np.ndarray
) -> None:
    """Claim that the original and the loaded one give the same."""
    name = what + record.LOADED
    original, restored = (answers.output(name, ask, x) for ask in asked)
    if original is not None and restored is not None:
        # Each may be a tolerance away from the truth.
        answers.claims.append(Claim(name, restored, original, like=what, times=2))


def _repeating(answers: Answers, session: Session) -> None:
    """Infer again; the answer must be the same, and the statistics must stay."""
    before = _usual(answers, session)
    again = record.INFERENCE_OUTPUT + record.AGAIN
    first = answers.actual.get(record.INFERENCE_OUTPUT)
    second = answers.output(again, session.infer, answers.data.probe)
    if first is not None and second is not None:
        answers.claims.append(Claim(again, second, first))
    answers.claim_statistics(record.INFERRED, answers.statistics(session), before)


def _one_alone(answers: Answers, session: Session) -> None:
    """Infer for one sample alone, which must come out as it does among others."""
    _usual(answers, session)
    what = record.INFERENCE_OUTPUT + record.ALONE
    y = answers.output(what, session.infer, answers.data.probe[:1])
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
                answers.claims.append(Claim(f"{name}{_ASKING}{what}", copy, array))


_QUESTIONS: dict[FollowUp | None, Callable[[Answers, Session], object]] = {
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
    asked = (
        (Ability.TRAIN, record.TRAINING_OUTPUT, answers.data.batches[0]),
        (Ability.INFER, record.INFERENCE_OUTPUT, answers.data.probe),
    )
    for ability, what, x in asked:
        session = answers.open(what) if answers.can(ability) else None
        if session is None:
            continue
        trains = ability == Ability.TRAIN
        before = answers.statistics(session) if trains else None
        y = answers.output(what, session.train if trains else session.infer, x)
        if y is not None:
            reason = wrong_kind(y, x.shape)
            answers.checks.append(Check(what, reason is None, reason=reason))
        after = answers.statistics(session) if trains else None
        if before is not None and after is not None:
            answers.checks += map(_unmoved, record.STATISTICS, before, after)


def _unmoved(what: str, old: np.ndarray, new: np.ndarray) -> Check:
    if np.array_equal(old, new):
        return Check(what, True)
    became = "moved" if np.all(np.isfinite(new.astype(np.float64))) else "NaN or infinite"
    return Check(what, False, reason=f"{became} after a training batch without samples")
