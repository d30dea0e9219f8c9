"""What a layer must do to take part."""

from abc import ABC, abstractmethod

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
