"""How replicas share a batch: in which parts, and what their results make together.

A case that is about replicas has `Shares` in its setting. What is due of it is then, for a subject
that is synchronized, what one replica gives for the whole batch; for another, what each replica
gives for its part, but the moving statistics of the whole batch on all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.record import DBETA, DGAMMA

Manner = Literal["even", "uneven", "one empty"]
MANNERS: tuple[Manner, ...] = ("even", "uneven", "one empty")
_MOST = 8


@dataclass(frozen=True)
class Shares:
    """How the samples of a batch, along its first axis, are dealt out.

    Attributes:
        replicas: how many there are.
        manner: as evenly as it goes; the first replica with a quarter of its even share; or the
            first with none, whose statistics are the ones that are saved.
        synchronized: whether the subject says that replicas normalize by the whole batch.
    """

    replicas: int
    manner: Manner
    synchronized: bool = False

    def sizes(self, samples: int) -> tuple[int, ...]:
        """Return how many samples each replica gets.

        Example:
            >>> [Shares(2, manner).sizes(9) for manner in MANNERS]
            [(5, 4), (1, 8), (0, 9)]
        """
        even = -(-samples // self.replicas)
        first = {"even": even, "uneven": max(even // 4, min(even, 1)), "one empty": 0}[self.manner]
        others, left = self.replicas - 1, samples - first
        return (first, *(left // others + (number < left % others) for number in range(others)))

    def split(self, value: np.ndarray) -> list[np.ndarray]:
        """Return each replica's part of an array that has the samples along its first axis."""
        return np.split(value, np.cumsum(self.sizes(len(value)))[:-1])


def joined(what: str, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return what the replicas' values of an output make together.

    Gradients of parameters are summed, as an optimizer under a strategy does; the training output
    and dx lie side by side.

    Example:
        >>> joined("dbeta", [np.ones(2), np.ones(2)]), joined("dx", [np.ones(2), np.zeros(1)])
        (array([2., 2.]), array([1., 1., 0.]))
    """
    return np.sum(values, axis=0) if what in (DGAMMA, DBETA) else np.concatenate(values)


def checked(replicas: int) -> int:
    """Return the number of replicas.

    Raises:
        InputError: nothing can be shared by so many.
    """
    if not 1 <= replicas <= _MOST:
        raise InputError(
            f"conform: `replicas` must be from 1 to {_MOST}. Received: replicas={replicas}. "
            "With 2 every way to share a batch shows."
        )
    return replicas
