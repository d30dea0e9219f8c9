"""The catalogue of mistakes, each as what it does to the steps of the algorithm.

They come from what porters of batch normalization get wrong in public issue trackers, and from
taking each step of the algorithm in turn. A name says what the code does, and where a wrong and a
right choice exist, which one it took.
"""

from batchnorm_mechanics.conformance.mistakes.forward import FORWARD
from batchnorm_mechanics.conformance.mistakes.gradients import GRADIENT
from batchnorm_mechanics.conformance.mistakes.hypothesis import Hypothesis
from batchnorm_mechanics.conformance.mistakes.statistics import (
    EXCHANGED,
    INFERENCE,
    RELOADED,
    STATISTICS,
)

# In the order in which one is tried; those of saving and loading last.
CATALOGUE: tuple[Hypothesis, ...] = (
    *FORWARD,
    EXCHANGED,
    *GRADIENT,
    *STATISTICS,
    *INFERENCE,
    *RELOADED,
)
