"""BN101: a weight of the layer is NaN or infinite."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.rule import (
    Action,
    Answer,
    Case,
    Channels,
    Circumstances,
    Findings,
    NewValues,
    Rule,
    Stage,
    Step,
)

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm


def _finite_affine(norm: "Norm") -> Iterator[NewValues]:
    values = {
        name: np.where(np.isfinite(old), old, start)
        for name, old, start in (("gamma", norm.gamma, 1.0), ("beta", norm.beta, 0.0))
        if old is not None and not np.isfinite(old).all()
    }
    if values:
        yield NewValues(norm.name, norm.layer, values)


RESET = Action(
    name="reset",
    words="set gamma to 1 and beta to 0, where they were not finite",
    stage=Stage.WEIGHTS,
    new_values=_finite_affine,
)


class NonFiniteStatistics(Rule):
    """The statistics, gamma or beta hold NaN or infinity, which they never forget."""

    severity = "error"
    explains = ("BN201", "BN203")
    explains_later = ("BN205",)
    spoils_outputs = True
    actions = (RESET,)

    def check(self, case: Case) -> Findings:
        """Look at every weight of one number a channel."""
        for norm in case.norms:
            bad = {name: ~np.isfinite(values) for name, values in norm.by_channel.items()}
            where = {name: of_one for name, of_one in bad.items() if of_one.any()}
            if where:
                counts: dict[str, Any] = {
                    f"non_finite_{name}": of_one.sum() for name, of_one in where.items()
                }
                yield self.finding(
                    norm.name,
                    channels=np.any(list(where.values()), axis=0),
                    cause=f"{' and '.join(where)} hold NaN or infinity, so these channels output "
                    "NaN; a moving average never forgets one bad batch.",
                    remedy="Re-estimate the statistics on clean data with `bnm repair`, which also "
                    "puts a spoilt gamma or beta back to 1 or 0; then look for the batch that did "
                    "it.",
                    **counts,
                )

    def steps(self, finding: Finding, norm: "Norm", circumstances: Circumstances) -> Answer:
        """Reset gamma and beta, and estimate the statistics of the channels that are spoilt."""
        affine, statistics = _spoilt(norm, affine=True), _spoilt(norm, affine=False)
        reset = [Step(RESET, norm.name, affine, (finding.key,))] if affine else []
        if not statistics:
            return reset
        estimated = circumstances.re_estimated(finding, norm, statistics)
        return reset or estimated if isinstance(estimated, str) else [*reset, *estimated]


def _spoilt(norm: "Norm", *, affine: bool) -> Channels:
    """Return the channels in which gamma or beta, or else any other weight, is not finite."""
    weights = norm.by_channel.items()
    chosen = [values for name, values in weights if (name in {"gamma", "beta"}) is affine]
    bad = ~np.isfinite(chosen).all(0) if chosen else np.zeros(norm.channels)
    return tuple(np.flatnonzero(bad).tolist())
