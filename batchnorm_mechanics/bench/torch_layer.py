"""PyTorch's module, in either memory layout; torch is imported on construction."""

# A peer need not be installed.
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

from batchnorm_mechanics.bench.contestant import Contestant
from batchnorm_mechanics.bench.machine import THREADS
from batchnorm_mechanics.bench.problem import (
    EPSILON,
    MOMENTUM,
    Problem,
    Results,
    batch_statistics,
)


class TorchLayer(Contestant):
    """`torch.nn.BatchNorm1d` for rank 2, `BatchNorm2d` for rank 4; a chain is a loop in Python.

    Args:
        name: of the contestant.
        problem: what to compute.
        channels_last: for rank 4, whether memory holds the channels last or, torch's default,
            first.
    """

    unbiased = True

    def __init__(self, name: str, problem: Problem, *, channels_last: bool = True) -> None:
        import torch

        torch.set_num_threads(THREADS)
        self.name = name
        self._steps = problem.steps
        self._channels_last = channels_last
        self._images = problem.x.ndim == 4
        kind = torch.nn.BatchNorm2d if self._images else torch.nn.BatchNorm1d
        self._module: Any = kind(problem.x.shape[-1], eps=EPSILON, momentum=1 - MOMENTUM)
        with torch.no_grad():
            self._module.weight.copy_(torch.from_numpy(problem.gamma))
            self._module.bias.copy_(torch.from_numpy(problem.beta))
        self._inputs = self._tensor(problem.x), self._tensor(problem.dy)

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        if self._images:
            tensor = tensor.permute(0, 3, 1, 2)
        return tensor if self._channels_last else tensor.contiguous()

    def _array(self, tensor: Any) -> np.ndarray:
        tensor = tensor.detach()
        return (tensor.permute(0, 2, 3, 1) if self._images else tensor).numpy()

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
