"""BN205: where values first are NaN or infinite, or are about to be."""

import numpy as np

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

# One doubling away from infinity.
_NEAR_OVERFLOW = float(np.finfo(np.float16).max) / 2


class NonFiniteActivations(Rule):
    """Finite data become NaN or infinity on their way through the model."""

    severity = "error"
    needs_data = True
    refusal = "the values come from a layer before it"

    def check(self, case: Case) -> Findings:
        """Look at the input of each layer in the order of the calls, then at the output."""
        if case.measured is None:
            return
        heard = list(case.heard())
        for number, (norm, found, _) in enumerate(heard):
            wrong = found.pool.non_finite > 0
            if wrong.any():
                after = [later.pool.non_finite.any() for _, later, _ in heard[number + 1 :]]
                yield self.finding(
                    norm.name,
                    channels=wrong,
                    cause="The data are finite; this is the first layer whose input is not.",
                    remedy="Look before it for overflow, or for weights that are NaN.",
                    values=int(found.pool.non_finite.sum()),
                    of_values=int(found.pool.count) * len(wrong),
                    layers_after=sum(after),
                    non_finite_outputs=case.measured.non_finite_outputs,
                    channels_of=len(wrong),
                )
                return
        if case.measured.non_finite_outputs:
            yield self.finding(
                "",
                cause="All batch norm layers get finite input, but the output is not finite.",
                remedy="Look at the last batch norm layer's weights and at the layers after it.",
                non_finite_outputs=case.measured.non_finite_outputs,
            )
            return
        for norm, found, _ in heard:
            if found.pool.largest > _NEAR_OVERFLOW:
                yield self.finding(
                    norm.name,
                    severity="warning",
                    cause="The input is within a factor of two of the largest number of float16.",
                    remedy="Keep the layer before this one in float32 or bfloat16, or scale it "
                    "down.",
                    largest=found.pool.largest,
                )
