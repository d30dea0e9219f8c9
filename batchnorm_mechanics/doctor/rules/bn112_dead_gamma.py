"""BN112: channels that gamma has switched off."""

import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

# Such a channel has 1e-6 of the power of a usual one.
_TINY = 1e-3


class DeadGamma(Rule):
    """A gamma of 0, or tiny beside the others, left so by training or pruning."""

    severity = "note"
    refusal = "a gamma of 0 may be what training wanted: prune the channels, or train on"

    def check(self, case: Case) -> Findings:
        """Look at every gamma of a layer that has been trained."""
        for norm in case.norms:
            gamma = norm.gamma
            if gamma is None or not np.isfinite(gamma).any():
                continue
            size = np.abs(gamma)
            median = float(np.median(size[np.isfinite(size)]))
            dead = np.isfinite(size) & ((size == 0) | (size < _TINY * median))
            trains = norm.layer.trainable and case.past.steps > 0
            # A residual branch may begin with gamma 0 everywhere and be meant to leave it.
            if dead.any() and (norm.affine_has_moved or trains):
                yield self.finding(
                    norm.name,
                    channels=dead,
                    cause="With a gamma of 0, or tiny beside the others, a channel outputs beta "
                    "whatever its input, and hardly learns: training or pruning has switched it "
                    "off.",
                    remedy="Prune these channels, or ease the weight decay on gamma if that was "
                    "not meant.",
                    exactly_zero=int((size == 0).sum()),
                    median_gamma=median,
                    largest_dead=float(size[dead].max()),
                )
