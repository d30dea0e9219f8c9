"""A subject that takes no matrices, asked as if it did: with axes of size 1 beside the others."""

from dataclasses import replace
from typing import Any

import numpy as np

from batchnorm_mechanics.conformance.subject import (
    Array,
    Mask,
    Session,
    Setting,
    Statistics,
    Subject,
)

# Ranks and kept axes, a matrix's own first.
_PLACES = ((2, 1), (4, 1), (4, 3), (3, 1), (3, 2), (5, 1), (5, 4))


def lifted(subject: Subject, dtypes: tuple[str, ...]) -> Subject:
    """Return a subject that takes rank 2: the same, or one that lifts it to a rank that it takes.

    Args:
        subject: who is asked.
        dtypes: of inputs, of which one must be taken.

    Returns:
        The subject itself where it takes rank 2, or where no other rank helps.
    """
    for rank, kept in _PLACES:
        shape = tuple(4 if axis == kept else 5 if axis == 0 else 1 for axis in range(rank))
        if any(_takes(subject, Setting(shape, (kept,), dtype)) for dtype in dtypes):
            return subject if rank == 2 else Lifted(subject, rank, kept)
    return subject


def _takes(subject: Subject, setting: Setting) -> bool:
    try:
        return subject.refusal(setting) is None
    except Exception:
        # What raises here raises where it is asked in earnest, which says more of it.
        return False


class Lifted(Subject):
    """A subject whose matrices are given axes of size 1; other inputs it takes as they are.

    Args:
        subject: who is asked.
        rank: to which a matrix is lifted.
        kept: the axis that then stands for the matrix's second.
    """

    def __init__(self, subject: Subject, rank: int, kept: int) -> None:
        self._subject, self._rank, self._kept = subject, rank, kept
        self.name, self.description = subject.name, subject.description
        self.abilities, self.declared_momentum = subject.abilities, subject.declared_momentum
        self.takes_epsilon, self.lacks, self.needs = (
            subject.takes_epsilon,
            subject.lacks,
            subject.needs,
        )

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        batch, features = shape
        return tuple(
            features if axis == self._kept else batch if axis == 0 else 1
            for axis in range(self._rank)
        )

    def _setting(self, setting: Setting) -> Setting:
        if len(setting.shape) != 2:
            return setting
        kept = None if setting.kept is None else (self._kept,)
        return replace(setting, shape=self._shape(setting.shape), kept=kept)

    def refusal(self, setting: Setting) -> str | None:
        """Return what the subject says of the lifted input."""
        return self._subject.refusal(self._setting(setting))

    def open(self, setting: Setting) -> Session:
        """Return a session that takes matrices, or the subject's own for another rank."""
        session = self._subject.open(self._setting(setting))
        return session if len(setting.shape) != 2 else _LiftedSession(session, self._shape)


class _LiftedSession(Session):
    def __init__(self, session: Session, shape: Any) -> None:
        self._session, self._shape = session, shape

    def _asked(self, ask: Any, x: np.ndarray, *mask: Mask) -> Array:
        y = ask(x.reshape(self._shape(x.shape)), *mask)
        return y.reshape(x.shape) if y.size == x.size else y

    def train(self, x: Array, mask: Mask = None) -> Array:
        """Train on the lifted batch."""
        return self._asked(self._session.train, x)

    def infer(self, x: Array) -> Array:
        """Infer for the lifted batch."""
        return self._asked(self._session.infer, x)

    def call(self, x: Array) -> Array:
        """Call with the lifted batch."""
        return self._asked(self._session.call, x)

    def statistics(self) -> Statistics:
        """Return the session's own: their shape is that of the features."""
        return self._session.statistics()
