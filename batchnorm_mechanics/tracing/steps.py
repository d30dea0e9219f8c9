"""The steps of a forward pass, and the moving statistics before and after it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._difference import elementwise_error
from batchnorm_mechanics.statistics import Policy
from batchnorm_mechanics.tracing.computation import Computation, array, wide_array
from batchnorm_mechanics.tracing.record import Step

_MOVING = {"mean": "moving_mean", "variance": "moving_variance"}


def forward_steps(computation: Computation) -> tuple[Step, ...]:
    """Return the steps of the computation in order, in its mode.

    Implements: Alg. 1 in training; Alg. 2, l. 11 in inference, plain and folded.

    Args:
        computation: what goes in.

    Returns:
        The steps; "mean", "variance" (biased in training), "inverse_std", "x_hat" and "y" are
        always among them.

    Raises:
        ValueError: a training batch is empty, or the mask does not fit.
    """
    made = _inference(computation) if computation.mode == "inference" else _training(computation)
    return (*_given(computation), *made)


def _given(computation: Computation) -> Iterator[Step]:
    yield Step("x", "x", "the input", "Alg. 1, input", array(computation.x), computation.x_note)
    if computation.mask is not None:
        yield Step(
            "mask",
            "",
            "True where a sample counts",
            "",
            array(computation.mask),
            "A sample that is masked out is not in the statistics; it is normalized all the same.",
        )


def _training(computation: Computation) -> Iterator[Step]:
    y, cache = computation.forward()
    yield Step("count", "m′", "samples behind each statistic", "sec. 3.2", array(cache.count))
    # A mask leaves groups of unequal size, whose plain means do not give the mean of all.
    if len(computation.axes) > 1 and computation.mask is None:
        yield from _axis_by_axis(computation)
    yield Step("mean", "μ_B", "Σ x / m′", "Alg. 1, mini-batch mean", array(cache.mean))
    yield Step(
        "variance",
        "σ²_B",
        "Σ (x − μ_B)² / m′",
        "Alg. 1, mini-batch variance",
        array(cache.variance),
        "The biased variance: divided by m′. It is the one that normalizes.",
    )
    yield Step(
        "unbiased_variance",
        "Var[x]",
        "m′/(m′ − 1) · σ²_B",
        "Alg. 2, l. 10",
        array(core.unbiased_variance(cache.variance, cache.count)),
        "Not used here; the paper estimates the population's variance with it.",
    )
    yield Step("deviation", "x − μ_B", "x − μ_B", "Alg. 1, normalize", array(cache.deviation))
    yield Step(
        "inverse_std",
        "1/√(σ²_B + ε)",
        f"1 / √(σ²_B + {computation.epsilon:g})",
        "Alg. 1, normalize",
        array(tf.squeeze(cache.inverse_std, computation.axes)),
    )
    yield Step("x_hat", "x̂", "(x − μ_B) / √(σ²_B + ε)", "Alg. 1, normalize", array(cache.x_hat))
    yield from _parameters(computation)
    yield Step("y", "y", "γ x̂ + β", "Alg. 1, scale and shift", array(y))


def _axis_by_axis(computation: Computation) -> Iterator[Step]:
    done: list[str] = []
    for moments in core.moments_one_axis_at_a_time(computation.x, computation.axes):
        done.append(str(moments.axis))
        over = "axis " + done[0] if len(done) == 1 else "axes " + ", ".join(done)
        yield Step(
            f"mean over {over}",
            "",
            f"mean of {'x' if len(done) == 1 else 'the means so far'} along axis {moments.axis}",
            "Alg. 1, mini-batch mean",
            array(moments.mean),
        )
        if len(done) > 1:
            yield Step(
                f"mean of variances along axis {moments.axis}",
                "",
                "what varies within the groups so far",
                "law of total variance",
                array(moments.mean_of_variances),
            )
            yield Step(
                f"variance of means along axis {moments.axis}",
                "",
                "what varies between them",
                "law of total variance",
                array(moments.variance_of_means),
            )
        yield Step(
            f"variance over {over}",
            "",
            "biased variance" if len(done) == 1 else "mean of variances + variance of means",
            "Alg. 1, mini-batch variance",
            array(moments.variance),
        )


def _parameters(computation: Computation) -> Iterator[Step]:
    for name, symbol, what, value in (
        ("gamma", "γ", "the scale", computation.gamma),
        ("beta", "β", "the offset", computation.beta),
    ):
        if value is not None:
            yield Step(name, symbol, what, "Alg. 1, scale and shift", array(value))


def _inference(computation: Computation) -> Iterator[Step]:
    x, axes, epsilon = (
        tf.cast(computation.x, computation.dtype),
        computation.axes,
        computation.epsilon,
    )
    mean, variance = computation.mean, computation.variance
    place = "Alg. 2, l. 11"
    yield Step("mean", "E[x]", computation.origin, place, array(mean))
    yield Step("variance", "Var[x]", computation.origin, place, array(variance))
    inverse_std, _ = folded(replace(computation, gamma=None, beta=None))
    yield Step(
        "inverse_std",
        "1/√(Var[x] + ε)",
        f"1 / √(Var[x] + {epsilon:g})",
        place,
        array(inverse_std),
    )
    x_hat = core.normalize(x, mean, variance, axes=axes, epsilon=epsilon)
    yield Step("x_hat", "x̂", "(x − E[x]) / √(Var[x] + ε)", place, array(x_hat))
    yield from _parameters(computation)
    y = computation.infer()
    yield Step("y", "y", "γ x̂ + β", place, array(y))
    scale, offset = folded(computation)
    yield Step("scale", "", "γ / √(Var[x] + ε)", place, array(scale))
    yield Step("offset", "", "β − scale · E[x]", place, array(offset))
    y_folded = core.multiply_and_add(computation.x, scale, offset, axes=axes)
    yield Step(
        "y_folded", "y", "scale · x + offset", place, array(y_folded), _fold_note(y, y_folded)
    )


def folded(computation: Computation) -> tuple[tf.Tensor, tf.Tensor]:
    """Return scale and offset of the one linear map that inference is.

    Implements: Alg. 2, l. 11.
    """
    # Scalars and arrays may stand side by side; the mean must have the widest shape.
    values = (computation.mean, computation.variance, computation.gamma, computation.beta)
    wide = tf.zeros(computation.kept_shape, computation.dtype)
    if all(value is None or value.shape.rank == 0 for value in values):
        wide = tf.zeros([], computation.dtype)
    return core.fold_statistics(
        wide if computation.mean is None else computation.mean + wide,
        computation.variance,
        computation.gamma,
        computation.beta,
        epsilon=computation.epsilon,
    )


def _fold_note(y: tf.Tensor, y_folded: tf.Tensor) -> str:
    apart = elementwise_error(wide_array(y), wide_array(y_folded))
    return (
        "One multiply and one add. "
        f"Its largest distance from y is {np.max(apart, initial=0.0):.3g}."
    )


def moving_steps(policy: Policy, before: Any, cache: core.Cache) -> tuple[Step, ...]:
    """Return the moving statistics before a batch and after it.

    Implements: sec. 3.1, "we use moving averages instead"; Alg. 2, l. 10 for a policy that
    averages batches.

    Args:
        policy: how batches become moving statistics.
        before: its state before the batch.
        cache: of the batch.

    Returns:
        Each field of the state as a step "... before", then "... after".
    """
    after = policy.update(before, cache.mean, cache.variance, cache.count)
    return (
        *state_steps(before, "before", "as they were"),
        *state_steps(after, "after", policy.formula),
    )


def state_steps(state: Any, when: str, formula: str) -> tuple[Step, ...]:
    """Return the fields of a policy's state as steps.

    Args:
        state: a NamedTuple that begins with mean and variance.
        when: "before" or "after".
        formula: how they came about.
    """
    return tuple(
        Step(
            f"{_MOVING.get(field, field)}_{when}",
            {"mean": "E[x]", "variance": "Var[x]"}.get(field, ""),
            formula,
            "sec. 3.1",
            array(value),
        )
        for field, value in state._asdict().items()
    )
