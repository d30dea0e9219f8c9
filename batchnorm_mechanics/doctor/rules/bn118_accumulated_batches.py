"""BN118: gradients are gathered over several batches, and the statistics move with each."""

from batchnorm_mechanics.doctor.rule import Case, Findings, Rule

# As BN105 has it: from here down the last step outweighs all others together.
_LARGEST = 0.5


class AccumulatedBatches(Rule):
    """To the momentum a step of the optimizer is several, and each batch is one of its own."""

    severity = "warning"
    may_explain = ("BN201",)
    refusal = "it is about training: use bnm.VirtualBatches, or the root of the momentum"

    def check(self, case: Case) -> Findings:
        """Look at the momentum that is left of each layer's in one step of the optimizer."""
        batches = case.past.batches_a_step
        if batches == 1:
            return
        mild = []
        for norm in case.norms:
            of_batch = norm.momentum
            if of_batch is None or not norm.layer.trainable:
                continue
            # As `VirtualBatches` says of itself: it moves once for several.
            if getattr(norm.policy, "batches", 1) > 1:
                continue
            momentum = of_batch**batches
            if momentum > _LARGEST or of_batch <= _LARGEST:
                mild.append(momentum)
                continue
            severity, suits = case.told_by_training(norm, self.severity)
            yield self.finding(
                norm.name,
                severity=severity,
                cause=f"The optimizer takes one step for {batches} batches, and each of them moves "
                f"the statistics: in a step the old ones keep {momentum:.2g} of their weight, not "
                f"{of_batch:g}.",
                remedy="bnm.VirtualBatches(policy, batches) moves them once a step; or take the "
                f"root: momentum={of_batch ** (1 / batches):.4g}.",
                momentum=of_batch,
                momentum_by_step=momentum,
                batches_a_step=batches,
                **suits,
            )
        if mild:
            yield self.finding(
                "",
                severity="note",
                cause=f"The optimizer takes one step for {batches} batches; each is normalized by "
                "itself, and moves the statistics.",
                remedy="bnm.VirtualBatches(policy, batches) moves them once a step. Nothing makes "
                "the normalization that of one large batch.",
                layers=len(mild),
                momentum_by_step=min(mild),
                batches_a_step=batches,
            )
