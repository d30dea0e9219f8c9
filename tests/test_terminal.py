"""Names from a stranger's file do not steer the terminal that shows them."""

import io
import json

import pytest
from rich.table import Table
from rich.text import Text

from batchnorm_mechanics._io import json as written
from batchnorm_mechanics._io.terminal import Terminal, harmless

STEERING = ["\x1b[31m", "\x07", "\r", "\x9b2J", "\x7f", "\u202e", "\u2066", "\x00", "\udc80"]


def shown(what, **options):
    out = io.StringIO()
    Terminal(file=out, width=80, **options).print(what)
    return out.getvalue()


def table(text):
    found = Table(title=text)
    found.add_column(text)
    found.add_row(text)
    return found


@pytest.mark.parametrize("steering", STEERING)
@pytest.mark.parametrize("put", [str, Text, table], ids=["text", "rich text", "table"])
def test_a_terminal_shows_what_would_steer_it(steering, put):
    found = shown(put(f"a{steering}b"), color_system=None)
    assert steering not in found
    assert "a" in found


def test_its_own_colours_stay():
    assert "\x1b[31m" in shown(Text("a", "red"), force_terminal=True, color_system="standard")


@pytest.mark.parametrize("steering", STEERING)
def test_text_is_written_out(steering):
    assert steering not in harmless(f"a{steering}b")
    assert harmless(f"a{steering}b").startswith("a\\")


def test_lines_and_letters_stay():
    assert harmless("é\tσ²\n→") == "é\tσ²\n→"


@pytest.mark.parametrize("steering", STEERING)
def test_json_holds_the_same_text_and_nothing_that_steers(steering):
    text = written.text({f"a{steering}": f"b{steering}é"})
    assert steering not in text
    assert json.loads(text) == {f"a{steering}": f"b{steering}é"}
