"""What is special about the data of a trace, in sentences."""

from collections.abc import Iterator

import numpy as np

from batchnorm_mechanics._difference import difference
from batchnorm_mechanics.tracing.compare import oracle_values
from batchnorm_mechanics.tracing.computation import Computation, wide_array
from batchnorm_mechanics.tracing.record import Step
from batchnorm_mechanics.tracing.show import ulps_text

# In float32, mean/std beyond this costs tf.nn.batch_normalization more than four digits of seven.
_LARGE = 1e3
# So many numbers fit into a sentence.
_FEW = 12


def notes_on(computation: Computation, steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Return sentences on NaN, constant channels, single samples and large means.

    Args:
        computation: what went in.
        steps: as `forward_steps` returned them.
    """
    by_name = {step.name: step.value for step in steps}
    mean, variance = (by_name[name].astype(np.float64) for name in ("mean", "variance"))
    found = [*_against_the_oracle(computation, by_name["y"])]
    found += _not_finite(computation, mean, variance)
    if computation.mode == "training":
        found += _few_samples(by_name["count"], variance)
    if 0 in computation.x.shape:
        found.append("The input holds no samples, so neither does the output.")
    found += _negative(variance)
    found += _large_mean(mean, variance, computation.epsilon)
    if computation.x.dtype.size < computation.dtype.size:
        found.append(
            f"The input is {computation.x.dtype.name}: the statistics and x_hat are computed in "
            f"{computation.dtype.name}, and only y is rounded to {computation.x.dtype.name}."
        )
    return tuple(found)


def _against_the_oracle(computation: Computation, y: np.ndarray) -> Iterator[str]:
    oracle = oracle_values(computation)["y"]
    if not y.size:
        return
    off = difference(y, oracle, y.dtype.name)
    exact = f"is {_in_one_line(oracle)}" if oracle.size <= _FEW else "was computed too"
    yield (
        f"From the same input in float64, y {exact}; the y above is at most "
        f"{off.absolute:.3g} from it ({ulps_text(off.ulps)} ULPs of {y.dtype.name})."
    )


def _in_one_line(values: np.ndarray) -> str:
    text = np.array2string(values, precision=7, max_line_width=10_000, separator=", ")
    return " ".join(text.split()).replace("[ ", "[")


def _not_finite(computation: Computation, mean: np.ndarray, variance: np.ndarray) -> Iterator[str]:
    bad = int(np.sum(~np.isfinite(wide_array(computation.x))))
    if bad and computation.mode == "training":
        lost = int(np.sum(~(np.isfinite(mean) & np.isfinite(variance))))
        yield (
            f"The input holds {bad} NaN or infinite values. They are in the statistics of {lost} "
            f"of {mean.size} channels, so all samples of these become NaN."
        )
    elif bad:
        yield (
            f"The input holds {bad} NaN or infinite values. With given statistics they stay where "
            "they are."
        )


def _few_samples(count: np.ndarray, variance: np.ndarray) -> Iterator[str]:
    if count.size and np.all(count == 1):
        yield (
            "There is one sample behind each statistic (m′ = 1): the mean is the sample, the "
            "variance is 0, x_hat is 0 and y is β, whatever x is."
        )
        return
    empty = int(np.sum(count == 0))
    if empty:
        yield f"The mask leaves {empty} channels without a sample: mean 0, variance 0."
    constant = int(np.sum((variance == 0) & (count > 0)))
    if constant:
        yield (
            f"The variance is 0 in {constant} of {variance.size} channels: they are constant. "
            "ε alone keeps the division finite, x_hat is 0 and y is β there."
        )


def _negative(variance: np.ndarray) -> Iterator[str]:
    negative = int(np.sum(variance < 0))
    if negative:
        yield (
            f"The variance given is negative in {negative} of {variance.size} channels. No data "
            "have such a variance: a mean may have been loaded in its place."
        )


def _large_mean(mean: np.ndarray, variance: np.ndarray, epsilon: float) -> Iterator[str]:
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = np.abs(mean) / np.sqrt(np.maximum(variance, 0) + epsilon)
    ratio = ratio[np.isfinite(ratio)]
    if ratio.size and np.max(ratio) > _LARGE:
        yield (
            f"The mean is up to {np.max(ratio):.3g} standard deviations from 0. The mean is taken "
            "away before anything is multiplied here; x · scale + offset, which tf.nn and a folded "
            "batch norm compute, loses about as many digits as that number has. A comparison "
            "(compare=True, --compare) shows it."
        )
