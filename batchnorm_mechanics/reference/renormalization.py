"""Batch renormalization as Ioffe writes it, arXiv 1702.03275: his names are those of Alg. 1 there.

sigma is the root of the biased variance and epsilon together, r and d are constants to gradients.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike as Array

from batchnorm_mechanics.reference.averages import Batches, Masks, each
from batchnorm_mechanics.reference.transform import (
    Arrays,
    Axes,
    Float64,
    Maybe,
    divide,
    float64,
    moments,
    prepare,
    scale_and_shift,
    spread,
)


def corrections(
    mean: Array,
    sigma: Array,
    moving_mean: Array,
    moving_sigma: Array,
    r_max: float = np.inf,
    d_max: float = np.inf,
    r_min: float | None = None,
) -> Arrays:
    """Return r and d, which take a batch's x_hat to what the moving statistics would make of it.

    Implements: Alg. 1 there, l. 3 and 4: r = clip(sigma_B / sigma) to [1/r_max, r_max] and
    d = clip((mu_B - mu) / sigma) to [-d_max, d_max].
    Args: mean and sigma of the batch; the moving ones; the bounds; r_min in place of 1/r_max.
    Returns: r, d: float64 of the shape of mean.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> r, d = reference.corrections(4.0, 2.0, moving_mean=3.0, moving_sigma=0.5, r_max=3.0)
        >>> float(r), float(d)
        (3.0, 2.0)
    """
    moving_sigma = float64(moving_sigma)
    r_min = 1 / r_max if r_min is None else r_min
    r = np.clip(float64(sigma) / moving_sigma, r_min, r_max)
    return r, np.clip((float64(mean) - float64(moving_mean)) / moving_sigma, -d_max, d_max)


def renormalize(
    x: Array,
    gamma: Maybe,
    beta: Maybe,
    axes: Axes,
    epsilon: float,
    correction: Sequence[Array],
    mask: Maybe = None,
) -> Arrays:
    """Return the batch-renormalized input, as in training.

    Implements: Alg. 1 there: x_hat = (x - mu_B) / sigma_B * r + d, and y = gamma * x_hat + beta.
    Args: x of any shape; gamma and beta; axes; epsilon; correction, which is r and d, of shape S or
        scalars; mask.
    Returns: y, x_hat of the shape of x; mu_B, sigma_B of shape S: float64.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> print(*reference.renormalize([1, 3], 2, 1, axes=0, epsilon=3, correction=(4, 1)))
        [-1.  7.] [-1.  3.] 2.0 2.0
    """
    x, axes, counted = prepare("renormalize", x, axes, mask)
    mean, variance, _ = moments(x, axes, counted)
    sigma = np.sqrt(variance + epsilon)
    x_hat = (x - spread(mean, x, axes)) / spread(sigma, x, axes)
    r, d = (spread(value, x, axes) for value in correction)
    x_hat = x_hat * r + d
    return scale_and_shift(x_hat, gamma, beta, axes), x_hat, mean, sigma


def renormalized_gradients(
    dy: Array,
    x: Array,
    gamma: Maybe,
    axes: Axes,
    epsilon: float,
    correction: Sequence[Array],
    mask: Maybe = None,
) -> dict[str, Float64]:
    """Return the gradients of the loss with respect to x, gamma and beta in `renormalize`.

    Implements: sec. 3 there, the gradients, with r and d held constant.
    Args: dy and x of one shape; gamma; axes; epsilon; correction, as in `renormalize`; mask.
    Returns: float64: d_x of the shape of x, d_gamma and d_beta of shape S.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.renormalized_gradients([1, 0], [1, 3], 8, 0, 3, correction=(2, 1))["d_x"]
        array([ 3., -3.])
    """
    _, x_hat, mean, sigma = renormalize(x, gamma, None, axes, epsilon, correction, mask)
    x, axes, counted = prepare("renormalized_gradients", x, axes, mask)
    dy = np.broadcast_to(float64(dy), x.shape)
    m = np.expand_dims(float64(np.sum(counted, axis=axes)), axes)
    centered = x - spread(mean, x, axes)
    sigma, r = spread(sigma, x, axes), spread(correction[0], x, axes)
    kept = {"axis": axes, "keepdims": True}
    d_x_hat = dy * spread(1 if gamma is None else gamma, x, axes)
    d_sigma = np.sum(d_x_hat * centered * -r / sigma**2, **kept)
    d_mean = np.sum(d_x_hat * -r / sigma, **kept)
    through_moments = d_sigma * centered / sigma * divide(1, m) + d_mean * divide(1, m)
    return {
        "d_x": d_x_hat * r / sigma + np.where(counted, through_moments, 0),
        "d_gamma": np.sum(dy * x_hat, axis=axes),
        "d_beta": np.sum(dy, axis=axes),
    }


def moving_deviation(
    batches: Batches,
    axes: Axes,
    decay: float,
    epsilon: float,
    *,
    masks: Masks = None,
    initial_mean: Array = 0.0,
    initial_sigma: Array = 1.0,
) -> Arrays:
    """Return the moving mean and sigma after moving = decay * moving + (1 - decay) * batch.

    Implements: Alg. 1 there, l. 7 and 8, whose alpha is 1 - decay.
    Args: batches; axes; decay; epsilon, which is within sigma; masks; initial values.
    Returns: mean and sigma: float64 of shape S.
    Numerics: a batch with count 0 leaves both as they were.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.moving_deviation([[[2.0], [6.0]]], axes=0, decay=0.75, epsilon=0.0)
        (array([1.]), array([1.25]))
    """
    moving_mean, moving_sigma = float64(initial_mean), float64(initial_sigma)
    for batch in each("moving_deviation", batches, axes, masks):
        mean, variance, count = moments(*batch)
        new_sigma = decay * moving_sigma + (1 - decay) * np.sqrt(variance + epsilon)
        moving_mean = np.where(count > 0, decay * moving_mean + (1 - decay) * mean, moving_mean)
        moving_sigma = np.where(count > 0, new_sigma, moving_sigma)
    return moving_mean, moving_sigma
