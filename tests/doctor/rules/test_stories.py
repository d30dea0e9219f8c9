"""The story of each rule is whole, and its example is found by the rule that it tells of."""

import re

import pytest
from doctor.cases import case_of, found_by

from batchnorm_mechanics.doctor.rules import RULES

SECTIONS = ["Symptom", "Cause", "Threshold", "Remedy", "Example"]
WITHOUT_DATA = [rule for rule in RULES.values() if not rule.needs_data]


def example_in(story):
    (code,) = re.findall(r"```python\n(.*?)```", story, flags=re.DOTALL)
    return code


@pytest.mark.parametrize("rule", WITHOUT_DATA, ids=lambda rule: rule.code)
def test_a_story_has_its_title_and_all_sections(rule):
    assert rule.story.startswith(f"# {rule.code} {rule.name}\n")
    assert re.findall(r"(?m)^## (.*)$", rule.story) == SECTIONS
    assert max(map(len, rule.story.splitlines())) <= 110


@pytest.mark.parametrize("rule", WITHOUT_DATA, ids=lambda rule: rule.code)
def test_the_example_of_a_story_is_found_by_its_rule(rule):
    names = {}
    exec(example_in(rule.story), names)
    model = names["model"]
    (finding,) = found_by([rule.code], case_of(model))
    assert finding.layer == "bn"
    said = re.search(r"finds (?:all (\d+) channels|channel (\d+)) of `bn`", rule.story)
    if said:
        every, one = said.groups()
        assert finding.channels == (tuple(range(int(every))) if every else (int(one),))
