"""BN111: an epsilon that the precision of the layer does not hold."""

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

if TYPE_CHECKING:
    from batchnorm_mechanics.models.norms import Norm


class EpsilonBelowPrecision(Rule):
    """Variance and epsilon together are less than rounding, or epsilon is no normal number."""

    severity = "warning"
    refusal = "epsilon is part of what the model computes: choose it where the model is built"

    def check(self, case: Case) -> Findings:
        """Hold every channel against the type that its layer computes in."""
        for norm in case.norms:
            yield from self._of(norm)

    def _of(self, norm: "Norm") -> Findings:
        epsilon, dtype = float(norm.layer.epsilon), str(norm.layer.compute_dtype)
        limits = ml_dtypes.finfo(dtype)
        usable = norm.is_finite & (norm.variance >= 0)
        # An input near its mean is off by at most u * |mean|; the variance of that rounding.
        noise = (float(limits.eps) / 2 * norm.mean) ** 2 / 3
        drowned = usable & (norm.variance + epsilon <= noise)
        scale = np.sqrt(norm.variance[usable].max()) if usable.any() else 0.0
        overflowing = usable & (
            norm.gain > float(limits.max) / max(scale, float(limits.smallest_normal))
        )
        about: dict[str, Any] = {
            "epsilon": epsilon,
            "compute_dtype": dtype,
            "smallest_normal": float(limits.smallest_normal),
        }
        if drowned.any() or overflowing.any():
            yield self.finding(
                norm.name,
                channels=drowned | overflowing,
                cause=f"Variance and epsilon together are less than the rounding of a {dtype} "
                "input, or so small that an input of usual size overflows the output.",
                remedy="Raise epsilon, to 1e-3 for instance, and train on or re-estimate.",
                channels_of_rounding=int(drowned.sum()),
                channels_of_overflow=int(overflowing.sum()),
                rounding_variance=float(noise[usable].max()),
                **about,
            )
        elif dtype == "float16" and epsilon < float(limits.smallest_normal):
            yield self.finding(
                norm.name,
                severity="note",
                cause="float16 has no normal number as small as this epsilon; Keras adds it in "
                "float32, but a runtime that computes in float16 loses it.",
                remedy="Nothing in Keras; before exporting to a float16 runtime, fold the layer "
                "with `bnm fold`, or raise epsilon.",
                **about,
            )
