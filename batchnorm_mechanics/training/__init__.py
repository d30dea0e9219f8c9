"""Training small models fast: whole runs of batches inside one compiled function."""

from batchnorm_mechanics.training.fit import fit_compiled
from batchnorm_mechanics.training.rows import RowBatches

__all__ = ["RowBatches", "fit_compiled"]
