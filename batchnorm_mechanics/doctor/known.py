"""The findings of a model, among which the causes of one are looked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchnorm_mechanics.doctor.findings import SEVERITIES, Finding


class Known:
    """The findings of a model, among which the causes of one are looked for.

    Args:
        findings: by their keys.
        order: names of the layers in the order in which the model calls them.
        rules: by their codes.
    """

    def __init__(
        self, findings: dict[str, Finding], order: Sequence[str], rules: Mapping[str, Any]
    ) -> None:
        self.findings = findings
        self._rules = rules
        self.place = {name: number for number, name in enumerate(order)}

    def here(self, finding: Finding) -> str | None:
        """Return the worst that explains a finding at its layer or of the model as a whole."""
        return self._worst_here(finding, "explains")

    def perhaps_here(self, finding: Finding) -> str | None:
        """Return likewise what may explain it, if nothing else does."""
        return self._worst_here(finding, "may_explain")

    def anywhere(self, finding: Finding) -> str | None:
        """Return what explains a finding whatever its layer."""
        found = self._explaining(finding, "explains_everywhere")
        return next((one.key for one in found), None)

    def before(self, finding: Finding) -> str | None:
        """Return the first that explains a finding at a layer that is called before."""
        here = self.place.get(finding.layer, len(self.place))
        found = self._explaining(finding, "explains_later")
        places = {one.key: self.place[one.layer] for one in found if one.layer in self.place}
        earlier = [key for key, place in places.items() if place < here]
        return min(earlier, key=places.__getitem__, default=None)

    def _worst_here(self, finding: Finding, how: str) -> str | None:
        found = [
            one
            for one in self._explaining(finding, how)
            if one.layer == "" or (one.layer == finding.layer and _can_explain(one, finding))
        ]
        worst = min(found, key=lambda one: (SEVERITIES.index(one.severity), one.code), default=None)
        return None if worst is None else worst.key

    def _explaining(self, finding: Finding, how: str) -> list[Finding]:
        """Return what explains a finding by the attribute of its rule that is named `how`."""
        return [
            one
            for one in self.findings.values()
            if finding.code in getattr(self._rules[one.code], how)
        ]


def _can_explain(one: Finding, other: Finding) -> bool:
    """Whether a finding is loud enough for another at its layer, and has a channel of it."""
    is_loud = one.severity != "note" or other.severity == "note"
    channels = set(one.channels), set(other.channels)
    return is_loud and (not all(channels) or not channels[0].isdisjoint(channels[1]))
