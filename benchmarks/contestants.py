"""The layers that are timed, each in the way that is fastest for its library.

A peer need not be installed; its library is imported when its contestant is set up.
"""

import importlib
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from hardware import THREADS, missing_peers
from problem import EPSILON, MOMENTUM, Results, batch_statistics
from worlds_record import ACCELERATED, KERAS, OURS, TORCH

import batchnorm_mechanics as bnm

TF_KERAS, FLAX = "tf_keras", "flax"


def entries(problem):
    """Return by name what sets up each contestant whose library is installed, ours first."""
    mine, theirs, absent = bnm.BatchNormalization, keras.layers.BatchNormalization, missing_peers()
    entrants = {
        OURS: partial(TensorFlowLayer, OURS, mine, problem),
        ACCELERATED: partial(TensorFlowLayer, ACCELERATED, theirs, problem, prepare=_accelerate),
        KERAS: partial(TensorFlowLayer, KERAS, theirs, problem),
    }
    for name, kind in ((f"{OURS}, XLA", mine), (f"{KERAS}, XLA", theirs)):
        entrants[name] = partial(TensorFlowLayer, name, kind, problem, jit_compile=True)
    if TF_KERAS not in absent:
        entrants[TF_KERAS] = partial(_tf_keras, problem)
    if TORCH not in absent:
        layouts = {TORCH: True}
        if problem.x.ndim > 2:
            layouts = {f"{TORCH}, channels last": True, f"{TORCH}, channels first": False}
        for name, last in layouts.items():
            entrants[name] = partial(TorchLayer, name, problem, channels_last=last)
    if FLAX not in absent:
        entrants[FLAX] = partial(FlaxLayer, FLAX, problem)
    return entrants


def _accelerate(layer):
    done = bnm.accelerate(layer)
    if done.count != 1:
        raise RuntimeError(f"accelerate: the layer was left as it is. Received: {done!r}.")


def _tf_keras(problem):
    kind = importlib.import_module("tf_keras").layers.BatchNormalization
    # It takes the fused kernel's variance at rank 4, and the biased one elsewhere.
    return TensorFlowLayer(TF_KERAS, kind, problem, unbiased=problem.x.ndim == 4)


class Contestant:
    """One library's layer, set up for one problem.

    A chain of steps feeds each step's output to the next as input, and its gradient as dy, so that
    no step can be left out or moved out of the chain. A method returns when all is computed. Here a
    chain is a loop in Python; a library whose loops are faster has its own.

    Attributes:
        name: as tables show it.
        unbiased: whether its moving variance takes the batch's unbiased variance.
    """

    unbiased = False

    def __init__(self, name, problem, inputs):
        self.name = name
        self._steps = problem.steps
        self._inputs = inputs

    def results(self):
        """Take one step from the problem's start and return all that it computed."""
        raise NotImplementedError

    def forward(self):
        """Take the problem's steps in training mode, forward only, statistics updated."""
        x = self._inputs[0]
        for _ in range(self._steps):
            x = self._forward_step(x)

    def both(self):
        """Take the problem's steps, forward and backward, statistics updated."""
        self.calls()

    def calls(self):
        """Take the same steps as `both`, each by a call of its own from Python."""
        x, dy = self._inputs
        for _ in range(self._steps):
            x, dy, *_ = self._step(x, dy)

    def inferred(self):
        """Take one inference step from the problem's start, with its statistics, and return y."""
        raise NotImplementedError

    def inference(self):
        """Take the problem's steps in inference mode; the statistics stay as they are."""
        self.inference_calls()

    def inference_calls(self):
        """Take the same steps as `inference`, each by a call of its own from Python."""
        x = self._inputs[0]
        for _ in range(self._steps):
            x = self._inference_step(x)


class TensorFlowLayer(Contestant):
    """A Keras layer in a `tf.function`; a chain of steps is a loop in the graph.

    Args:
        name: of the contestant.
        layer: returns a new layer, as its class does.
        problem: what to compute.
        jit_compile: whether XLA compiles it.
        unbiased: see `Contestant`.
        prepare: called with each new layer when it is built.
    """

    def __init__(
        self, name, layer, problem, *, jit_compile=False, unbiased=False, prepare=lambda layer: None
    ):
        super().__init__(name, problem, (tf.constant(problem.x), tf.constant(problem.dy)))
        self.unbiased = unbiased
        # One that trains and one that infers, for the first one's moving statistics move.
        self._layer, self._trained = (_built(layer, problem, prepare) for _ in range(2))
        self._trained.moving_mean.assign(problem.moving_mean)
        self._trained.moving_variance.assign(problem.moving_variance)
        compiled = tf.function(jit_compile=jit_compile)
        self._step = compiled(self._one_step)
        self._inference_step = compiled(self._one_inference)
        if problem.steps == 1:
            self._forward = compiled(self._one_forward)
            self._both = self._step
            self._inference = self._inference_step
        else:
            self._forward = compiled(self._forward_chain)
            self._both = compiled(self._chain)
            self._inference = compiled(self._inference_chain)

    def _one_forward(self, x):
        return self._layer(x, training=True)

    def _one_inference(self, x):
        return self._trained(x, training=False)

    def _one_step(self, x, dy):
        weights = [_variable(weight) for weight in (self._layer.gamma, self._layer.beta)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self._layer(x, training=True)
        return y, *tape.gradient(y, [x, *weights], output_gradients=[dy])

    def _forward_chain(self, x):
        return self._chain_of(self._one_forward, x)

    def _inference_chain(self, x):
        return self._chain_of(self._one_inference, x)

    def _chain_of(self, step, x):
        return tf.while_loop(
            lambda x: True, lambda x: (step(x),), (x,), maximum_iterations=self._steps
        )[0]

    def _chain(self, x, dy):
        zeros = tf.zeros(x.shape[-1:], x.dtype)
        return tf.while_loop(
            lambda *_: True,
            lambda x, dy, *_: self._one_step(x, dy),
            (x, dy, zeros, zeros),
            maximum_iterations=self._steps,
        )

    def results(self):
        y, dx, dgamma, dbeta = (tensor.numpy() for tensor in self._step(*self._inputs))
        moving = (self._layer.moving_mean, self._layer.moving_variance)
        statistics = batch_statistics(*(_variable(weight).numpy() for weight in moving))
        return Results(y, dx, dgamma, dbeta, *statistics)

    def inferred(self):
        return self._inference_step(self._inputs[0]).numpy()

    # On a CPU a call returns when all is computed.
    def forward(self):
        self._forward(self._inputs[0])

    def both(self):
        self._both(*self._inputs)

    def inference(self):
        self._inference(self._inputs[0])


def _built(layer, problem, prepare):
    built = layer(momentum=MOMENTUM, epsilon=EPSILON)
    built.build(problem.x.shape)
    built.gamma.assign(problem.gamma)
    built.beta.assign(problem.beta)
    prepare(built)
    return built


def _variable(weight):
    """Return the `tf.Variable` of a weight; Keras 3 wraps it, tf_keras does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value


class TorchLayer(Contestant):
    """`torch.nn.BatchNorm1d` for ranks 2 and 3, `BatchNorm2d` for 4, `BatchNorm3d` for 5.

    Args:
        name: of the contestant.
        problem: what to compute.
        channels_last: for rank 3 and more, whether memory holds the channels last or, torch's
            default, first.
    """

    unbiased = True

    def __init__(self, name, problem, *, channels_last=True):
        self._torch = torch = importlib.import_module("torch")
        torch.set_num_threads(THREADS)
        # torch has the channels second; memory stays as it is.
        inputs = [torch.from_numpy(array).movedim(-1, 1) for array in (problem.x, problem.dy)]
        if not channels_last:
            inputs = [tensor.contiguous() for tensor in inputs]
        super().__init__(name, problem, tuple(inputs))
        rank = problem.x.ndim
        kind = {4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}.get(rank, torch.nn.BatchNorm1d)
        # One that trains and one that infers, for the first one's running statistics move.
        self._forward_step, self._inference_step = (
            kind(problem.x.shape[-1], eps=EPSILON, momentum=1 - MOMENTUM) for _ in range(2)
        )
        with torch.no_grad():
            for module in (self._forward_step, self._inference_step):
                module.weight.copy_(torch.from_numpy(problem.gamma))
                module.bias.copy_(torch.from_numpy(problem.beta))
            self._inference_step.running_mean.copy_(torch.from_numpy(problem.moving_mean))
            self._inference_step.running_var.copy_(torch.from_numpy(problem.moving_variance))
        self._inference_step.eval()

    def _step(self, x, dy):
        module = self._forward_step
        x = x.detach().requires_grad_()
        y = module(x)
        return y, *self._torch.autograd.grad(y, (x, module.weight, module.bias), dy)

    def results(self):
        y, dx, dgamma, dbeta = self._step(*self._inputs)
        moving = self._forward_step.running_mean, self._forward_step.running_var
        statistics = batch_statistics(*(one.numpy() for one in moving))
        return Results(
            _channels_last(y), _channels_last(dx), *map(np.asarray, (dgamma, dbeta)), *statistics
        )

    def inferred(self):
        with self._torch.no_grad():
            return _channels_last(self._inference_step(self._inputs[0]))

    def forward(self):
        with self._torch.no_grad():
            super().forward()

    def inference_calls(self):
        with self._torch.no_grad():
            super().inference_calls()


def _channels_last(tensor):
    return tensor.detach().movedim(1, -1).numpy()


class FlaxLayer(Contestant):
    """Flax's `nnx.BatchNorm`, its state as arguments of a `jax.jit` function; it does not infer.

    A chain is a loop in that function.

    Args:
        name: of the contestant.
        problem: what to compute.
    """

    def __init__(self, name, problem):
        self._jax = jax = importlib.import_module("jax")
        self._nnx = nnx = importlib.import_module("flax.nnx")
        super().__init__(name, problem, tuple(map(jax.numpy.asarray, (problem.x, problem.dy))))
        layer = nnx.BatchNorm(
            problem.x.shape[-1], momentum=MOMENTUM, epsilon=EPSILON, rngs=nnx.Rngs(0)
        )
        layer.scale.set_value(jax.numpy.asarray(problem.gamma))
        layer.bias.set_value(jax.numpy.asarray(problem.beta))
        self._graph, self._weights, self._statistics = nnx.split(layer, nnx.Param, nnx.BatchStat)
        self._step = jax.jit(self._one_step)
        alone = problem.steps == 1
        self._forward = jax.jit(self._one_forward if alone else self._forward_chain)
        self._both = self._step if alone else jax.jit(self._chain)

    def _one_forward(self, weights, statistics, x):
        # A copy, for variables may only change within the transformation that they came from.
        layer = self._nnx.merge(self._graph, weights, statistics, copy=True)
        y = layer(x, use_running_average=False)
        return y, self._nnx.state(layer, self._nnx.BatchStat)

    def _one_step(self, weights, statistics, x, dy):
        y, pull, statistics = self._jax.vjp(
            lambda weights, x: self._one_forward(weights, statistics, x), weights, x, has_aux=True
        )
        slopes, dx = pull(dy)
        return y, dx, slopes, statistics

    def _forward_chain(self, weights, statistics, x):
        return self._jax.lax.fori_loop(
            0,
            self._steps,
            lambda _, carry: self._one_forward(weights, carry[1], carry[0]),
            (x, statistics),
        )

    def _chain(self, weights, statistics, x, dy):
        def body(_, carry):
            x, dy, _, statistics = carry
            return self._one_step(weights, statistics, x, dy)

        return self._jax.lax.fori_loop(0, self._steps, body, (x, dy, weights, statistics))

    def results(self):
        y, dx, slopes, statistics = self._step(self._weights, self._statistics, *self._inputs)
        dgamma, dbeta = (np.asarray(slopes[name][...]) for name in ("scale", "bias"))
        moving = (np.asarray(statistics[name][...]) for name in ("mean", "var"))
        return Results(np.asarray(y), np.asarray(dx), dgamma, dbeta, *batch_statistics(*moving))

    def forward(self):
        x = self._inputs[0]
        self._jax.block_until_ready(self._forward(self._weights, self._statistics, x))

    def both(self):
        self._jax.block_until_ready(self._both(self._weights, self._statistics, *self._inputs))

    def calls(self):
        (x, dy), statistics = self._inputs, self._statistics
        for _ in range(self._steps):
            x, dy, _, statistics = self._step(self._weights, statistics, x, dy)
        self._jax.block_until_ready((x, dy, statistics))
