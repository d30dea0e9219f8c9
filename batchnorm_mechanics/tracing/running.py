"""Running statistics before and after one batch."""

from typing import Any

from batchnorm_mechanics.core import Cache
from batchnorm_mechanics.statistics import ExponentialMovingAverage, Policy
from batchnorm_mechanics.tracing.record import Step
from batchnorm_mechanics.tracing.steps import array

_NAMES = {"mean": "moving_mean", "variance": "moving_variance"}


def running_steps(policy: Policy, before: Any, cache: Cache | None) -> tuple[Step, ...]:
    """Return the running statistics before a batch and, in training, after it.

    Implements: sec. 3.1, "we use moving averages instead"; Alg. 2, l. 10 for a policy that
    averages batches.

    Args:
        policy: how batches become running statistics.
        before: its state before the batch.
        cache: of the batch, or None in inference, where nothing changes.

    Returns:
        Each field of the state as a step "... before", then "... after".
    """
    after = before
    if cache is not None:
        after = policy.update(before, cache.mean, cache.variance, cache.count)
    return (
        *state_steps(before, "before", "as they were"),
        *state_steps(after, "after", running_formula(policy) if cache is not None else "unchanged"),
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
            f"{_NAMES.get(field, field)}_{when}",
            {"mean": "E[x]", "variance": "Var[x]"}.get(field, ""),
            formula,
            "sec. 3.1",
            array(value),
        )
        for field, value in state._asdict().items()
    )


def running_formula(policy: Policy) -> str:
    """Return in short how a policy makes the new statistics of the old and the batch's."""
    if isinstance(policy, ExponentialMovingAverage):
        which = "unbiased" if policy.unbiased else "biased"
        return f"{policy.decay:g} · before + {1 - policy.decay:.6g} · batch ({which} variance)"
    return repr(policy)
