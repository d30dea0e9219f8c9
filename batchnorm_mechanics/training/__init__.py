"""Training small models fast: whole runs of batches inside one compiled function."""

from batchnorm_mechanics.training.fit import fit_compiled

__all__ = ["fit_compiled"]
