"""Batch normalization as textbooks, courses, lectures and people's own modules write it.

Twelve of them make a mistake that such code makes, or have a limit, or are right; the rest are
their siblings with other names, in other orders, of other libraries. All stand here as somebody
would write them: nothing in this file knows the judge. What needs PyTorch is in
`tutorials_torch.py`, what needs JAX in `tutorials_jax.py`.
"""

import numpy as np
import tensorflow as tf


# Functions, as textbooks have them.
def batch_norm(X, gamma, beta, moving_mean, moving_var, eps, momentum, training):
    """Right: two ranks, new statistics returned."""
    if not training:
        X_hat = (X - moving_mean) / np.sqrt(moving_var + eps)
    else:
        assert X.ndim in (2, 4)
        axes = (0,) if X.ndim == 2 else (0, 2, 3)
        mean = X.mean(axis=axes, keepdims=True)
        var = ((X - mean) ** 2).mean(axis=axes, keepdims=True)
        if X.ndim == 2:
            mean, var = mean[0], var[0]
        X_hat = (X - mean) / np.sqrt(var + eps)
        moving_mean = (1.0 - momentum) * moving_mean + momentum * mean
        moving_var = (1.0 - momentum) * moving_var + momentum * var
    return gamma * X_hat + beta, moving_mean, moving_var


def bn_batch_axis(x, gamma, beta, running_mean, running_var, train, eps=1e-5, momentum=0.9):
    """Averages over axis 0 alone: its limit."""
    if train:
        mu, var = x.mean(axis=0), x.var(axis=0)
        running_mean = momentum * running_mean + (1 - momentum) * mu
        running_var = momentum * running_var + (1 - momentum) * var
    else:
        mu, var = running_mean, running_var
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, running_mean, running_var


def bn_no_epsilon(x, gamma, beta):
    """No epsilon, and no statistics."""
    return gamma * (x - x.mean(axis=0)) / x.std(axis=0) + beta


def bn_epsilon_outside(inputs, scale, offset, epsilon=1e-3):
    """Epsilon outside the root."""
    mean = inputs.mean(axis=0)
    return scale * (inputs - mean) / (inputs.std(axis=0) + epsilon) + offset


def bn_one_batch(x, w, b, mean, var, is_training, decay=0.9, eps=1e-5):
    """Statistics of the last batch only, in place."""
    if is_training:
        mean[...] = x.mean(axis=0)
        var[...] = x.var(axis=0)
        return w * (x - mean) / np.sqrt(var + eps) + b
    return w * (x - mean) / np.sqrt(var + eps) + b


def bn_float64(x, gamma, beta, eps=1e-5):
    """Computes in float64 alone: its limit."""
    x = np.asarray(x, np.float64)
    return gamma * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps) + beta


def bn_in_place(x, gamma, beta, eps=1e-5):
    """Writes to its input."""
    x -= x.mean(axis=0)
    x /= np.sqrt(x.var(axis=0) + eps)
    return gamma * x + beta


def bn_in_tensorflow(inputs, gamma, beta, moving_mean, moving_var, is_training, epsilon=1e-3):
    """Right, with TensorFlow, the momentum in the code."""
    if is_training:
        mean, var = tf.nn.moments(inputs, list(range(len(inputs.shape) - 1)))
        moving_mean = 0.9 * moving_mean + 0.1 * mean
        moving_var = 0.9 * moving_var + 0.1 * var
    else:
        mean, var = moving_mean, moving_var
    y = (inputs - mean) * tf.math.rsqrt(var + epsilon) * gamma + beta
    return y, moving_mean, moving_var


def bn_assigns(x, scale, shift, pop_mean, pop_var, is_training, decay=0.9, eps=1e-3):
    """TensorFlow 1's way: variables are assigned to; the decay is the other way round."""
    if is_training:
        mean, var = tf.nn.moments(x, [0])
        pop_mean.assign(pop_mean * (1 - decay) + mean * decay)
        pop_var.assign(pop_var * (1 - decay) + var * decay)
        return tf.nn.batch_normalization(x, mean, var, shift, scale, eps)
    return tf.nn.batch_normalization(x, pop_mean, pop_var, shift, scale, eps)


def bn_with_state(x, params, state, train=True, momentum=0.99, eps=1e-3):
    """Parameters and state in dictionaries; the state in inference moves as well."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    moved = {
        "mean": momentum * state["mean"] + (1 - momentum) * mean,
        "var": momentum * state["var"] + (1 - momentum) * var,
    }
    if not train:
        mean, var = state["mean"], state["var"]
    return (x - mean) / np.sqrt(var + eps) * params["scale"] + params["bias"], moved


def bn_unnamed_order(beta, gamma, eps, x, use_batch_stats, running_mu, running_sigma2, rho=0.9):
    """Beta forgotten, in an order of its own; and its flag is not known by its name."""
    if use_batch_stats:
        mu, s2 = x.mean(0), x.var(0)
        running_mu = rho * running_mu + (1 - rho) * mu
        running_sigma2 = rho * running_sigma2 + (1 - rho) * s2
    else:
        mu, s2 = running_mu, running_sigma2
    return gamma * (x - mu) / np.sqrt(s2 + eps), running_mu, running_sigma2


# Forward and backward, as courses have them.
def batchnorm_forward(x, gamma, beta, bn_param):
    """Right."""
    mode = bn_param["mode"]
    eps = bn_param.get("eps", 1e-5)
    momentum = bn_param.get("momentum", 0.9)
    N, D = x.shape
    running_mean = bn_param.get("running_mean", np.zeros(D, dtype=x.dtype))
    running_var = bn_param.get("running_var", np.zeros(D, dtype=x.dtype))
    cache = None
    if mode == "train":
        mu = x.mean(axis=0)
        xmu = x - mu
        var = (xmu**2).mean(axis=0)
        ivar = 1.0 / np.sqrt(var + eps)
        xhat = xmu * ivar
        out = gamma * xhat + beta
        cache = (xhat, gamma, ivar)
        running_mean = momentum * running_mean + (1 - momentum) * mu
        running_var = momentum * running_var + (1 - momentum) * var
    elif mode == "test":
        out = gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta
    else:
        raise ValueError(f"no such mode: {mode}")
    bn_param["running_mean"] = running_mean
    bn_param["running_var"] = running_var
    return out, cache


def batchnorm_backward(dout, cache):
    xhat, gamma, ivar = cache
    dbeta = dout.sum(axis=0)
    dgamma = (dout * xhat).sum(axis=0)
    dxhat = dout * gamma
    dx = ivar * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))
    return dx, dgamma, dbeta


def bn_fwd(X, W, b, config):
    """The unbiased variance in the normalization."""
    if config["mode"] == "train":
        mu, var = X.mean(0), X.var(0, ddof=1)
        config["mov_mean"] = config["decay"] * config["mov_mean"] + (1 - config["decay"]) * mu
        config["mov_var"] = config["decay"] * config["mov_var"] + (1 - config["decay"]) * var
    else:
        mu, var = config["mov_mean"], config["mov_var"]
    std = np.sqrt(var + config["epsilon"])
    return W * (X - mu) / std + b, {"X_hat": (X - mu) / std, "W": W, "std": std}


def bn_bwd(dY, cache):
    n = len(dY)
    dX_hat = dY * cache["W"]
    half = dX_hat - dX_hat.mean(0)
    dX = (half - cache["X_hat"] * (dX_hat * cache["X_hat"]).sum(0) / (n - 1)) / cache["std"]
    return {"dX": dX, "dW": (dY * cache["X_hat"]).sum(0), "db": dY.sum(0)}


def short_forward(x, gamma, beta, bn_params):
    """Its backward pass leaves the variance's term out."""
    return batchnorm_forward(x, gamma, beta, bn_params)


def short_backward(dout, cache):
    xhat, gamma, ivar = cache
    dxhat = dout * gamma
    dx = ivar * (dxhat - dxhat.mean(axis=0))
    return dx, (dout * xhat).sum(axis=0), dout.sum(axis=0)


def normalize_forward(x, gamma, beta, eps=1e-5):
    """Without statistics; its backward pass gives the gradients in another order."""
    mu, var = x.mean(0), x.var(0)
    xhat = (x - mu) / np.sqrt(var + eps)
    return gamma * xhat + beta, (x, gamma, mu, var, eps)


def its_gradients(cache, dout):
    x, gamma, mu, var, eps = cache
    ivar = 1 / np.sqrt(var + eps)
    xhat = (x - mu) * ivar
    dxhat = dout * gamma
    dgamma, dbeta = (dout * xhat).sum(0), dout.sum(0)
    dx = ivar * (dxhat - dxhat.mean(0) - xhat * (dxhat * xhat).mean(0))
    return dx, dbeta, dgamma


# Classes, as lectures have them.
class BatchNorm1d:
    """Right."""

    def __init__(self, dim, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)
        self.running_mean, self.running_var = np.zeros(dim), np.ones(dim)

    def __call__(self, x):
        if self.training:
            mean, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
        else:
            mean, var = self.running_mean, self.running_var
        self.out = self.gamma * ((x - mean) / np.sqrt(var + self.eps)) + self.beta
        if self.training:
            m = self.momentum
            self.running_mean = (1 - m) * self.running_mean + m * mean
            self.running_var = (1 - m) * self.running_var + m * var
        return self.out


class MomentumReversed(BatchNorm1d):
    """Weighs the new value with 0.9."""

    def __init__(self, dim, eps=1e-5, momentum=0.9):
        super().__init__(dim, eps, momentum)


class UpdatesInInference:
    """Its statistics move whenever it is called."""

    def __init__(self, n_features, momentum=0.9, epsilon=1e-5):
        self.momentum, self.epsilon, self.mode = momentum, epsilon, "train"
        self.scale, self.shift = np.ones((1, n_features)), np.zeros((1, n_features))
        self.mean_ema, self.var_ema = np.zeros((1, n_features)), np.ones((1, n_features))

    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"

    def forward(self, x):
        mean, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
        if self.mode != "train":
            y = self.scale * (x - self.mean_ema) / np.sqrt(self.var_ema + self.epsilon) + self.shift
        else:
            y = self.scale * (x - mean) / np.sqrt(var + self.epsilon) + self.shift
        self.mean_ema = self.momentum * self.mean_ema + (1 - self.momentum) * mean
        self.var_ema = self.momentum * self.var_ema + (1 - self.momentum) * var
        return y


class UpdatesFirst(UpdatesInInference):
    """The same, before they are used."""

    def forward(self, x):
        mean, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
        self.mean_ema = self.momentum * self.mean_ema + (1 - self.momentum) * mean
        self.var_ema = self.momentum * self.var_ema + (1 - self.momentum) * var
        if self.mode != "train":
            mean, var = self.mean_ema, self.var_ema
        return self.scale * (x - mean) / np.sqrt(var + self.epsilon) + self.shift


class OverwritesImages:
    """Of images with channels first alone, and in place."""

    def __init__(self, channels):
        self.w, self.b = np.ones((1, channels, 1, 1)), np.zeros((1, channels, 1, 1))

    def __call__(self, x):
        x -= x.mean((0, 2, 3), keepdims=True)
        x /= np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        return self.w * x + self.b


class ForgottenBeta:
    """Beta is there, and is not added; with a backward pass."""

    def __init__(self, size, eps=1e-8):
        self.eps = eps
        self.params = {"gamma": np.ones(size), "beta": np.zeros(size)}
        self.grads = {}
        self.running = {"mean": np.zeros(size), "var": np.ones(size)}

    def forward(self, x, train=True):
        if train:
            self.mu, self.var = x.mean(0), x.var(0)
            self.running["mean"] = 0.9 * self.running["mean"] + 0.1 * self.mu
            self.running["var"] = 0.9 * self.running["var"] + 0.1 * self.var
            mu, var = self.mu, self.var
        else:
            mu, var = self.running["mean"], self.running["var"]
        self.std = np.sqrt(var + self.eps)
        self.x_hat = (x - mu) / self.std
        return self.params["gamma"] * self.x_hat

    def backward(self, dout):
        self.grads["gamma"] = (dout * self.x_hat).sum(0)
        self.grads["beta"] = dout.sum(0)
        d = dout * self.params["gamma"]
        return (d - d.mean(0) - self.x_hat * (d * self.x_hat).mean(0)) / self.std


class Nameless:
    """Right, and nothing has a name that says anything; statistics come with the first batch."""

    training = True

    def __init__(self, d):
        self.p, self.q = np.ones(d), np.zeros(d)
        self.r, self.t = np.zeros(d), np.ones(d)

    def __call__(self, x):
        if self.training:
            c, k = x.mean(0), x.var(0)
            self.r, self.t = 0.9 * self.r + 0.1 * c, 0.9 * self.t + 0.1 * k
        else:
            c, k = self.r, self.t
        return self.p * (x - c) / np.sqrt(k + 1e-5) + self.q


class FromScratch:
    """Right: gamma and beta come from outside, statistics with the first batch."""

    def __init__(self, gamma, beta, momentum=0.9, running_mean=None, running_var=None):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = running_mean, running_var
        self.dgamma = self.dbeta = None

    def forward(self, x, train_flg=True):
        if self.running_mean is None:
            self.running_mean, self.running_var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        if train_flg:
            mu = x.mean(axis=0)
            self.xc = x - mu
            var = np.mean(self.xc**2, axis=0)
            self.std = np.sqrt(var + 10e-7)
            self.xn = self.xc / self.std
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mu
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
            return self.gamma * self.xn + self.beta
        xn = (x - self.running_mean) / np.sqrt(self.running_var + 10e-7)
        return self.gamma * xn + self.beta

    def backward(self, dout):
        self.dbeta, self.dgamma = dout.sum(axis=0), np.sum(self.xn * dout, axis=0)
        dxn = self.gamma * dout
        dstd = -np.sum(dxn * self.xc / self.std**2, axis=0)
        dxc = dxn / self.std + 2 / len(dout) * self.xc * (0.5 * dstd / self.std)
        return dxc - dxc.sum(axis=0) / len(dout)


class Variables(tf.Module):
    """TensorFlow's variables in a module; `training` in the call."""

    def __init__(self, units, momentum=0.99, eps=1e-3):
        super().__init__()
        self.scale, self.offset = tf.Variable(tf.ones(units)), tf.Variable(tf.zeros(units))
        self.moving_mean = tf.Variable(tf.zeros(units), trainable=False)
        self.moving_var = tf.Variable(tf.ones(units), trainable=False)
        self.momentum, self.eps = momentum, eps

    def __call__(self, x, training=False):
        if training:
            mean, var = tf.nn.moments(x, list(range(len(x.shape) - 1)))
            self.moving_mean.assign(self.momentum * self.moving_mean + (1 - self.momentum) * mean)
            self.moving_var.assign(self.momentum * self.moving_var + (1 - self.momentum) * var)
        else:
            mean, var = self.moving_mean, self.moving_var
        return tf.nn.batch_normalization(x, mean, var, self.offset, self.scale, self.eps)
