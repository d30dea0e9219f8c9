"""Libraries whose tensors the judge does not know, as functions of arrays that it takes.

Both are made for float32. What each has for epsilon and momentum by itself is theirs, and so are
names and order.
"""

from typing import Any

import numpy as np


def mlx_batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    training: bool = True,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalize by `mlx.nn.BatchNorm`, on the CPU."""
    import mlx.core as mx
    from mlx import nn

    mx.set_default_device(mx.cpu)
    layer: Any = nn.BatchNorm(len(weight), eps=eps, momentum=momentum)
    layer.train(training)
    layer.weight, layer.bias = mx.array(weight), mx.array(bias)
    layer.running_mean, layer.running_var = mx.array(running_mean), mx.array(running_var)
    y = layer(mx.array(x))
    return np.array(y), np.array(layer.running_mean), np.array(layer.running_var)


def paddle_batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    training: bool = False,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalize by `paddle.nn.functional.batch_norm`, on the CPU."""
    import paddle

    paddle.set_device("cpu")
    given = [paddle.to_tensor(value) for value in (x, running_mean, running_var, weight, bias)]
    y = paddle.nn.functional.batch_norm(
        *given, training=training, momentum=momentum, epsilon=epsilon
    )
    return y.numpy(), given[1].numpy(), given[2].numpy()
