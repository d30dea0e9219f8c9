"""BN117: each replica of a strategy has moving statistics of its own."""

import numpy as np

from batchnorm_mechanics.doctor.gaps import FLOOR, change, weighted
from batchnorm_mechanics.doctor.rule import Case, Findings, Rule


class ReplicasApart(Rule):
    """What is saved, and infers, is the first replica's share of the data."""

    severity = "warning"
    explains = ("BN201",)
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Compare the first replica's statistics with those of all replicas together."""
        for norm in case.norms:
            copies = norm.moving_on_replicas
            if len(copies) < 2:
                continue
            means, variances = map(np.array, zip(*copies, strict=True))
            with np.errstate(all="ignore"):
                # As of one batch of all, each replica with as many samples.
                all_of_them = means.mean(0), variances.mean(0) + means.var(0)
                epsilon = float(norm.layer.epsilon)
                gaps = change(all_of_them, copies[0], epsilon)
            is_number = np.isfinite([*all_of_them, gaps]).all(0)
            layer = weighted(gaps, norm.gamma)
            if is_number.all() and layer < FLOOR and gaps.max(initial=0.0) < 4 * FLOOR:
                continue
            yield self.finding(
                norm.name,
                channels=~(gaps < FLOOR) | ~is_number,
                cause="Under the strategy each replica moved statistics by its own part of the "
                "data, and these are unlike one another; saved are the first replica's.",
                remedy="Train with bnm.BatchNormalization, or bnm.accelerate(model), whose "
                "replicas share their statistics; for this model, re-estimate on one device.",
                replicas=len(copies),
                gap=layer if is_number.all() else float("nan"),
                channels_of=norm.channels,
            )
