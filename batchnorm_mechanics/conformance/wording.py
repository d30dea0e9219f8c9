"""Say conventions in words: short lines for tables, and what each means for who carries weights.

Whose convention it is comes from what `find_conventions` measured of the libraries: Keras 3 has the
biased variance, momentum 0.99 for the old value and epsilon 1e-3; PyTorch the unbiased one,
momentum 0.1 for the new value and 1e-5; flax the biased one, 0.99 for the old value and 1e-5.
"""

from batchnorm_mechanics.conformance.record import Conventions

# Lines are indented by two in tables of 80 columns.
WIDTH = 76

_MOVING_VARIANCE = {
    "biased": "biased moving variance, as Keras; PyTorch's is unbiased",
    "unbiased": "unbiased moving variance, as PyTorch; Keras's is biased",
    "none": "moving statistics never move",
    "other": "moving variance neither the biased nor the unbiased one",
}
_MOMENTUM = {
    "old": "momentum weighs the old value, as Keras; PyTorch's weighs the new",
    "new": "momentum weighs the new value, as PyTorch; Keras's weighs the old",
}
_PLACE = {
    "inside": "epsilon inside the root, as the paper",
    "outside": "epsilon outside the root; the paper has it inside",
}
_AXIS = {
    -1: "keeps the last axis by default, as Keras; PyTorch keeps axis 1",
    1: "keeps axis 1 by default, as PyTorch; Keras keeps the last",
}
_MODE = {
    "inference": "inference by default, as Keras; PyTorch's modules begin in training",
    "training": "training by default, as PyTorch's modules; Keras: inference",
}
_ONE_SAMPLE = {
    "normalizes": "one sample behind a statistic: gives beta, as Keras; PyTorch refuses",
    "refuses": "one sample behind a statistic: refused, as PyTorch; Keras gives beta",
}
_EMPTY = {
    "refuses": "an empty batch is refused",
    "ignores": "an empty batch changes no statistics",
    "poisons": "an empty batch spoils the moving statistics",
}
_LARGE_MEAN = {
    "exact": "a large mean costs no digits",
    "proportional": "a large mean costs one digit for each digit of mean/std",
    "quadratic": "a large mean costs two digits for each digit of mean/std",
}


def describe(conventions: Conventions) -> list[str]:
    """Return what a subject does in short lines, one for each convention that could be told.

    Args:
        conventions: as `find_conventions` returned them.

    Returns:
        Lines of at most 76 columns, without a line for what is None.

    Example:
        >>> describe(Conventions(moving_variance="unbiased", default_epsilon=1e-5))
        ["unbiased moving variance, as PyTorch; Keras's is biased",
         "epsilon 1e-05 by default, as PyTorch and flax; Keras's is 0.001"]
    """
    lines = [
        _MOVING_VARIANCE.get(conventions.moving_variance or ""),
        _MOMENTUM.get(conventions.momentum_weighs or ""),
        _momentum(conventions),
        _PLACE.get(conventions.epsilon_place or ""),
        _epsilon(conventions.default_epsilon),
        _initial(conventions),
        _AXIS.get(conventions.axis_kept or 0),
        _MODE.get(conventions.default_mode or ""),
        _inference(conventions.moves_in_inference),
        _ONE_SAMPLE.get(conventions.one_sample or ""),
        _EMPTY.get(conventions.empty_batch or ""),
        _LARGE_MEAN.get(conventions.large_mean or ""),
    ]
    return [line for line in lines if line is not None]


def pitfalls(conventions: Conventions) -> list[str]:
    """Return what to do, or to beware of, where a subject differs from Keras's layer.

    Args:
        conventions: as `find_conventions` returned them.

    Returns:
        Lines of at most 76 columns; none for a subject that does as Keras does.

    Example:
        >>> pitfalls(Conventions(momentum_weighs="new", default_momentum=0.1))
        ['momentum: hand Keras 1 - momentum, here 0.9 for the default']
    """
    found = []
    if conventions.moving_variance == "unbiased":
        found.append("moving variance: n/(n-1) times Keras's, n samples per channel and batch")
    if conventions.moving_variance == "none":
        found.append("moving statistics: set them by hand, or inference uses the initial ones")
    if conventions.momentum_weighs == "new":
        default = conventions.default_momentum
        here = "" if default is None else f", here {round(1 - default, 9):g} for the default"
        found.append(f"momentum: hand Keras 1 - momentum{here}")
    if conventions.epsilon_place == "outside":
        found.append("epsilon: no value inside the root does the same for all channels")
    if conventions.default_epsilon not in (None, 1e-3):
        found.append(f"epsilon: set Keras's to {conventions.default_epsilon:g} when porting")
    if conventions.axis_kept == 1:
        found.append("axis: give Keras axis=1, or move the channels to the end")
    if conventions.default_mode == "training":
        found.append("mode: ask for inference by name, or the batch decides the output")
    if conventions.moves_in_inference:
        found.append("inference moves the statistics: the same input gives another output")
    if conventions.empty_batch == "poisons":
        found.append("empty batch: keep it away from training, statistics do not recover")
    if conventions.large_mean == "quadratic":
        found.append("large means: center the input first, float32 loses the variance")
    return found


def _momentum(conventions: Conventions) -> str | None:
    value = conventions.default_momentum
    if value is None:
        return None
    known = {
        ("old", 0.99): ", as Keras and flax",
        ("new", 0.1): ", as PyTorch",
        ("old", 0.9): ", as ONNX",
    }
    whose = known.get((conventions.momentum_weighs or "", value), "")
    return f"momentum {value:g} by default{whose}"


def _epsilon(value: float | None) -> str | None:
    if value is None:
        return None
    if value == 1e-3:
        return "epsilon 0.001 by default, as Keras; PyTorch and flax have 1e-05"
    if value == 1e-5:
        return "epsilon 1e-05 by default, as PyTorch and flax; Keras's is 0.001"
    return f"epsilon {value:g} by default; Keras's is 0.001, PyTorch's and flax's 1e-05"


def _initial(conventions: Conventions) -> str | None:
    mean, variance = conventions.initial_mean, conventions.initial_variance
    if mean is None or variance is None:
        return None
    usual = ", as everywhere" if (mean, variance) == (0.0, 1.0) else "; usual are 0 and 1"
    return f"moving mean {mean:g} and variance {variance:g} at first{usual}"


def _inference(moves: bool | None) -> str | None:
    if moves is None:
        return None
    return "inference moves the statistics" if moves else "inference leaves the statistics alone"
