"""Whether the figures in a notebook's text are figures that its code gives."""

import ast
import html
import re
from dataclasses import dataclass
from decimal import Decimal

# Where numbers are no statements: code, formulas, links, headings, comments, list numbers, and
# names: a place in a paper, a library with its version, "95 % interval". Longest marks first: `$`
# must not cut `$$` in two.
_ASIDE = re.compile(
    r"""
    ^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)    # a block of code
    | <!--.*?-->
    | \$\$.*?\$\$ | \\\[.*?\\\] | \\\(.*?\\\)
    | \\begin\{(?P<env>[a-z*]+)\}.*?\\end\{(?P=env)\}
    | (?P<ticks>`+).+?(?P=ticks)             # a code span
    | \$(?=\S)(?:[^$\n]|\n(?!\s*\n))+?(?<=\S)\$
    | !?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\) # a link, with its text
    | <https?:[^>]*> | https?://\S+
    | ^\ {0,3}\#{1,6}\ [^\n]*                # a heading
    | ^\s*\d+[.)]\s                          # the number of a list's item
    | \b(?:[Aa]lgorithm|Alg\.|[Ss]ection|[Ss]ec\.|[Ll]ine|l\.|Figure|Fig\.|Table|Theorem
        |Keras|Python|PyTorch|TensorFlow)\s\d+(?:\.\d+)*
    | \b95[\s\u00a0\u202f]?%\s(?:confidence\s)?intervals?
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SPACES = "\u00a0\u202f\u2009"
# A sign counts where nothing stands before it: in 2-3 and "mid-90" it is none.
_NUMBER = re.compile(
    rf"""
    (?<![\w.]) (?P<sign>(?<![\w)\]%])[-+−])?
    (?<![A-Za-z_\d.]) (?P<digits> \d{{1,3}}(?:[,{_SPACES}]\d{{3}})+(?!\d)(?:\.\d+)?
        | \d+(?:\.\d+)? | \.\d+ )
    (?: [eE](?P<e>[-+−]?\d+)
        | \s?[×·x]\s?10(?:\^\{{?(?P<caret>[-−]?\d+)\}}?|(?P<sup>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+))
        | (?P<power>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+) )?
    (?P<percent>[\s{_SPACES}]?%|\spercent\b|\sper\scent\b)?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Figure:
    """A number as it is written.

    Attributes:
        text: as it stands there.
        value: what it says.
        unit: of its last digit.
        digits: how many it shows, leading zeros of a fraction but one left out.
        is_percent: whether a percent sign follows.
    """

    text: str
    value: Decimal
    unit: Decimal
    digits: int
    is_percent: bool

    def is_among(self, given):
        """Return whether one of the figures given is this one, rounded to its digits.

        One digit alone is to be exact: 3 is no rounded 2.6. A percentage may be given as a share.
        """
        for other in given:
            values = [other.value]
            if self.is_percent and not other.is_percent:
                values.append(other.value * 100)
            allowed = self.unit / 2 if self.digits > 1 else 0
            if any(abs(value - self.value) <= allowed for value in values):
                return True
        return False


def figures(text):
    """Return the numbers that stand in a text."""
    return [_figure(match) for match in _NUMBER.finditer(text)]


def _figure(match):
    digits = re.sub(rf"[,{_SPACES}]", "", match["digits"])
    exponent = match["e"] or match["caret"] or (match["sup"] or "").translate(_SUPERSCRIPT) or "0"
    scale = Decimal(10) ** int(exponent.replace("−", "-"))
    value, unit = Decimal(digits), Decimal(1).scaleb(-len(digits.partition(".")[2]))
    if match["power"]:  # 10⁻⁶
        value = value ** int(match["power"].translate(_SUPERSCRIPT))
        unit, scale = value, Decimal(1)
    sign = -1 if match["sign"] in ("-", "−") else 1
    return Figure(
        text=match[0].strip(),
        value=sign * value * scale,
        unit=unit * scale,
        digits=len(digits.replace(".", "")),
        is_percent=match["percent"] is not None,
    )


def stated(markdown):
    """Return the numbers that a cell of text states."""
    # A space in place of what is left out: "5`x`" is not "5", and "`a`5" not a name.
    return figures(_ASIDE.sub(" ", markdown))


def shown(notebook, *, sentences=True):
    """Return all numbers that the code of a notebook prints or shows as its result.

    Of a chart none: its axis has a number for everything. Without `sentences`, what
    Markdown(f"...") shows is left out.
    """
    return [
        figure
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if sentences or "text/markdown" not in output.get("data", {})
        for text in _texts(output)
        for figure in figures(text)
    ]


def _texts(output):
    if output.output_type == "stream":
        return [output.text]
    data = output.get("data", {})
    if "text/markdown" in data:  # Beside it stands the repr of an object, with its address.
        return [data["text/markdown"]]
    if "text/html" in data:
        plain = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", data["text/html"], flags=re.DOTALL)
        return [html.unescape(re.sub(r"<[^>]*>", " ", plain))]
    # So it does beside a picture or a widget.
    return [data["text/plain"]] if [*data] == ["text/plain"] else []


def written_in_sentences(source):
    """Return the fixed parts of the sentences that code shows by Markdown(f"...")."""
    parts = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "Markdown":
            # Format specifications, as .2f, are strings in the tree, too.
            formats = {
                part
                for node in ast.walk(call)
                if isinstance(node, ast.FormattedValue)
                for part in ast.walk(node)
            }
            parts += [
                node.value
                for node in ast.walk(call)
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node not in formats
            ]
    # What str.format puts in is written in braces, too.
    return re.sub(r"\{[^{}]*\}", " ", "\n".join(parts))


def unfounded(notebook):
    """Yield a line for each number in the text that neither the code nor a source gives.

    A cell's metadata list as `facts` what comes from a source.
    """
    given, given_apart = shown(notebook), shown(notebook, sentences=False)
    for number, cell in enumerate(notebook.cells):
        facts = [str(fact) for fact in cell.metadata.get("facts", [])]
        for fact in facts:
            if fact not in cell.source:
                yield f"cell {number}: the fact {fact} does not stand in its text"
        if cell.cell_type == "code":
            # A magic is no Python.
            plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)
            said, sources = stated(written_in_sentences(plain)), given_apart
        else:
            said, sources = stated(cell.source), given
        known = [figure for fact in facts for figure in figures(fact)]
        for figure in said:
            exact = any(figure.value == fact.value for fact in known)
            if not exact and not figure.is_among(sources):
                yield f"cell {number}: {figure.text} stands in the text, and no code gives it"
