"""The rules of the doctor, each in a module of its own beside its story.

A module named as `bn105_suspicious_momentum`, with a `Rule` in it, is a rule: nothing lists them.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Collection, Iterable

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.rule import Rule


def found_here() -> dict[str, Rule]:
    """Return the rules of all modules in this folder, by their codes in order."""
    rules = [
        kind()
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
        for kind in vars(importlib.import_module(module.name)).values()
        if inspect.isclass(kind) and kind.__module__ == module.name and issubclass(kind, Rule)
    ]
    return {rule.code: rule for rule in sorted(rules, key=lambda rule: rule.code)}


RULES: dict[str, Rule] = found_here()


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
        ['BN101', 'BN200', 'BN201', 'BN202', 'BN203', 'BN204', 'BN205', 'BN206', 'BN207']
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
        >>> sorted(chosen(["BN20"], ["BN200", "BN201", "BN205", "BN206", "BN207"]))
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
