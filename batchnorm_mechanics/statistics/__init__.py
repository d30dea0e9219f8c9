"""What inference normalizes with: policies that turn batch moments into running statistics."""

from batchnorm_mechanics.statistics.moving_average import (
    DebiasedMovingAverage,
    ExponentialMovingAverage,
)
from batchnorm_mechanics.statistics.policy import Policy, Statistics
from batchnorm_mechanics.statistics.population import AverageOfBatches, PooledPopulation
from batchnorm_mechanics.statistics.renormalization import Renormalization
from batchnorm_mechanics.statistics.virtual_batches import VirtualBatches

__all__ = [
    "AverageOfBatches",
    "DebiasedMovingAverage",
    "ExponentialMovingAverage",
    "Policy",
    "PooledPopulation",
    "Renormalization",
    "Statistics",
    "VirtualBatches",
]
