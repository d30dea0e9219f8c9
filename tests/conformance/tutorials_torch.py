"""The same in PyTorch: see `tutorials`."""

import torch
from torch import nn


def batch_norm(X, gamma, beta, moving_mean, moving_var, eps, momentum):
    """Right: the mode is whether gradients are recorded."""
    if not torch.is_grad_enabled():
        X_hat = (X - moving_mean) / torch.sqrt(moving_var + eps)
    else:
        assert X.dim() in (2, 4)
        if X.dim() == 2:
            mean = X.mean(dim=0)
            var = ((X - mean) ** 2).mean(dim=0)
        else:
            mean = X.mean(dim=(0, 2, 3), keepdim=True)
            var = ((X - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        X_hat = (X - mean) / torch.sqrt(var + eps)
        moving_mean = (1.0 - momentum) * moving_mean + momentum * mean
        moving_var = (1.0 - momentum) * moving_var + momentum * var
    return gamma * X_hat + beta, moving_mean.data, moving_var.data


class BatchNorm(nn.Module):
    """Right: the textbook's module around it, its statistics plain attributes."""

    def __init__(self, num_features, num_dims):
        super().__init__()
        shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.moving_mean, self.moving_var = torch.zeros(shape), torch.ones(shape)

    def forward(self, X):
        Y, self.moving_mean, self.moving_var = batch_norm(
            X, self.gamma, self.beta, self.moving_mean, self.moving_var, eps=1e-5, momentum=0.1
        )
        return Y


class LectureBatchNorm1d:
    """Unbiased variance in the normalization, as the lecture has it."""

    def __init__(self, dim, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = torch.ones(dim), torch.zeros(dim)
        self.running_mean, self.running_var = torch.zeros(dim), torch.ones(dim)

    def __call__(self, x):
        if self.training:
            xmean, xvar = x.mean(0, keepdim=True), x.var(0, keepdim=True)
        else:
            xmean, xvar = self.running_mean, self.running_var
        self.out = self.gamma * ((x - xmean) / torch.sqrt(xvar + self.eps)) + self.beta
        if self.training:
            with torch.no_grad():
                m = self.momentum
                self.running_mean = (1 - m) * self.running_mean + m * xmean
                self.running_var = (1 - m) * self.running_var + m * xvar
        return self.out


class ByOtherNames(nn.Module):
    """Right: buffers by no name that says what they are, the unbiased variance in them."""

    def __init__(self, channels, epsilon=1e-5, momentum=0.1):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(channels))
        self.q = nn.Parameter(torch.ones(channels))
        self.register_buffer("one", torch.ones(channels))
        self.register_buffer("two", torch.zeros(channels))
        self.register_buffer("seen", torch.tensor(0))
        self.epsilon, self.momentum = epsilon, momentum

    def forward(self, x):
        dims = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.two, self.one
        if self.training:
            mean, var = x.mean(dims), x.var(dims, unbiased=False)
            count = x.numel() / x.size(1)
            with torch.no_grad():
                self.two += self.momentum * (mean - self.two)
                self.one += self.momentum * (var * count / max(count - 1, 1) - self.one)
                self.seen += 1
        x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.epsilon)
        return x_hat * self.q.view(shape) + self.p.view(shape)


class EpsilonOutside(nn.Module):
    """Epsilon outside the root, and no gradient through the statistics."""

    def __init__(self, n_out, eps=1e-3, decay=0.9):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("mean", torch.zeros(n_out))
        self.register_buffer("var", torch.ones(n_out))
        self.eps, self.decay = eps, decay

    def forward(self, x):
        mean, var = self.mean, self.var
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.mul_(self.decay).add_(mean, alpha=1 - self.decay)
                self.var.mul_(self.decay).add_(var, alpha=1 - self.decay)
        return (x - mean) / (var.sqrt() + self.eps) * self.weight + self.bias


class InferenceByBatch(nn.Module):
    """Takes the batch's own statistics in inference, too."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.eps, self.momentum = eps, momentum

    def forward(self, x):
        mean, var = x.mean(0), x.var(0, unbiased=False)
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


class Detached(nn.Module):
    """No gradient through the variance."""

    def __init__(self, dim):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, dim))
        self.shift = nn.Parameter(torch.zeros(1, dim))

    def forward(self, x):
        var = x.var(0, unbiased=False).detach()
        return (x - x.mean(0)) / torch.sqrt(var + 1e-5) * self.gain + self.shift


an_instance = nn.BatchNorm2d(7, eps=1e-4)
lazy = nn.LazyBatchNorm1d
