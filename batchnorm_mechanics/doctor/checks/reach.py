"""How many steps an optimizer took, and how far they can have taken a weight."""

import math
from typing import Any

import keras
import numpy as np

# With more, no moving average of a usual momentum holds anything of its start.
_MOST_STEPS = 10_000
# A schedule hardly changes between two of as many looks.
_LOOKS = 200


def steps_of(optimizer: Any) -> int:
    """Return how many batches an optimizer has seen, those of which it gathered gradients too."""
    # Made under a strategy, a variable is no number by itself.
    return int(keras.ops.convert_to_numpy(optimizer._iterations))


def reach_of(optimizer: Any, *, largest: float = 1.0) -> float | None:
    """Return how far all steps of an optimizer together can have moved a weight, at most.

    Adam divides a mean of gradients, weighted by powers of beta_1, by the root of a mean of their
    squares, weighted by powers of beta_2. By Cauchy and Schwarz, step t is at most

        (1 - b1) sqrt((1 - r^t) / (1 - r)) / sqrt(1 - b2) * sqrt(1 - b2^t) / (1 - b1^t)

    learning rates, with r = b1^2 / b2: 1 at the first step, 7.3 after many.

    Args:
        optimizer: Keras's.
        largest: of the weight's absolute values on the way, for weight decay.

    Returns:
        The sum of these, of all steps; None where it is not known: of other optimizers than Adam
        and AdamW, of a learning rate that is a function, and beyond 10,000 steps. A learning rate
        that was set by hand or by a callback is taken for what it was all the time.

    Example:
        >>> optimizer = keras.optimizers.Adam(0.1)
        >>> weight = keras.Variable([0.0])
        >>> optimizer.apply([keras.ops.ones((1,))], [weight])
        >>> round(reach_of(optimizer), 6), round(float(weight[0]), 6)
        (0.1, -0.1)
    """
    steps = steps_of(optimizer)
    if steps > _MOST_STEPS or type(optimizer) not in {
        keras.optimizers.Adam,
        keras.optimizers.AdamW,
    }:
        return None
    rate = _largest_rate(optimizer, steps)
    one, two = float(optimizer.beta_1), float(optimizer.beta_2)
    if rate is None or not 0 <= one < math.sqrt(two) < 1:
        return None
    number = np.arange(1, steps + 1)
    ratio = one**2 / two
    gathered = np.sqrt((1 - ratio**number) / (1 - ratio)) * (1 - one) / math.sqrt(1 - two)
    in_rates = gathered * np.sqrt(1 - two**number) / (1 - one**number)
    decay = float(optimizer.weight_decay or 0.0) * largest
    return rate * float(in_rates.sum() + steps * decay)


def _largest_rate(optimizer: Any, steps: int) -> float | None:
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        looks = np.unique(np.linspace(0, max(steps - 1, 0), _LOOKS).astype(int))
        return max(float(rate(int(step))) for step in looks)
    return float(keras.ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else None
