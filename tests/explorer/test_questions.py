"""docs/explorer.md: each question is answered by the clicks that its line names."""

import re

import node
import numpy as np
import pytest

PAGE = (node.ROOT / "docs" / "explorer.md").read_text(encoding="utf-8")
LINES = dict(re.findall(r"^\| ([A-Z][^|]*\?) \| `([^`]+)` \|", PAGE, flags=re.M))


def neighbours(page):
    ring = page.page.get_by_role("slider", name="Training").first
    page.drag(ring, 70)
    words = page.page.locator(".moved").inner_text()
    assert "in training 3 of 3 outputs moved" in words
    assert "in inference 1" in words


def inference(page):
    page.page.get_by_role("button", name="What did Keras normalize with?").click()
    assert page.page.get_by_text("moving mean and variance. A new layer").is_visible()
    page.page.get_by_role("button", name="And with training=True?").click()
    np.testing.assert_allclose(
        page.numbers("source_training"), page.numbers("source_ours"), rtol=1e-6
    )


def epsilon(page):
    page.cell("training-xHat", 0, 0).hover()
    assert "0 / √(0 + 0.001)" in page.formula
    assert "ε alone keeps 0 / 0 away" in page.page.locator(".remarks").inner_text()
    page.write("epsilon", 0, 0, "0")
    note = page.page.locator(".note", has_text="divided by 0")
    assert note.is_visible()


def axes(page):
    page.page.get_by_role("button", name="Keras, axis=1", exact=True).click()
    assert "2 groups of 12 numbers each, one for each of: height." in page.page.inner_text("main")
    page.page.get_by_role("button", name="Keras, axis=-1").click()
    assert "one for each of: channels." in page.page.locator(".sum").inner_text()
    assert page.page.get_by_text("wrong here").is_visible()


def one(page):
    page.page.get_by_role("button", name="One sample less").click()
    assert not page.numbers("training-xHat").any()
    np.testing.assert_array_equal(page.numbers("training-y"), page.numbers("beta"))
    page.write("x", 0, 0, "77")
    np.testing.assert_array_equal(page.numbers("training-y"), page.numbers("beta"))
    assert "A batch of one" in page.page.locator(".remarks").inner_text()


def through_the_mean(page):
    assert page.page.locator(".balance").first.locator(".verdict").inner_text().startswith("Vani")
    page.page.get_by_label("through the mean").click()
    assert "Does not vanish" in page.page.locator(".balance").first.inner_text()
    assert abs(page.numbers("dX").sum(0)[0]) > 0.1


def momentum(page):
    assert "60.5 % the 0 and 1 that it began with" in page.page.locator(".saying").inner_text()
    page.page.get_by_role("button", name="Play").click()
    assert page.page.get_by_role("button", name="Pause").is_visible()
    assert page.page.locator(".chart-rings circle").count() == 10
    assert page.numbers("read")[0, 2] == 69


def unbiased(page):
    keras, *_, algorithm_2, _ = page.numbers("read")[:, 1]
    # The start has gone but for 13 %; the truth is 4.
    assert keras == pytest.approx(0.5 * 4 * 0.87 + 0.13, rel=0.15)
    assert algorithm_2 == pytest.approx(4, rel=0.15)
    page.write("sizes", 0, 0, "32")
    keras, *_, algorithm_2, _ = page.numbers("read")[:, 1]
    assert keras == pytest.approx(4 * 0.87 + 0.13, rel=0.1)
    assert algorithm_2 == pytest.approx(4, rel=0.1)


def float16(page):
    assert "E[x²] is past 65504" in page.page.locator(".saying").inner_text()
    assert np.isnan(page.numbers("digits")[:, 2]).all()
    page.page.get_by_role("radio", name="shifted two passes").click()
    digits = page.numbers("digits")
    np.testing.assert_allclose(digits[:, 4], digits[:, 1], rtol=1e-3)


def mine(page):
    page.page.get_by_role("radio", name="Flag baked in").click()
    assert "BN107" in page.page.locator(".findings").inner_text()
    page.page.get_by_role("radio", name="repaired").click()
    assert "remove the baked training flag" in page.page.locator("main").inner_text()
    assert "bnm explore model.keras --data x.npz" in page.page.locator("main").inner_text()


ANSWERS = {
    "Why do my neighbours change my output?": neighbours,
    "Why is inference different?": inference,
    "What is the momentum for?": momentum,
    "Why epsilon?": epsilon,
    "Why unbiased?": unbiased,
    "Which axes for images?": axes,
    "Why does a batch of one fail?": one,
    "What goes back through the mean?": through_the_mean,
    "Why does float16 break?": float16,
    "How do I see it in my model?": mine,
}


def test_every_question_of_the_page_is_tried():
    assert set(LINES) == set(ANSWERS)


@pytest.mark.browser
@pytest.mark.parametrize("question", ANSWERS)
def test_the_clicks_answer(explorer, question):
    ANSWERS[question](explorer(LINES[question]))
