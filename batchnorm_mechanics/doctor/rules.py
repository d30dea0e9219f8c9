"""The rules of the doctor: codes, names, and the story of each."""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import resources

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.findings import Severity


@dataclass(frozen=True)
class Rule:
    """What a code stands for.

    Attributes:
        code: such as "BN101".
        name: in a few words joined by hyphens.
        severity: of its findings where the rule does not know better.
        needs_data: whether weights and graph alone cannot tell.
    """

    code: str
    name: str
    severity: Severity
    needs_data: bool

    @property
    def story(self) -> str:
        """The whole story in Markdown: symptom, cause, threshold, remedy, a small example."""
        file = resources.files("batchnorm_mechanics.doctor") / "stories" / f"{self.code}.md"
        return file.read_text(encoding="utf-8")


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule("BN101", "non-finite-statistics", "error", needs_data=False),
        Rule("BN102", "negative-variance", "error", needs_data=False),
        Rule("BN103", "statistics-never-updated", "error", needs_data=False),
        Rule("BN104", "collapsed-variance", "warning", needs_data=False),
        Rule("BN105", "suspicious-momentum", "warning", needs_data=False),
        Rule("BN106", "unconverged-average", "warning", needs_data=False),
        Rule("BN107", "baked-training-flag", "warning", needs_data=False),
        Rule("BN108", "wrong-axis", "error", needs_data=False),
        Rule("BN109", "redundant-bias", "note", needs_data=False),
        Rule("BN110", "averaged-weights-stale-statistics", "warning", needs_data=False),
        Rule("BN111", "epsilon-below-precision", "warning", needs_data=False),
        Rule("BN112", "dead-gamma", "note", needs_data=False),
        Rule("BN113", "shared-layer", "warning", needs_data=False),
        Rule("BN114", "partly-frozen", "note", needs_data=False),
        Rule("BN115", "mean-variance-swapped", "error", needs_data=False),
        Rule("BN201", "train-inference-gap", "error", needs_data=True),
        Rule("BN202", "batch-dependent-inference", "error", needs_data=True),
        Rule("BN203", "domain-shift", "warning", needs_data=True),
        Rule("BN204", "precision-loss", "warning", needs_data=True),
        Rule("BN205", "non-finite-activations", "error", needs_data=True),
        Rule("BN206", "too-few-samples", "warning", needs_data=True),
    )
}


def matching(prefixes: Iterable[str], *, caller: str, argument: str) -> frozenset[str]:
    """Return the codes that are named, or begin so.

    Args:
        prefixes: codes, or beginnings of codes as "BN1".
        caller: the function to name in an error.
        argument: its argument that holds them, likewise.

    Raises:
        InputError: one of them fits no rule, or they are one string and no list of them.

    Example:
        >>> sorted(matching(["BN101", "bn20"], caller="repair", argument="only"))
        ['BN101', 'BN201', 'BN202', 'BN203', 'BN204', 'BN205', 'BN206']
    """
    if isinstance(prefixes, str):
        raise InputError(
            f"{caller}: `{argument}` must be a list of codes. "
            f"Received: {argument}={prefixes!r}. Write [{prefixes!r}]."
        )
    found: set[str] = set()
    for prefix in prefixes:
        codes = {code for code in RULES if prefix and code.startswith(prefix.upper())}
        if not codes:
            raise InputError(_unknown(prefix, caller, argument, "name rules"))
        found |= codes
    return frozenset(found)


def chosen(
    select: Collection[str] = (), ignore: Collection[str] = (), *, caller: str = "doctor"
) -> frozenset[str]:
    """Return the codes that are wanted.

    Args:
        select: codes, or beginnings of codes as "BN1"; none means all.
        ignore: likewise, taken away from those.
        caller: the function to name in an error.

    Raises:
        InputError: one of them fits no rule, or they are one string and no list of them.

    Example:
        >>> sorted(chosen(["BN20"], ["BN201", "BN205", "BN206"]))
        ['BN202', 'BN203', 'BN204']
    """
    wanted = matching(select, caller=caller, argument="select") if select else frozenset(RULES)
    return wanted - matching(ignore, caller=caller, argument="ignore")


def rule_of(code: str) -> Rule:
    """Return the rule with this code or name.

    Raises:
        InputError: there is none.

    Example:
        >>> rule_of("bn201").name, rule_of("dead-gamma").code
        ('train-inference-gap', 'BN112')
    """
    for rule in RULES.values():
        if code.upper() == rule.code or code.lower() == rule.name:
            return rule
    raise InputError(_unknown(code, "doctor", "code", "be that of a rule"))


def _unknown(code: str, caller: str, argument: str, expectation: str) -> str:
    known = [*RULES, *(rule.name for rule in RULES.values())]
    close = difflib.get_close_matches(code.upper(), known, n=1) or difflib.get_close_matches(
        code.lower(), known, n=1
    )
    return (
        f"{caller}: `{argument}` must {expectation}. Received: {argument}={code!r}. "
        + (f"Did you mean {close[0]!r}? " if close else "")
        + "`bnm doctor --rules` lists them all."
    )
