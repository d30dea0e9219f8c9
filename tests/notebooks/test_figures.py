"""A wrong number in a notebook's text is found, however it is written."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebooks.figures import stated, unfounded, written_in_sentences


def notebook(text, printed="", facts=(), **shown):
    """Return a notebook of one cell of code, with what it prints and shows, and one of text."""
    outputs = [new_output("stream", name="stdout", text=printed)] if printed else []
    if shown:
        data = {kind.replace("_", "/"): content for kind, content in shown.items()}
        outputs.append(new_output("execute_result", data=data, execution_count=1))
    code = new_code_cell("0", outputs=outputs, execution_count=1)
    return new_notebook(cells=[code, new_markdown_cell(text, metadata={"facts": [*facts]})])


GIVEN = [
    ("It is 0.605.", "0.6052"),
    ("It is 0.61.", "0.605"),
    ("It is 40.", "39.8"),
    ("It is 60.", "(60, 784)"),
    ("It is 2.", "[2. 3.]"),
    ("It is 97.0 %.", "accuracy 0.9702"),
    ("It is 97.0%.", "97.02 %"),
    ("Some 97 percent.", "0.9702"),
    ("There are 60,000 and 10\u202f000.", "60000 10,000"),
    ("It is −0.5.", "-0.5"),
    ("It is -0.5.", "-0.5"),
    ("It is 2.1e-6.", "2.12e-06"),
    ("It is 2.1 × 10⁻⁶.", "0.00000212"),
    ("It is about 10⁻⁶.", "1.3e-06"),
    ("From 2.5-3.5.", "2.5 3.5"),
    ("A small-3 dash.", "3"),
]
NOT_GIVEN = [
    ("It is 0.605.", "0.61"),
    ("It is 0.62.", "0.605"),
    ("It is 40.", "39.4"),
    ("It is 3.", "2.9"),
    ("It is 97.0 %.", "0.9692"),
    ("It is 97 percent.", "0.958"),
    ("There are 60,000.", "60,001"),
    ("There are 60,000.", "60 0"),
    ("There are 6000.", "60000"),
    ("It is −0.5.", "0.5"),
    ("It is 0.5.", "-0.5"),
    ("It is -0.5.", "0.5"),
    ("It is 2.1e-6.", "2.1e-05"),
    ("It is 2.1 × 10⁻⁶.", "2.1"),
    ("It is about 10⁻⁶.", "1.3e-05"),
    ("From 2.5-3.6.", "2.5 3.5"),
    ("It takes 12s.", "11"),
    ("| mean |\n| --- |\n| 2.6 |", "2.5"),
]


@pytest.mark.parametrize(("text", "printed"), GIVEN)
def test_a_number_that_code_gives_may_stand_in_the_text(text, printed):
    assert list(unfounded(notebook(text, printed))) == []


@pytest.mark.parametrize(("text", "printed"), NOT_GIVEN)
def test_a_number_that_no_code_gives_is_found(text, printed):
    assert len(list(unfounded(notebook(text, printed)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a span `x = 3.7`, and ``a ` 3.7``",
        "```python\nx = 3.7\n```",
        "a formula $3.7 x$, over\ntwo $3.7\nx$ lines",
        "$$\n3.7\n$$",
        "[a link to 3.7](02_it.ipynb) and <https://example.org/3.7>",
        "## Heading 3.7",
        "1. a list\n2. of two",
        "Algorithm 2, sec. 3.1, Keras 3, a 95 % interval",
        "float32, BN201, x1",
        "<!-- 3.7 -->",
    ],
)
def test_what_is_no_statement_is_not_counted(text):
    assert stated(text) == []


def test_a_number_beside_what_is_not_counted_is_found():
    text = "`code` 1.5 $x$ 2.5 [link](a.md) 3.5\n\n## 9\n\n4.5 costs $5.5"
    assert [figure.text for figure in stated(text)] == ["1.5", "2.5", "3.5", "4.5", "5.5"]


def test_a_fact_may_stand_in_its_own_cell_alone():
    assert list(unfounded(notebook("Published in 2015: 98.84 %.", facts=["2015", "98.84"]))) == []
    made = notebook("Published in 2015.", facts=["2015"])
    made.cells.append(new_markdown_cell("Published in 2015."))
    assert list(unfounded(made)) == ["cell 2: 2015 stands in the text, and no code gives it"]


def test_a_fact_that_is_not_in_its_cell_is_found():
    assert list(unfounded(notebook("In those days.", facts=["2015"]))) == [
        "cell 1: the fact 2015 does not stand in its text"
    ]


def test_a_table_and_a_sentence_give_numbers_and_a_chart_and_a_name_of_an_object_do_not():
    table = "<style>td { width: 7.25px }</style><table><tr><td>0.605</td></tr></table>"
    assert list(unfounded(notebook("0.605", text_html=table, text_plain="<T at 0x7f>"))) == []
    assert len(list(unfounded(notebook("7.25", text_html=table)))) == 1
    sentence = {"text_markdown": "It is **0.605**.", "text_plain": "<Markdown at 7.25>"}
    assert list(unfounded(notebook("0.605", **sentence))) == []
    assert len(list(unfounded(notebook("7.25", **sentence)))) == 1
    chart = {"image_svg+xml": "<svg><text>0.605</text></svg>", "text_plain": "<Chart 7.25>"}
    assert len(list(unfounded(notebook("0.605 7.25", **chart)))) == 2


def test_what_code_writes_into_a_sentence_is_given_by_other_code():
    code = 'Markdown(f"Of {n:.2f} % some 34 %, or " + ("45 %" if n else "none"))'
    assert [figure.text for figure in stated(written_in_sentences(code))] == ["34 %", "45 %"]
    assert stated(written_in_sentences('Markdown("It is {0:.2f}".format(x))')) == []
    made = notebook("", printed="0.34", text_markdown="Of 7.00 % some 34 %, or 45 %")
    made.cells[0].source = f"%pip list\n{code}"
    assert list(unfounded(made)) == ["cell 0: 45 % stands in the text, and no code gives it"]
