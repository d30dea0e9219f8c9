"""Compute batch normalization in float64 as the paper writes it: the oracle for everything else.

Written from Ioffe and Szegedy, arXiv 1502.03167, to be obvious, not fast. For all functions:

- Any dtype comes in and is made float64 first (exact for bfloat16, float16, float32 and integers
  up to 2**53); float64 goes out.
- `axes`, an int or a sequence, are the axes of `x` reduced over; negative ones count from the end.
- S is the shape of the axes kept, in their order, with the reduced axes squeezed out; () if none.
- `gamma` and `beta` are scalars or of shape S; None stands for 1 and 0.
- `mask` is None or boolean, and its shape is that of the first dimensions of `x`. Where it is
  False, an element does not count in the moments; it is normalized and sends gradient all the same.
- A statistic behind which there is no sample has mean 0, variance 0 and count 0: look at the count.
- `batches` is a sequence of arrays that agree in S; `masks` is None or holds a mask or None for
  each. With `unbiased`, a batch's variance is m/(m-1) times the biased one, m being its samples.
- ValueError for axes out of range, given twice or missing, for a mask that is not boolean, and for
  shapes that do not fit.
"""

from batchnorm_mechanics.reference.averages import (
    average_of_batches,
    debiased_moving_average,
    exponential_moving_average,
    pooled,
)
from batchnorm_mechanics.reference.renormalization import (
    corrections,
    moving_deviation,
    renormalize,
    renormalized_gradients,
)
from batchnorm_mechanics.reference.transform import (
    fold,
    forward,
    gradients,
    infer,
    merge_moments,
    moments,
    moments_one_axis_at_a_time,
    normalize,
    scale_and_shift,
    unbiased_variance,
)

__all__ = [
    "average_of_batches",
    "corrections",
    "debiased_moving_average",
    "exponential_moving_average",
    "fold",
    "forward",
    "gradients",
    "infer",
    "merge_moments",
    "moments",
    "moments_one_axis_at_a_time",
    "moving_deviation",
    "normalize",
    "pooled",
    "renormalize",
    "renormalized_gradients",
    "scale_and_shift",
    "unbiased_variance",
]
