"""Layers that run on TensorFlow: ours, Keras's and tf_keras's, with or without XLA."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from batchnorm_mechanics.bench.contestant import Contestant
from batchnorm_mechanics.bench.problem import (
    EPSILON,
    MOMENTUM,
    Problem,
    Results,
    batch_statistics,
)


class TensorFlowLayer(Contestant):
    """A Keras layer in a `tf.function`; a chain of steps is a loop in the graph.

    Args:
        name: of the contestant.
        layer: the layer's class.
        problem: what to compute.
        jit_compile: whether XLA compiles it.
        unbiased: see `Contestant`.
    """

    def __init__(
        self,
        name: str,
        layer: Callable[..., Any],
        problem: Problem,
        *,
        jit_compile: bool = False,
        unbiased: bool = False,
    ) -> None:
        self.name = name
        self.unbiased = unbiased
        self._layer = layer(momentum=MOMENTUM, epsilon=EPSILON)
        self._layer.build(problem.x.shape)
        self._layer.gamma.assign(problem.gamma)
        self._layer.beta.assign(problem.beta)
        self._inputs = tf.constant(problem.x), tf.constant(problem.dy)
        compiled = tf.function(jit_compile=jit_compile)
        self._step = compiled(self._one_step)
        self._steps = problem.steps
        if problem.steps == 1:
            self._forward = compiled(self._one_forward)
            self._both = self._step
        else:
            self._forward = compiled(self._forward_chain)
            self._both = compiled(self._chain)

    def _one_forward(self, x: tf.Tensor) -> tf.Tensor:
        return self._layer(x, training=True)

    def _one_step(self, x: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
        weights: list[Any] = [_variable(weight) for weight in (self._layer.gamma, self._layer.beta)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self._layer(x, training=True)
        slopes: list[Any] = tape.gradient(y, [x, *weights], output_gradients=[dy])
        return y, *slopes

    def _forward_chain(self, x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(
            lambda x: True,
            lambda x: (self._one_forward(x),),
            (x,),
            maximum_iterations=self._steps,
        )[0]

    def _chain(self, x: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
        zeros = tf.zeros(x.shape[-1:], x.dtype)
        return tf.while_loop(
            lambda *_: True,
            lambda x, dy, *_: self._one_step(x, dy),
            (x, dy, zeros, zeros),
            maximum_iterations=self._steps,
        )

    def results(self) -> Results:
        """Run one step; see `Contestant`."""
        y, dx, dgamma, dbeta = (tensor.numpy() for tensor in self._step(*self._inputs))
        moving = (self._layer.moving_mean, self._layer.moving_variance)
        statistics = batch_statistics(*(_variable(weight).numpy() for weight in moving))
        return Results(y, dx, dgamma, dbeta, *statistics)

    def forward(self) -> None:
        """Run the forward steps; on a CPU the call returns when they are done."""
        self._forward(self._inputs[0])

    def both(self) -> None:
        """Run the steps; on a CPU the call returns when they are done."""
        self._both(*self._inputs)

    def calls(self) -> None:
        """Run the steps, a call of the compiled step for each."""
        x, dy = self._inputs
        for _ in range(self._steps):
            x, dy, *_ = self._step(x, dy)


def _variable(weight: Any) -> Any:
    """Return the `tf.Variable` of a weight; Keras 3 wraps it, tf_keras does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value
