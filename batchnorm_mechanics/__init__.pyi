from .conformance import (
    CaseResult,
    Check,
    Conventions,
    Report,
    conform,
)
from .core import (
    Cache,
    Gradients,
    Moments,
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
    samples_per_statistic,
    scale_and_shift,
    unbiased_variance,
)
from .doctor.diagnose import diagnose
from .doctor.findings import Diagnosis, Finding
from .doctor.fold import Folded, fold
from .doctor.recalibrate import recalibrate
from .doctor.repair import Repair, repair
from .doctor.repairing.change import Change
from .doctor.watch import Recalibrate, Watch
from .layers import (
    Accelerated,
    BatchNormalization,
    ResetStatistics,
    accelerate,
    from_keras,
    restore,
    to_keras,
)
from .statistics import (
    AverageOfBatches,
    DebiasedMovingAverage,
    ExponentialMovingAverage,
    Policy,
    PooledPopulation,
)
from .tracing import (
    Step,
    Trace,
    trace,
)
from .training import (
    RowBatches,
    fit_compiled,
)

__all__ = [
    "Accelerated",
    "AverageOfBatches",
    "BatchNormalization",
    "Cache",
    "CaseResult",
    "Change",
    "Check",
    "Conventions",
    "DebiasedMovingAverage",
    "Diagnosis",
    "ExponentialMovingAverage",
    "Finding",
    "Folded",
    "Gradients",
    "Moments",
    "Policy",
    "PooledPopulation",
    "Recalibrate",
    "Repair",
    "Report",
    "ResetStatistics",
    "RowBatches",
    "Step",
    "Trace",
    "Watch",
    "__version__",
    "accelerate",
    "backward",
    "conform",
    "diagnose",
    "fit_compiled",
    "fold",
    "fold_statistics",
    "forward",
    "from_keras",
    "gradients",
    "infer",
    "merge_moments",
    "moments",
    "moments_one_axis_at_a_time",
    "multiply_and_add",
    "normalize",
    "recalibrate",
    "repair",
    "restore",
    "samples_per_statistic",
    "scale_and_shift",
    "to_keras",
    "trace",
    "unbiased_variance",
]
__version__: str
