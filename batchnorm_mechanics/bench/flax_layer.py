"""Flax's `nnx.BatchNorm`, compiled by JAX; both are imported on construction."""

# A peer need not be installed.
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

from batchnorm_mechanics.bench.contestant import Contestant
from batchnorm_mechanics.bench.problem import (
    EPSILON,
    MOMENTUM,
    Problem,
    Results,
    batch_statistics,
)


class FlaxLayer(Contestant):
    """The layer's state as arguments of a `jax.jit` function; a chain is a loop in it.

    Args:
        name: of the contestant.
        problem: what to compute.
    """

    def __init__(self, name: str, problem: Problem) -> None:
        import jax
        from flax import nnx

        self.name = name
        layer: Any = nnx.BatchNorm(
            problem.x.shape[-1], momentum=MOMENTUM, epsilon=EPSILON, rngs=nnx.Rngs(0)
        )
        layer.scale.set_value(jax.numpy.asarray(problem.gamma))
        layer.bias.set_value(jax.numpy.asarray(problem.beta))
        self._graph, self._weights, self._statistics = nnx.split(layer, nnx.Param, nnx.BatchStat)
        self._inputs = jax.numpy.asarray(problem.x), jax.numpy.asarray(problem.dy)
        self._steps = problem.steps
        self._step = jax.jit(self._one_step)
        alone = problem.steps == 1
        self._forward = jax.jit(self._one_forward if alone else self._forward_chain)
        self._both = self._step if alone else jax.jit(self._chain)

    def _one_forward(self, weights: Any, statistics: Any, x: Any) -> tuple[Any, Any]:
        from flax import nnx

        # A copy, for variables may only change within the transformation that they came from.
        layer = nnx.merge(self._graph, weights, statistics, copy=True)
        y = layer(x, use_running_average=False)
        return y, nnx.state(layer, nnx.BatchStat)

    def _one_step(self, weights: Any, statistics: Any, x: Any, dy: Any) -> tuple[Any, ...]:
        import jax

        y, pull, statistics = jax.vjp(
            lambda weights, x: self._one_forward(weights, statistics, x), weights, x, has_aux=True
        )
        slopes, dx = pull(dy)
        return y, dx, slopes, statistics

    def _forward_chain(self, weights: Any, statistics: Any, x: Any) -> tuple[Any, Any]:
        import jax

        return jax.lax.fori_loop(
            0,
            self._steps,
            lambda _, carry: self._one_forward(weights, carry[1], carry[0]),
            (x, statistics),
        )

    def _chain(self, weights: Any, statistics: Any, x: Any, dy: Any) -> tuple[Any, ...]:
        import jax

        def body(_: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            x, dy, _, statistics = carry
            return self._one_step(weights, statistics, x, dy)

        return jax.lax.fori_loop(0, self._steps, body, (x, dy, weights, statistics))

    def results(self) -> Results:
        """Take one step; see `Contestant`."""
        y, dx, slopes, statistics = self._step(self._weights, self._statistics, *self._inputs)
        dgamma, dbeta = (np.asarray(slopes[name][...]) for name in ("scale", "bias"))
        moving_mean, moving_variance = (
            np.asarray(statistics[name][...]) for name in ("mean", "var")
        )
        mean, variance = batch_statistics(moving_mean, moving_variance)
        return Results(np.asarray(y), np.asarray(dx), dgamma, dbeta, mean, variance)

    def forward(self) -> None:
        """Take the forward steps and wait for them."""
        import jax

        jax.block_until_ready(self._forward(self._weights, self._statistics, self._inputs[0]))

    def both(self) -> None:
        """Take the steps and wait for them."""
        import jax

        jax.block_until_ready(self._both(self._weights, self._statistics, *self._inputs))

    def calls(self) -> None:
        """Take the steps, a call of the compiled step for each, and wait for them."""
        import jax

        (x, dy), statistics = self._inputs, self._statistics
        for _ in range(self._steps):
            x, dy, _, statistics = self._step(self._weights, statistics, x, dy)
        jax.block_until_ready((x, dy, statistics))
