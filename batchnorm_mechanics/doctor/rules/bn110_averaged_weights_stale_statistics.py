"""BN110: the weights are averages, and the statistics are of what they were before."""

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule


class AveragedWeightsStaleStatistics(Rule):
    """No layer ever saw the activations that averaged weights give."""

    severity = "warning"
    parts_modes = True
    explains = ("BN201", "BN203")
    judges_whole_training = True
    estimates = "layer"

    def check(self, case: Case) -> Findings:
        """Look at the layers behind weights, unless data say that they are well."""
        past = case.past
        if past.ema_momentum is None:
            return
        for norm in case.norms:
            if not norm.layer.trainable or norm.name in past.estimated:
                continue
            if norm.calls and all(call.before is None for call in norm.calls):
                continue  # its input has passed no weight
            severity, gap = case.told_by_training(norm, self.severity)
            yield self.finding(
                norm.name,
                severity=severity,
                cause="The weights are averages over the training (`use_ema`), and the statistics "
                "are of what the weights were before averaging: no layer ever saw these "
                "activations.",
                remedy="Re-estimate the statistics of the averaged weights with `bnm repair`.",
                ema_momentum=past.ema_momentum,
                optimizer_steps=past.steps,
                **gap,
            )
