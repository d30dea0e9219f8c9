"""A page for each rule of the doctor: its story, and what the rule itself says of its part."""

import re

from batchnorm_mechanics.doctor.rule import Rule
from batchnorm_mechanics.doctor.rules import RULES

_CODE_OR_RULE = re.compile(r"^```.*?^```|`[^`\n]+`|^#.*?$|^ {4}.*?$|\bBN\d{3}\b", flags=re.M | re.S)
_HEAD = """\
# Rules

What `bnm doctor` looks for. Rules from BN101 read a model's weights and graph, those from BN200
need data. `bnm doctor --rules` prints this list, `bnm doctor --explain {example}` a rule's page.

| rule | what it is | severity | looks at | when it shows |
| --- | --- | --- | --- | --- |
"""


def pages() -> dict[str, str]:
    """Return the pages by name: the list of rules, and one for each."""
    rows = [
        f"| [{rule.code}]({rule.code}.md) | {rule.name} | {rule.severity} "
        f"| {_looks_at(rule)} | {_symptom(rule)} |"
        for rule in RULES.values()
    ]
    tree = "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(RULES) + "\n```\n"
    made = {"index.md": _HEAD.format(example=next(iter(RULES))) + "\n".join(rows) + tree}
    return made | {f"{rule.code}.md": _page(rule) for rule in RULES.values()}


def _page(rule: Rule) -> str:
    title, _, story = linked(rule.story, own=rule.code).partition("\n")
    facts = [f"Severity: {rule.severity}, where the rule does not know better"]
    facts.append(f"Looks at: {_looks_at(rule)}")
    if rule.refusal is not None:
        facts.append(f"`bnm repair` leaves it alone: {rule.refusal}")
    elif rule.actions or rule.estimates:
        done = [action.words for action in rule.actions]
        if rule.estimates is not None:
            done.append(f"estimate the {rule.estimates}'s statistics anew")
        facts.append(f"`bnm repair` can: {', then '.join(done)}")
    explained = sorted({*rule.explains, *rule.explains_everywhere, *rule.explains_later})
    if explained:
        facts.append(f"Can be the cause of: {', '.join(explained)}")
    listed = linked("\n".join(f"- {fact}" for fact in facts), own=rule.code)
    return f"{title}\n\n{listed}\n{story}"


def linked(text: str, *, own: str = "") -> str:
    """Return Markdown in which each rule's code leads to its page, but in code and headings.

    Example:
        >>> linked("see BN201 (`BN201`)")
        'see [BN201](BN201.md) (`BN201`)'
    """

    def link(found: re.Match[str]) -> str:
        known = found[0] in RULES and found[0] != own
        return f"[{found[0]}]({found[0]}.md)" if known else found[0]

    return _CODE_OR_RULE.sub(link, text)


def _looks_at(rule: Rule) -> str:
    return "data" if rule.needs_data else "weights and graph"


def _symptom(rule: Rule) -> str:
    """Return the first sentence of what a user sees."""
    found = re.search(r"^## Symptom\n+(.+?[.:;])\s", rule.story, flags=re.M | re.S)
    if found is None:
        raise ValueError(f"{rule.code}: its story must begin with a symptom")
    return re.sub(r"\s+", " ", found[1]).rstrip(":;").rstrip(".") + "."
