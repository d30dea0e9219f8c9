"""Layers that run on TensorFlow: ours, Keras's and tf_keras's, with or without XLA."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from batchnorm_mechanics.bench.contestant import InferringContestant
from batchnorm_mechanics.bench.problem import (
    EPSILON,
    MOMENTUM,
    Problem,
    Results,
    batch_statistics,
)


class TensorFlowLayer(InferringContestant):
    """A Keras layer in a `tf.function`; a chain of steps is a loop in the graph.

    Args:
        name: of the contestant.
        layer: returns a new layer, as its class does.
        prepare: called with each new layer when it is built.
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
        prepare: Callable[[Any], object] | None = None,
    ) -> None:
        self.name = name
        self.unbiased = unbiased
        # One that trains and one that infers, for the first one's moving statistics move.
        self._layer, self._trained = (
            _built(layer, problem, prepare or (lambda layer: None)) for _ in range(2)
        )
        self._trained.moving_mean.assign(problem.moving_mean)
        self._trained.moving_variance.assign(problem.moving_variance)
        self._inputs = tf.constant(problem.x), tf.constant(problem.dy)
        compiled = tf.function(jit_compile=jit_compile)
        self._step = compiled(self._one_step)
        self._inference_step = compiled(self._one_inference)
        self._steps = problem.steps
        if problem.steps == 1:
            self._forward = compiled(self._one_forward)
            self._both = self._step
            self._inference = self._inference_step
        else:
            self._forward = compiled(self._forward_chain)
            self._both = compiled(self._chain)
            self._inference = compiled(self._inference_chain)

    def _one_forward(self, x: tf.Tensor) -> tf.Tensor:
        return self._layer(x, training=True)

    def _one_inference(self, x: tf.Tensor) -> tf.Tensor:
        return self._trained(x, training=False)

    def _one_step(self, x: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
        weights: list[Any] = [_variable(weight) for weight in (self._layer.gamma, self._layer.beta)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self._layer(x, training=True)
        slopes: list[Any] = tape.gradient(y, [x, *weights], output_gradients=[dy])
        return y, *slopes

    def _forward_chain(self, x: tf.Tensor) -> tf.Tensor:
        return self._chain_of(self._one_forward, x)

    def _inference_chain(self, x: tf.Tensor) -> tf.Tensor:
        return self._chain_of(self._one_inference, x)

    def _chain_of(self, step: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(
            lambda x: True, lambda x: (step(x),), (x,), maximum_iterations=self._steps
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

    def inferred(self) -> NDArray[np.floating]:
        """Run one inference step; see `InferringContestant`."""
        return self._inference_step(self._inputs[0]).numpy()

    def inference(self) -> None:
        """Run the inference steps; on a CPU the call returns when they are done."""
        self._inference(self._inputs[0])

    def inference_calls(self) -> None:
        """Run the inference steps, a call of the compiled step for each."""
        x = self._inputs[0]
        for _ in range(self._steps):
            x = self._inference_step(x)


def _built(layer: Callable[..., Any], problem: Problem, prepare: Callable[[Any], object]) -> Any:
    built = layer(momentum=MOMENTUM, epsilon=EPSILON)
    built.build(problem.x.shape)
    built.gamma.assign(problem.gamma)
    built.beta.assign(problem.beta)
    prepare(built)
    return built


def _variable(weight: Any) -> Any:
    """Return the `tf.Variable` of a weight; Keras 3 wraps it, tf_keras does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value
