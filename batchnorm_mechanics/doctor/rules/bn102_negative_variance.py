"""BN102: a variance is below 0."""

import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule


class NegativeVariance(Rule):
    """No variance is below 0: something else stands in its place."""

    severity = "error"
    explains = ("BN201", "BN203")
    explains_later = ("BN205",)
    # The others may be right.
    estimates = "channels"

    def check(self, case: Case) -> Findings:
        """Look at the moving variances; those that are not finite are BN101's."""
        for norm in case.norms:
            variance, epsilon = norm.variance, norm.layer.epsilon
            negative = np.isfinite(variance) & (variance < 0)
            if negative.any():
                yield self.finding(
                    norm.name,
                    channels=negative,
                    cause="No variance is below 0: the weights were loaded in the wrong order, "
                    "averaged with others, or computed as E[x^2] - E[x]^2, which cancels.",
                    remedy="Re-estimate the statistics on data with `bnm repair`, or load the "
                    "right ones.",
                    lowest_variance=variance[negative].min(),
                    epsilon=epsilon,
                    channels_with_undefined_output=int((variance[negative] + epsilon <= 0).sum()),
                )
