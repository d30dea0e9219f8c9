"""BN115: moving mean and variance were loaded in each other's place."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from batchnorm_mechanics.doctor.gaps import FLOOR, Gap
from batchnorm_mechanics.doctor.rule import Action, Case, Findings, NewValues, Rule, Stage

if TYPE_CHECKING:
    from batchnorm_mechanics.doctor.measuring import NormMeasured
    from batchnorm_mechanics.models.norms import Norm

# With fewer channels, means that are all positive are no rarity: 2**-8 by chance.
_FEWEST_CHANNELS = 8


def _swapped_back(norm: "Norm") -> Iterator[NewValues]:
    values: dict[str, Any] = {"moving_mean": norm.variance, "moving_variance": norm.mean}
    if norm.renorm:
        # Keras derives the moving variance from it with every step.
        values["moving_stddev"] = np.sqrt(np.maximum(norm.mean, 0) + norm.layer.epsilon)
    yield NewValues(norm.name, norm.layer, values)


SWAP = Action(
    name="swap", words="swap mean and variance", stage=Stage.WEIGHTS, new_values=_swapped_back
)


class MeanVarianceSwapped(Rule):
    """Variances of both signs beside means of one, or statistics that data fit crosswise."""

    severity = "error"
    parts_modes = True
    explains = ("BN102", "BN201", "BN203")
    # What stands in the variance's place is no variance to be judged.
    hides = ("BN104", "BN111")
    actions = (SWAP,)

    def check(self, case: Case) -> Findings:
        """Look at the signs, then at what data say."""
        for norm in case.norms:
            yield from self._by_signs(norm)
        for norm, measured, gap in case.heard():
            yield from self._by_data(norm, measured, gap)

    def _by_signs(self, norm: "Norm") -> Findings:
        mean, variance = norm.mean, norm.variance
        if norm.channels < _FEWEST_CHANNELS or not np.isfinite([mean, variance]).all():
            return
        negative = int((variance < 0).sum())
        # One channel below 0 may be a spoilt one; a tenth of them and more is how means look.
        if negative < max(2, norm.channels / 10) or mean.min() < 0 or np.median(mean) <= 0:
            return
        yield self.finding(
            norm.name,
            channels=range(norm.channels),
            cause="The moving variance has values of both signs and the moving mean none below 0: "
            "each was loaded in the other's place, as after a port that orders weights "
            "differently.",
            remedy="Swap the two with `bnm repair`, and in the script that ported the weights.",
            negative_variances=negative,
            lowest_variance=variance.min(),
            lowest_mean=mean.min(),
            chance=2.0**-norm.channels,
        )

    def _by_data(self, norm: "Norm", measured: "NormMeasured", gap: Gap) -> Findings:
        if (
            norm.channels < _FEWEST_CHANNELS
            or gap.own is None
            or gap.swapped is None
            or (norm.mean < 0).any()
            or not gap.swapped < FLOOR < gap.own / 4
            # Nothing to swap fits as well, where every number is NaN.
            or not np.isfinite(measured.pool.variance).all()
        ):
            return
        yield self.finding(
            norm.name,
            channels=np.ones(norm.channels, bool),
            cause="The moving mean is the data's variance, and the moving variance their mean.",
            remedy="Swap the two back: `bnm repair`, and load them in the right order.",
            gap=gap.own,
            gap_if_swapped=gap.swapped,
        )
