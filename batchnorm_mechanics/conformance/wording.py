"""Conventions in words, each in a line of its own or all of them in one.

Whose convention it is comes from what `find_conventions` measured of the libraries: Keras 3 has the
biased variance, momentum 0.99 for the old value and epsilon 1e-3; PyTorch the unbiased one,
momentum 0.1 for the new value and 1e-5; flax the biased one, 0.99 for the old value and 1e-5.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from batchnorm_mechanics.conformance.record import Conventions

# By the names of conventions; what is a number is put into words below.
_WORDS: dict[str, dict[Any, str]] = {
    "moving_variance": {
        "biased": "biased moving variance, as Keras; PyTorch's is unbiased",
        "unbiased": "unbiased moving variance, as PyTorch; Keras's is biased",
        "none": "moving statistics never move",
        "other": "moving variance neither the biased nor the unbiased one",
    },
    "momentum_weighs": {
        "old": "momentum weighs the old value, as Keras; PyTorch's weighs the new",
        "new": "momentum weighs the new value, as PyTorch; Keras's weighs the old",
    },
    "epsilon_place": {
        "inside": "epsilon inside the root, as the paper",
        "outside": "epsilon outside the root; the paper has it inside",
    },
    "axis_kept": {
        -1: "keeps the last axis by default, as Keras; PyTorch keeps axis 1",
        1: "keeps axis 1 by default, as PyTorch; Keras keeps the last",
    },
    "default_mode": {
        "inference": "inference by default, as Keras; PyTorch's modules begin in training",
        "training": "training by default, as PyTorch's modules; Keras: inference",
    },
    "moves_in_inference": {
        True: "inference moves the statistics",
        False: "inference leaves the statistics alone",
    },
    "one_sample": {
        "normalizes": "one sample behind a statistic: gives beta, as Keras; PyTorch refuses",
        "refuses": "one sample behind a statistic: refused, as PyTorch; Keras gives beta",
    },
    "empty_batch": {
        "refuses": "an empty batch is refused",
        "ignores": "an empty batch changes no statistics",
        "poisons": "an empty batch spoils the moving statistics",
    },
    "large_mean": {
        "exact": "a large mean costs no digits",
        "proportional": "a large mean costs one digit for each digit of mean/std",
        "quadratic": "a large mean costs two digits for each digit of mean/std",
    },
}


_DIGITS = {
    "exact": "loses no digits by a large mean",
    "proportional": "loses a digit for each of mean/std",
    "quadratic": "loses two digits for each of mean/std",
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
    numbers = {
        "default_momentum": _momentum(conventions),
        "default_epsilon": _epsilon(conventions.default_epsilon),
        "initial_mean": _initial(conventions),
    }
    lines = [
        numbers.get(each.name) or _WORDS.get(each.name, {}).get(getattr(conventions, each.name))
        for each in fields(conventions)
    ]
    return [line for line in lines if line is not None]


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


def in_short(conventions: Conventions) -> str:
    """Return what a subject does in one line, without what all do.

    Example:
        >>> in_short(Conventions("unbiased", "new", 0.1, default_mode="training"))
        'unbiased moving variance; momentum 0.1 weighs the new value; training by default'
    """
    return "; ".join(_parts(conventions))


def _parts(found: Conventions) -> Iterator[str]:
    if found.moving_variance in ("biased", "unbiased"):
        yield f"{found.moving_variance} moving variance"
    elif found.moving_variance is not None:
        yield _WORDS["moving_variance"][found.moving_variance]
    momentum = "" if found.default_momentum is None else f" {found.default_momentum:g}"
    if found.momentum_weighs is not None:
        yield f"momentum{momentum} weighs the {found.momentum_weighs} value"
    epsilon = "" if found.default_epsilon is None else f" {found.default_epsilon:g}"
    if found.epsilon_place is not None:
        yield f"epsilon{epsilon} {found.epsilon_place} the root"
    mean, variance = found.initial_mean, found.initial_variance
    if mean is not None and variance is not None and (mean, variance) != (0.0, 1.0):
        yield f"starts at mean {mean:g} and variance {variance:g}"
    if found.axis_kept is not None:
        yield "keeps the last axis" if found.axis_kept == -1 else f"keeps axis {found.axis_kept}"
    if found.default_mode is not None:
        yield f"{found.default_mode} by default"
    if found.moves_in_inference:
        yield _WORDS["moves_in_inference"][True]
    if found.one_sample is not None:
        yield {"normalizes": "one sample gives beta", "refuses": "refuses one sample"}[
            found.one_sample
        ]
    if found.large_mean is not None:
        yield _DIGITS[found.large_mean]
    if found.empty_batch is not None:
        yield _WORDS["empty_batch"][found.empty_batch]
