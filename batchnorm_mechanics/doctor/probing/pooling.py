"""Moments of a whole data set from those of its batches, in float64 and in little memory."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass
class Pool:
    """Moments of all batches so far, and how they scatter from one batch to the next.

    It holds a few vectors of one number a channel, however many batches came.

    Attributes:
        count: samples behind each statistic, all batches together.
        mean: of all samples.
        deviations: sum of the squared deviations from the mean.
        within: sum of the squared deviations from the means of their own batches.
        freedom: degrees of freedom of `within`, samples less batches.
        batches: how many.
        non_finite: values that are NaN or infinite.
        counts: how often a batch had so many samples behind each statistic.

    Example:
        >>> pool = Pool(1)
        >>> pool.add(2.0, np.array([1.0]), np.array([1.0]), np.array([0.0]))
        >>> pool.add(1.0, np.array([7.0]), np.array([0.0]), np.array([0.0]))
        >>> pool.mean.item(), pool.variance.item()
        (3.0, 8.666666666666666)
    """

    channels: int
    count: float = 0.0
    freedom: float = 0.0
    batches: int = 0
    counts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start with nothing."""
        self.mean = np.zeros(self.channels)
        self.deviations = np.zeros(self.channels)
        self.within = np.zeros(self.channels)
        self.non_finite = np.zeros(self.channels)
        self._first = np.zeros(self.channels)
        # Running means and squared deviations, over batches, of the batch's mean and of its
        # second moment about the first batch's mean.
        self._centres = np.zeros((2, self.channels))
        self._squares = np.zeros((2, self.channels))

    def add(self, count: float, mean: Vector, variance: Vector, non_finite: Vector) -> None:
        """Take a batch's moments in; its variance is the biased one.

        A batch in which a mask lets nothing count changes nothing.

        Implements: Chan, Golub and LeVeque (1983), the pairwise update.
        """
        if not count:
            return
        # Infinite values make NaN here, which is what they should make; quietly.
        with np.errstate(invalid="ignore", over="ignore"):
            if not self.batches:
                self._first = mean.copy()
            total = self.count + count
            delta = mean - self.mean
            squares = variance * count
            self.within += squares
            self.freedom += count - 1
            self.deviations += squares + delta**2 * self.count * count / total
            self.mean += delta * count / total
            self.count = total
            self.batches += 1
            self.counts[round(count)] = self.counts.get(round(count), 0) + 1
            self.non_finite += non_finite
            values = np.stack((mean - self._first, variance + (mean - self._first) ** 2))
            step = values - self._centres
            self._centres += step / self.batches
            self._squares += step * (values - self._centres)

    @property
    def variance(self) -> Vector:
        """The biased variance of all samples, the variance between batch means included."""
        return self.deviations / max(self.count, 1.0)

    @property
    def spread(self) -> tuple[Vector, Vector]:
        """Standard deviations, from batch to batch, of the mean and of the second moment.

        NaN where there is one batch only.
        """
        if self.batches < 2:
            return np.full(self.channels, np.nan), np.full(self.channels, np.nan)
        mean, second = np.sqrt(self._squares / (self.batches - 1))
        return mean, second
