"""What a layer must do to take part."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from batchnorm_mechanics.bench.problem import Results


class Contestant(ABC):
    """One library's layer, set up for one problem.

    A chain of steps feeds each step's output to the next as input, and its gradient as dy, so that
    no step can be left out or moved out of the chain.

    Attributes:
        name: as tables show it.
        unbiased: whether its moving variance takes the batch's unbiased variance.
    """

    name: str
    unbiased: bool = False

    @abstractmethod
    def results(self) -> Results:
        """Take one step from the problem's start and return all that it computed."""

    @abstractmethod
    def forward(self) -> None:
        """Take the problem's steps in training mode, forward only, statistics updated."""

    @abstractmethod
    def both(self) -> None:
        """Take the problem's steps, forward and backward, statistics updated."""

    @abstractmethod
    def calls(self) -> None:
        """Take the same steps as `both`, each by a call of its own from Python."""


class InferringContestant(Contestant):
    """A contestant that also infers, with the problem's moving statistics, which stay as they are.

    A chain feeds each step's output to the next, as in training mode.
    """

    @abstractmethod
    def inferred(self) -> NDArray[np.floating]:
        """Take one inference step from the problem's start and return y."""

    @abstractmethod
    def inference(self) -> None:
        """Take the problem's steps in inference mode."""

    @abstractmethod
    def inference_calls(self) -> None:
        """Take the same steps as `inference`, each by a call of its own from Python."""
