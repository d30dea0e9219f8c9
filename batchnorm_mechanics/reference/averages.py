"""What inference uses of many batches: averages of their statistics, and all samples together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike as Array

from batchnorm_mechanics.reference.transform import (
    Arrays,
    Axes,
    Prepared,
    divide,
    float64,
    moments,
    prepare,
    unbiased_variance,
)

Batches = Sequence[Array]
Masks = Sequence[Array | None] | None


def each(function: str, batches: Batches, axes: Axes, masks: Masks) -> list[Prepared]:
    """Return (x, axes, counted) of every batch, which `moments` takes."""
    masks = [None] * len(batches) if masks is None else masks
    return [prepare(function, x, axes, mask) for x, mask in zip(batches, masks, strict=True)]


def exponential_moving_average(
    batches: Batches,
    axes: Axes,
    decay: float,
    *,
    unbiased: bool = False,
    masks: Masks = None,
    initial_mean: Array = 0.0,
    initial_variance: Array = 1.0,
) -> Arrays:
    """Return the moving statistics after moving = decay * moving + (1 - decay) * batch per batch.

    Implements: sec. 3.1, "using moving averages instead" of the averages of Alg. 2, l. 10.
    Args: batches; axes; decay, the weight of the old value; unbiased; masks; initial values.
    Returns: mean and variance (biased or unbiased as asked): float64 of shape S.
    Numerics: a batch with count 0 leaves both as they were; if unbiased, one with count 1 leaves
        the variance. Without batches S is not known: the initial values return as they are.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.exponential_moving_average([[[2.0], [6.0]]], axes=0, decay=0.75)
        (array([1.]), array([1.75]))
    """
    moving_mean, moving_variance = float64(initial_mean), float64(initial_variance)
    for batch in each("exponential_moving_average", batches, axes, masks):
        mean, variance, count = moments(*batch)
        variance = unbiased_variance(variance, count) if unbiased else variance
        new_variance = decay * moving_variance + (1 - decay) * variance
        moving_mean = np.where(count > 0, decay * moving_mean + (1 - decay) * mean, moving_mean)
        moving_variance = np.where(count > int(unbiased), new_variance, moving_variance)
    return moving_mean, moving_variance


def debiased_moving_average(
    batches: Batches, axes: Axes, decay: float, *, unbiased: bool = False, masks: Masks = None
) -> Arrays:
    """Return the averages of the batch statistics with weights decay**age that sum to one.

    Implements: sec. 3.1, "using moving averages instead", free of any initial value.
    Args: batches; axes; decay; unbiased; masks.
    Returns: mean and variance (biased or unbiased as asked): float64 of shape S.
    Numerics: age counts the later batches that were taken in: one with count 0 (for an unbiased
        variance, count 1 or 0) has no weight and ages nothing. Nothing seen: mean 0, variance 1.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.debiased_moving_average([[[3.0]], [[6.0], [6.0]]], axes=0, decay=0.5)
        (array([5.]), array([0.]))
    """
    means, variances, averages = [], [], []
    for batch in each("debiased_moving_average", batches, axes, masks):
        mean, variance, count = moments(*batch)
        variance = unbiased_variance(variance, count) if unbiased else variance
        means.append((mean, count > 0))
        variances.append((variance, count > int(unbiased)))
    for series, nothing_seen in ((means, 0.0), (variances, 1.0)):
        weighted = weights = age = float64(0)
        for value, taken in reversed(series):
            weighted = weighted + np.where(taken, decay**age * value, 0)
            weights = weights + np.where(taken, decay**age, 0)
            age = age + taken
        averages.append(np.where(weights > 0, divide(weighted, weights), nothing_seen))
    return tuple(averages)


def average_of_batches(batches: Batches, axes: Axes, *, masks: Masks = None) -> Arrays:
    """Return the population statistics that the paper estimates from the batches' averages.

    Implements: Alg. 2, l. 10, for batches of any sizes m_k: mean = sum(m_k mean_k) / sum(m_k) and
    variance = sum(m_k variance_k) / sum(m_k - 1); for equal sizes, m/(m-1) times the average.
    Args: batches; axes; masks.
    Returns: mean and variance (within batches, unbiased): float64 of shape S.
    Numerics: mean 0 without samples; variance 1 without degrees of freedom (one sample has none).

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.average_of_batches([[[1.0], [3.0]], [[5.0]]], axes=0)
        (array([3.]), array([2.]))
    """
    values, samples, squares, freedom = map(float64, (0, 0, 0, 0))
    for batch in each("average_of_batches", batches, axes, masks):
        mean, biased_variance, count = moments(*batch)
        values, samples = values + count * mean, samples + count
        squares = squares + count * biased_variance
        freedom = freedom + np.maximum(count - 1, 0)  # an empty batch must not take one away
    return divide(values, samples), np.where(freedom > 0, divide(squares, freedom), 1.0)


def pooled(batches: Batches, axes: Axes, *, masks: Masks = None, unbiased: bool = False) -> Arrays:
    """Return the mean and variance of all samples of all batches, gathered before computing.

    Implements: sec. 3.1, E[x] and Var[x] over the population, from their definitions.
    Args: batches; axes; masks; unbiased, which here divides by the number of all samples less one.
    Returns: mean and variance (biased or unbiased as asked): float64 of shape S.
    Numerics: nothing seen gives mean 0, variance 1; one sample with unbiased=True, variance 1.

    Example:
        >>> from batchnorm_mechanics import reference
        >>> reference.pooled([[[1.0], [3.0]], [[5.0]]], axes=0, unbiased=True)
        (array([3.]), array([4.]))
    """
    gathered, shape = [], ()
    for x, reduced, counted in each("pooled", batches, axes, masks):
        last = range(-len(reduced), 0)
        gathered.append((np.moveaxis(x, reduced, last), np.moveaxis(counted, reduced, last)))
        shape = gathered[0][0].shape[: -len(reduced)]
    mean, variance = np.zeros(shape), np.ones(shape)
    for index in np.ndindex(shape):
        samples = np.concatenate([np.zeros(0), *(x[index][kept[index]] for x, kept in gathered)])
        divisor = samples.size - 1 if unbiased else samples.size
        if samples.size > 0:
            mean[index] = np.sum(samples) / samples.size
        if divisor > 0:
            variance[index] = np.sum((samples - mean[index]) ** 2) / divisor
    return mean, variance
