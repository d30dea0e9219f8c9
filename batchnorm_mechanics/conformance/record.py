"""What conformance finds, as frozen data: checks, cases and conventions."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

Status = Literal["pass", "fail", "measured", "skipped"]

# What a check may be about; each is one output of a subject.
TRAINING_OUTPUT = "training output"
INFERENCE_OUTPUT = "inference output"
MOVING_MEAN = "moving mean"
MOVING_VARIANCE = "moving variance"
DX = "dx"
DGAMMA = "dgamma"
DBETA = "dbeta"
STATISTICS = (MOVING_MEAN, MOVING_VARIANCE)
GRADIENTS = (DX, DGAMMA, DBETA)
OUTPUTS = (TRAINING_OUTPUT, INFERENCE_OUTPUT, *STATISTICS, *GRADIENTS)
# When it was asked for, if not as usual: what the cases that follow something up add to its name.
ALONE = " of one sample alone"
AGAIN = " asked again"
INFERRED = " after inference"
LOADED = " after loading"
STEP_LATER = " one step after loading"
# The longer one first: it ends like the other.
_WHEN = (ALONE, AGAIN, INFERRED, STEP_LATER, LOADED)
# And where, if not on the first replica: the number follows.
ON_REPLICA = " on replica "


@cache
def parts(what: str) -> tuple[str, str]:
    """Return an output's name and when it was asked for.

    Example:
        >>> parts("moving mean after loading")
        ('moving mean', ' after loading')
    """
    when = next((when for when in _WHEN if what.endswith(when)), "")
    if ON_REPLICA in what:
        when = what[what.index(ON_REPLICA) :]
    return what.removesuffix(when), when


def replica_of(when: str) -> int:
    """Return which replica was asked, counted from 0.

    Example:
        >>> replica_of(" on replica 2"), replica_of(" after loading")
        (1, 0)
    """
    return int(when.removeprefix(ON_REPLICA)) - 1 if when.startswith(ON_REPLICA) else 0


@dataclass(frozen=True)
class Check:
    """One output of a subject beside the oracle's.

    Attributes:
        what: which output, one of the names above or a behaviour in words.
        passed: whether every element lies within its tolerance.
        absolute, relative, ulps: the largest differences, each over all elements by itself; None
            where nothing could be compared.
        tolerance: the absolute tolerance of the element that comes closest to its own, or exceeds
            it the most.
        error: the absolute error of that element.
        reason: what is wrong in words, where numbers do not say it (raised, hung, wrong shape).
        diagnosis: the name of the mistake that explains a failure, or None.
        raised: the type of the exception where the subject raised one, or None.
        where: the last line of the subject's own code that it came through, or None.
        limit: what the subject does not take, by a word of `limits.WORDS`, where that is all that
            came of asking; such a check has nothing to judge, and passes.
    """

    what: str
    passed: bool
    absolute: float | None = None
    relative: float | None = None
    ulps: float | None = None
    tolerance: float | None = None
    error: float | None = None
    reason: str | None = None
    diagnosis: str | None = None
    raised: str | None = None
    where: str | None = None
    limit: str | None = None

    @property
    def is_answer(self) -> bool:
        """Whether it compares what was computed: inputs and statistics may stay as given."""
        computed = (TRAINING_OUTPUT, INFERENCE_OUTPUT, *GRADIENTS)
        return self.absolute is not None and parts(self.what)[0] in computed


@dataclass(frozen=True)
class CaseResult:
    """What came of one case.

    Attributes:
        case: the case's name.
        group: what the case is about, such as "axes" or "offset".
        status: "pass"; "fail"; "measured" if what came is shown and not judged, since the dtype
            has no digit left there or nobody defines what is due; "skipped" if the subject is not
            made for it.
        checks: one for each output.
        reason: why it was skipped or only measured.
        seconds: how long it took.
        shape, kept, dtype: of the input, as in `Case`; empty where there was none.
        deviations: how many standard deviations the data's mean is away from 0, about.
    """

    case: str
    group: str
    status: Status
    checks: tuple[Check, ...] = ()
    reason: str | None = None
    seconds: float = 0.0
    shape: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    dtype: str = ""
    deviations: float = 0.0

    @property
    def wrong(self) -> tuple[Check, ...]:
        """The checks that failed, in a case that did."""
        failed = self.status == "fail"
        return tuple(check for check in self.checks if failed and not check.passed)


@dataclass(frozen=True)
class Conventions:
    """What a subject does, found from its behaviour alone; None where it could not be told.

    Attributes:
        moving_variance: which variance its moving average takes in; "none" if nothing moves,
            "other" if it is neither.
        momentum_weighs: whether its momentum weighs the old value or the new one.
        default_momentum: in the subject's own meaning.
        epsilon_place: where epsilon is added: 1/sqrt(variance + epsilon), or
            1/(sqrt(variance) + epsilon).
        default_epsilon: epsilon when none is set.
        initial_mean, initial_variance: moving statistics before any batch.
        axis_kept: kept axis when none is set, of a rank-4 input: -1 or 1.
        default_mode: what a call without a mode gives.
        moves_in_inference: whether statistics change in inference.
        one_sample: what it does with a single sample behind a statistic: "normalizes" (the output
            is beta) or "refuses".
        empty_batch: "refuses", "ignores" it (statistics stay), or "poisons" them (NaN, or worse).
        large_mean: how the error grows with mean/std: "exact" (not at all), "proportional" (one
            digit lost for each digit of mean/std), or "quadratic" (two digits lost).
    """

    moving_variance: Literal["biased", "unbiased", "none", "other"] | None = None
    momentum_weighs: Literal["old", "new"] | None = None
    default_momentum: float | None = None
    epsilon_place: Literal["inside", "outside"] | None = None
    default_epsilon: float | None = None
    initial_mean: float | None = None
    initial_variance: float | None = None
    axis_kept: int | None = None
    default_mode: Literal["training", "inference"] | None = None
    moves_in_inference: bool | None = None
    one_sample: Literal["normalizes", "refuses"] | None = None
    empty_batch: Literal["refuses", "ignores", "poisons"] | None = None
    large_mean: Literal["exact", "proportional", "quadratic"] | None = None
