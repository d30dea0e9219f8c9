"""The algorithm as pure functions of tensors: no variables, no Keras, no I/O."""

from batchnorm_mechanics.core.gradient import Gradients, backward, gradients
from batchnorm_mechanics.core.kernels import (
    Kernel,
    choose_kernel,
    normalize_batch,
    normalize_together,
    normalize_with,
)
from batchnorm_mechanics.core.moments import (
    AxisMoments,
    Moments,
    merge_groups,
    merge_moments,
    moments,
    moments_one_axis_at_a_time,
    statistics_dtype,
    unbiased_variance,
)
from batchnorm_mechanics.core.renormalization import corrections, renormalize
from batchnorm_mechanics.core.replicas import Exchange, merge_parts, merge_replicas
from batchnorm_mechanics.core.transform import (
    Cache,
    fold_statistics,
    forward,
    infer,
    multiply_and_add,
    normalize,
    scale_and_shift,
)

__all__ = [
    "AxisMoments",
    "Cache",
    "Exchange",
    "Gradients",
    "Kernel",
    "Moments",
    "backward",
    "choose_kernel",
    "corrections",
    "fold_statistics",
    "forward",
    "gradients",
    "infer",
    "merge_groups",
    "merge_moments",
    "merge_parts",
    "merge_replicas",
    "moments",
    "moments_one_axis_at_a_time",
    "multiply_and_add",
    "normalize",
    "normalize_batch",
    "normalize_together",
    "normalize_with",
    "renormalize",
    "scale_and_shift",
    "statistics_dtype",
    "unbiased_variance",
]
