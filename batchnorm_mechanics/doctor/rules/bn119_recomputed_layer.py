"""BN119: the backward pass computes the layer again, and the statistics move again."""

import math

from batchnorm_mechanics._keras import recomputes
from batchnorm_mechanics.doctor.rule import Case, Findings, Rule


class RecomputedLayer(Rule):
    """Recomputed to save memory, Keras's layer fails in a graph, and moves twice without one."""

    severity = "warning"
    may_explain = ("BN201",)
    refusal = "it is about training: bnm.accelerate(model) before it"

    def check(self, case: Case) -> Findings:
        """Look at the scope in which each layer of Keras's own was made."""
        for norm in case.norms:
            if norm.subtracts_the_mean_first or not norm.layer.trainable:
                continue
            sizes = [math.prod(size or 1 for size in call.shape) for call in norm.calls]
            if recomputes(norm.layer, max(sizes, default=0)):
                severity, suits = case.told_by_training(norm, self.severity)
                yield self.finding(
                    norm.name,
                    severity=severity,
                    cause="It was made within a keras.RematScope: `fit` fails at it, or, with "
                    "run_eagerly=True, each step computes it again and moves its statistics again.",
                    remedy="bnm.accelerate(model), or bnm.BatchNormalization, moves them once a "
                    "step; or make the layer outside of the scope.",
                    **suits,
                )
