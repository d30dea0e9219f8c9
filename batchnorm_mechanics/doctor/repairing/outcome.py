"""Whether a repair did good: what was measured before and after it."""

import math

from batchnorm_mechanics.doctor.findings import Diagnosis

# Of the samples, how many at most change sides without any of it being the repair's fault.
_CHANGING_SIDES = 0.1
_LEAST_DROP = 0.01
_LEAST_GROWTH = 1.1


def worsening(before: Diagnosis, after: Diagnosis) -> str | None:
    """Say that a repair made a model worse on the data it was given; None if it did not.

    Accuracy decides, and the loss where there is none. A drop counts if chance does not explain it:
    of n samples of which a tenth changes sides at random, the accuracy moves by sqrt(0.1 / n), and
    three times that, or one point if that is more, is the limit. A loss counts if it grows by a
    tenth. Where statistics, gamma or beta were not finite, nothing can get worse.

    Args:
        before: the diagnosis before.
        after: that after, of the same data.

    Example:
        >>> def measured(**measures):
        ...     return Diagnosis("net", ("bn",), (), samples=1000, measures=measures)
        >>> worsening(measured(accuracy=0.90), measured(accuracy=0.89)) is None
        True
        >>> worsening(measured(loss=0.1), measured(loss=0.5))
        'it made the model worse on these data, loss 0.1 before and 0.5 after, and was taken back'
    """
    # The outputs were no numbers, and what is right among them was so by chance. They may not show
    # it: kernels that compute a ReLU along with the layer before it can make NaN 0, and whether
    # TensorFlow uses such depends on the processor. So the weights are asked as well.
    spoilt = any(found.code == "BN101" for found in before.findings)
    if spoilt or math.isnan(before.measures.get("gap", 0.0)):
        return None
    for name, harm in (("accuracy", _has_dropped), ("loss", _has_grown)):
        if name not in before.measures or name not in after.measures:
            continue
        old, new = before.measures[name], after.measures[name]
        if not harm(old, new, before.samples):
            return None
        return (
            f"it made the model worse on these data, {name} {old:.4g} before and {new:.4g} after, "
            "and was taken back"
        )
    return None


def _has_dropped(old: float, new: float, samples: int) -> bool:
    limit = max(_LEAST_DROP, 3 * math.sqrt(_CHANGING_SIDES / max(samples, 1)))
    # Two quotients below 1 are each rounded by 2**-54 at most, and so is their difference: a drop
    # by the limit itself is none, whichever numbers it lies between.
    return old - new > limit + 2.0**-52


def _has_grown(old: float, new: float, _samples: int) -> bool:
    # What was NaN or infinite cannot get worse. Of a loss next to 0, a growth says nothing: float32
    # rounds logits of some 10 by as much as 1e-6, and kernels add them in orders of their own.
    return math.isfinite(old) and not new <= _LEAST_GROWTH * old + 1e-6
