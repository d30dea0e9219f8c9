from .comparison.compare import compare
from .conformance import conform, conform_cases
from .core import (
    backward,
    fold_statistics,
    forward,
    gradients,
    infer,
    merge_moments,
    moments,
    moments_one_axis_at_a_time,
    multiply_and_add,
    normalize,
    scale_and_shift,
    unbiased_variance,
)
from .distribute.executors import RayExecutor
from .doctor.diagnose import diagnose
from .doctor.recalibrate import recalibrate
from .doctor.repair import repair
from .doctor.watch import Recalibrate, Watch
from .explorer.notebook import Explorer
from .folding.fold import fold
from .layers import (
    BatchNormalization,
    FrozenAffine,
    ResetStatistics,
    accelerate,
    freeze,
    from_keras,
    restore,
    synchronize,
    to_frozen_affine,
    to_group_normalization,
    to_keras,
    unfreeze,
    unsynchronize,
)
from .models.data import Shards
from .models.joining import join_replicas
from .models.replace import replace
from .porting.port import port
from .statistics import (
    AverageOfBatches,
    DebiasedMovingAverage,
    ExponentialMovingAverage,
    Policy,
    PooledPopulation,
    Renormalization,
    VirtualBatches,
)
from .tracing import trace

__all__ = [
    "AverageOfBatches",
    "BatchNormalization",
    "DebiasedMovingAverage",
    "Explorer",
    "ExponentialMovingAverage",
    "FrozenAffine",
    "Policy",
    "PooledPopulation",
    "RayExecutor",
    "Recalibrate",
    "Renormalization",
    "ResetStatistics",
    "Shards",
    "VirtualBatches",
    "Watch",
    "__version__",
    "accelerate",
    "backward",
    "compare",
    "conform",
    "conform_cases",
    "diagnose",
    "fold",
    "fold_statistics",
    "forward",
    "freeze",
    "from_keras",
    "gradients",
    "infer",
    "join_replicas",
    "merge_moments",
    "moments",
    "moments_one_axis_at_a_time",
    "multiply_and_add",
    "normalize",
    "port",
    "recalibrate",
    "repair",
    "replace",
    "restore",
    "scale_and_shift",
    "synchronize",
    "to_frozen_affine",
    "to_group_normalization",
    "to_keras",
    "trace",
    "unbiased_variance",
    "unfreeze",
    "unsynchronize",
]
__version__: str
