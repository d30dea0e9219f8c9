"""Moments of what a layer gets, batch by batch, in memory that does not grow with the data."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from batchnorm_mechanics.doctor.calls import Said
from batchnorm_mechanics.models.norms import Norm, Vector


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
        largest: of |input|, of a float16 input.
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
    largest: float = 0.0
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
        self._products = np.zeros(self.channels)  # of the deviations of both

    def add(
        self, count: float, mean: Vector, variance: Vector, non_finite: Vector, largest: float = 0.0
    ) -> None:
        """Take in what one call of a layer says, as `Said`; its variance is the biased one.

        A batch in which a mask lets nothing count changes no moment.

        Implements: Chan, Golub and LeVeque (1983), the pairwise update.
        """
        self.largest = max(self.largest, largest)
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
            left = values - self._centres
            self._squares += step * left
            self._products += step[0] * left[1]

    def join(self, other: "Pool") -> None:
        """Take in what another pool was told, as if it had come after.

        Implements: Chan, Golub and LeVeque (1983), the pairwise update, for samples and for
        batches alike; the second moments of the other are moved to this one's first mean.
        """
        self.largest = max(self.largest, other.largest)
        if not other.batches:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            if not self.batches:
                self._first = other._first.copy()
            total, delta = self.count + other.count, other.mean - self.mean
            self.deviations += other.deviations + delta**2 * self.count * other.count / total
            self.mean += delta * other.count / total
            self.within += other.within
            self.non_finite += other.non_finite
            # About our first mean, a batch's second moment is v + (m + d)², with d between both.
            moved = other._first - self._first
            mean, second = other._centres
            centres = np.stack((mean + moved, second + 2 * moved * mean + moved**2))
            of_mean, of_second = other._squares
            products = other._products + 2 * moved * of_mean
            of_second = of_second + 4 * moved * other._products + 4 * moved**2 * of_mean
            batches = self.batches + other.batches
            step = centres - self._centres
            share = self.batches * other.batches / batches
            self._squares += np.stack((of_mean, of_second)) + step**2 * share
            self._products += products + step[0] * step[1] * share
            self._centres += step * other.batches / batches
        self.count, self.batches = total, batches
        self.freedom += other.freedom
        for count, times in other.counts.items():
            self.counts[count] = self.counts.get(count, 0) + times

    @property
    def variance(self) -> Vector:
        """The biased variance of all samples, the variance between batch means included."""
        return self.deviations / max(self.count, 1.0)

    @property
    def statistics(self) -> tuple[Vector, Vector]:
        """Mean and variance."""
        return self.mean, self.variance

    @property
    def spread(self) -> tuple[Vector, Vector]:
        """Standard deviations, from batch to batch, of the mean and of the second moment.

        NaN where there is one batch only.
        """
        if self.batches < 2:
            return np.full(self.channels, np.nan), np.full(self.channels, np.nan)
        mean, second = np.sqrt(self._squares / (self.batches - 1))
        return mean, second


# Batches that vary most are held apart, since they may be odd; with fewer none is usual.
_HELD, _FEWEST = 8, 8


class Pools:
    """Moments of what one layer gets: of each of its calls, and of them together.

    The batches that vary most are held apart while others come. One that has more of a channel's
    variance than all the rest together stays apart: what a layer mostly gets is told by the rest.

    Args:
        channels: of the layer.
        epsilon: likewise; variances below it are all the same.

    Attributes:
        together: what all calls get, each forward pass as one batch.
        calls: what each gets.
        odd: numbers of the batches that were left out, once `settle` has run.
    """

    def __init__(self, channels: int, epsilon: float) -> None:
        """Start with nothing."""
        self._epsilon = max(epsilon, 1e-12)
        self.together = Pool(channels)
        self.calls: list[Pool] = []
        self.odd: tuple[int, ...] = ()
        self._passes = 0
        self._held: list[tuple[float, int, Sequence[Said]]] = []

    def add(self, calls: Sequence[Said]) -> float:
        """Take in what the calls of one forward pass say; return how much they vary."""
        # Over channels by the geometric mean, since each may have a unit of its own.
        with np.errstate(invalid="ignore"):
            logs = [np.log(said.variance + self._epsilon).mean() for said in calls]
        scale = float(np.exp(np.mean(logs)))
        number = self._passes
        self._passes += 1
        if not np.isfinite(scale):
            self._take(calls)
            return scale
        # The last of those that are equal: the numbers differ, and nothing else is compared.
        heapq.heappush(self._held, (scale, -number, calls))
        if len(self._held) > _HELD:
            self._take(heapq.heappop(self._held)[2])
        return scale

    def join(self, other: "Pools") -> None:
        """Take in what others of the same layer were told, not settled, as if it had come after."""
        while len(self.calls) < len(other.calls):
            self.calls.append(Pool(self.together.channels))
        for mine, theirs in zip(self.calls, other.calls, strict=False):
            mine.join(theirs)
        self.together.join(other.together)
        for scale, number, calls in other._held:
            heapq.heappush(self._held, (scale, number - self._passes, calls))
            if len(self._held) > _HELD:
                self._take(heapq.heappop(self._held)[2])
        self._passes += other._passes

    def settle(self, *, with_odd: bool = False) -> "Pools":
        """Take in what was held apart, but for what is odd, or that too."""
        # From the smallest on, so that each is held against all that is usual.
        for _, number, calls in sorted(self._held, key=lambda held: held[:2]):
            if self._is_odd(calls):
                self.odd = tuple(sorted((*self.odd, -number)))
                if not with_odd:
                    continue
            self._take(calls)
        self._held = []
        return self

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the scatter within each call's batches, as training has it."""
        return sum(call.freedom for call in self.calls)

    @property
    def what_is_odd(self) -> str:
        """In words, the batches that make most of the variance, or ""."""
        if not self.odd:
            return ""
        numbers = ", ".join(str(number) for number in self.odd)
        are = "batch {} makes" if len(self.odd) == 1 else "batches {} make"
        return f"{are.format(numbers)} more than half of the variance of what it gets"

    def _is_odd(self, calls: Sequence[Said]) -> bool:
        """Whether a pass has more of a channel's variance than all passes that were taken in."""
        usual = self.together
        if usual.batches < _FEWEST or 8 * len(self.odd) >= usual.batches:
            return False
        said = _joined(calls)
        # A channel that hardly ever varies has its first event some time.
        varies = usual.variance > self._epsilon
        return bool((varies & (said.variance * said.count > usual.deviations)).any())

    def _take(self, calls: Sequence[Said]) -> None:
        while len(self.calls) < len(calls):
            self.calls.append(Pool(self.together.channels))
        for pool, said in zip(self.calls, calls, strict=False):
            pool.add(*said)
        self.together.add(*_joined(calls))


def _joined(calls: Sequence[Said]) -> Said:
    """Return what several calls say together, as if they had come in one batch."""
    if len(calls) == 1:
        return calls[0]
    joined = Pool(len(calls[0].mean))
    for said in calls:
        joined.add(*said)
    return Said(joined.count, joined.mean, joined.variance, joined.non_finite, joined.largest)


def pools_of(norms: Iterable[Norm]) -> dict[str, Pools]:
    """Return pools for layers, by their names."""
    return {norm.name: Pools(norm.channels, norm.layer.epsilon) for norm in norms}
