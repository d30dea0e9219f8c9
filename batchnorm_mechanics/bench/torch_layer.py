"""PyTorch's module, in either memory layout; torch is imported on construction."""

# A peer need not be installed.
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

from batchnorm_mechanics.bench.contestant import InferringContestant
from batchnorm_mechanics.bench.machine import THREADS
from batchnorm_mechanics.bench.problem import (
    EPSILON,
    MOMENTUM,
    Problem,
    Results,
    batch_statistics,
)


class TorchLayer(InferringContestant):
    """`torch.nn.BatchNorm1d` for ranks 2 and 3, `BatchNorm2d` for 4, `BatchNorm3d` for 5.

    A chain is a loop in Python.

    Args:
        name: of the contestant.
        problem: what to compute.
        channels_last: for rank 3 and more, whether memory holds the channels last or, torch's
            default, first.
    """

    unbiased = True

    def __init__(self, name: str, problem: Problem, *, channels_last: bool = True) -> None:
        import torch

        torch.set_num_threads(THREADS)
        self.name = name
        self._steps = problem.steps
        self._channels_last = channels_last
        rank = problem.x.ndim
        kind = {4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}.get(rank, torch.nn.BatchNorm1d)
        # One that trains and one that infers, for the first one's running statistics move.
        self._module: Any
        self._trained: Any
        self._module, self._trained = (
            kind(problem.x.shape[-1], eps=EPSILON, momentum=1 - MOMENTUM) for _ in range(2)
        )
        with torch.no_grad():
            for module in (self._module, self._trained):
                module.weight.copy_(torch.from_numpy(problem.gamma))
                module.bias.copy_(torch.from_numpy(problem.beta))
            self._trained.running_mean.copy_(torch.from_numpy(problem.moving_mean))
            self._trained.running_var.copy_(torch.from_numpy(problem.moving_variance))
        self._trained.eval()
        self._inputs = self._tensor(problem.x), self._tensor(problem.dy)

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        # torch has the channels second; memory stays as it is.
        tensor = torch.from_numpy(array).movedim(-1, 1)
        return tensor if self._channels_last else tensor.contiguous()

    def _array(self, tensor: Any) -> np.ndarray:
        return tensor.detach().movedim(1, -1).numpy()

    def _step(self, x: Any, dy: Any) -> tuple[Any, ...]:
        import torch

        x = x.detach().requires_grad_()
        y = self._module(x)
        return y, *torch.autograd.grad(y, (x, self._module.weight, self._module.bias), dy)

    def results(self) -> Results:
        """Take one step; see `Contestant`."""
        y, dx, dgamma, dbeta = self._step(*self._inputs)
        statistics = batch_statistics(
            self._module.running_mean.numpy(), self._module.running_var.numpy()
        )
        return Results(self._array(y), self._array(dx), dgamma.numpy(), dbeta.numpy(), *statistics)

    def forward(self) -> None:
        """Take the forward steps."""
        import torch

        with torch.no_grad():
            x = self._inputs[0]
            for _ in range(self._steps):
                x = self._module(x)

    def both(self) -> None:
        """Take the steps."""
        self.calls()

    def calls(self) -> None:
        """Take the steps; torch calls from Python in any case."""
        x, dy = self._inputs
        for _ in range(self._steps):
            x, dy, *_ = self._step(x, dy)

    def inferred(self) -> np.ndarray:
        """Take one inference step; see `InferringContestant`."""
        import torch

        with torch.no_grad():
            return self._array(self._trained(self._inputs[0]))

    def inference(self) -> None:
        """Take the inference steps."""
        self.inference_calls()

    def inference_calls(self) -> None:
        """Take the inference steps; torch calls from Python in any case."""
        import torch

        with torch.no_grad():
            x = self._inputs[0]
            for _ in range(self._steps):
                x = self._trained(x)
