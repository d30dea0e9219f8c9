"""BN200: training mode and inference give other outputs, and no other rule says why."""

from collections.abc import Sequence

from batchnorm_mechanics.doctor.findings import Finding
from batchnorm_mechanics.doctor.rule import Case, Findings, Rule


class UnexplainedGap(Rule):
    """The outputs say that something is wrong where every rule is silent."""

    severity = "warning"
    parts_modes = True
    needs_data = True
    estimates = "layer"

    def check_last(self, case: Case, found: Sequence[Finding]) -> Findings:
        """Look whether what was found stands where the distance comes from."""
        from batchnorm_mechanics.doctor.rules import RULES

        if case.measured is None or case.measured.effects.relative is None:
            return
        effects = case.measured.effects
        if effects.severity == "note":
            return
        place = {name: number for number, name in enumerate(case.gaps)}
        makers = [call for call, _ in effects.makers]
        first = min((place.get(call.name, 0) for call in makers), default=len(place))
        for one in found:
            if (
                one.severity != "note"
                and _can_say_why(RULES[one.code])
                and (not one.layer or place.get(one.layer, 0) <= first)
            ):
                return
        names = ", ".join(_in_words(call.name, call.number) for call in makers)
        yield self.finding(
            makers[0].name if makers else "",
            severity=effects.severity,
            cause="Training mode and inference give other outputs, by more than chance, and no "
            + (f"rule says why; most of it comes from {names}." if names else "rule says why."),
            remedy="Look at this layer in both modes with `bnm.trace`. `bnm repair` re-estimates "
            "its statistics and keeps that if the outputs come nearer; please report what is left.",
            **({"comes_from": names} if names else {}),
            by_chance=effects.chance or 0.0,
            **effects.on_output,
        )


def _can_say_why(rule: Rule) -> bool:
    """Whether findings of a rule may be why training mode and inference differ."""
    return rule.parts_modes or "BN201" in (
        *rule.explains,
        *rule.may_explain,
        *rule.explains_everywhere,
    )


def _in_words(name: str, number: int) -> str:
    return name if number == 0 else f"{name} (call {number + 1})"
