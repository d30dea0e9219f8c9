"""Ask a subject for the outputs of a case, and keep what it answers or raises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from batchnorm_mechanics.conformance.data import Data
from batchnorm_mechanics.conformance.record import (
    DBETA,
    DGAMMA,
    DX,
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
    Check,
)
from batchnorm_mechanics.conformance.subject import Ability, Session, Setting, Subject

Answer = TypeVar("Answer")
Statistics = tuple[np.ndarray, np.ndarray]

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
class Hearing:
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
                TRAINING_OUTPUT,
                lambda x=x, mask=mask: output(session.train, x, mask),
                in_training=True,
            )
            if y is None:
                self._claim_unmoved(session, before)
                return False
            self.actual.setdefault(TRAINING_OUTPUT, y)
        return True

    def statistics(self, session: Session) -> Statistics | None:
        """Return the moving statistics as they are now, if the subject has any."""
        if not self.can(Ability.STATISTICS):
            return None
        return self.ask(MOVING_MEAN, lambda: _running(session))

    def keep_statistics(self, session: Session) -> None:
        """Keep the moving statistics as they are now, for judging."""
        now = self.statistics(session)
        if now is not None:
            self.actual[MOVING_MEAN], self.actual[MOVING_VARIANCE] = now

    def _claim_unmoved(self, session: Session, before: Statistics | None) -> None:
        """Hold a subject that refused a batch to having left its statistics alone."""
        after = None if before is None else self.statistics(session)
        if before is not None and after is not None:
            for what, new, old in zip((MOVING_MEAN, MOVING_VARIANCE), after, before, strict=True):
                self.claims.append(Claim(f"{what} after a refusal", new, old))

    def infer(self, session: Session) -> None:
        """Keep the inference output."""
        y = self.ask(INFERENCE_OUTPUT, lambda: output(session.infer, self.data.probe))
        if y is not None:
            self.actual[INFERENCE_OUTPUT] = y

    def gradients(self, session: Session) -> None:
        """Keep the gradients."""
        x, dy, mask = self.data.batches[0].copy(), self.data.dy.copy(), self.data.masks[0]
        slopes = self.ask(
            DX,
            lambda: session.gradients(x, dy, *([] if mask is None else [mask])),
            in_training=True,
        )
        if slopes is not None:
            for what, value in zip((DX, DGAMMA, DBETA), slopes, strict=True):
                if value is not None:
                    self.actual[what] = np.array(value)


def output(
    ask: Callable[..., np.ndarray], x: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return a session's answer to a copy of the input, as a copy of its own.

    A subject that writes to its input must not change the evidence, and one that hands out a view
    of something that it goes on writing to must not change its answer.
    """
    return np.array(ask(x.copy(), *([] if mask is None else [mask.copy()])))


def _running(session: Session) -> Statistics:
    mean, variance = session.running()
    return np.array(mean), np.array(variance)


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
