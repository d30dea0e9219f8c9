"""Room 1 as a person uses it: numbers, the question, dragging, and what is odd."""

import numpy as np
import pytest

from batchnorm_mechanics import reference

pytestmark = pytest.mark.browser
SOURCE = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def check_numbers(page):
    """Hold every cell to the oracle."""
    x, epsilon = page.numbers("x"), float(page.numbers("epsilon")[0, 0])
    gamma, beta = page.numbers("gamma")[0], page.numbers("beta")[0]
    y, mean, variance, x_hat = reference.forward(x, gamma, beta, axes=0, epsilon=epsilon)
    moving = page.numbers("inference-mean")[0], page.numbers("inference-variance")[0]
    expected = {
        "training-count": np.full((1, x.shape[1]), len(x)),
        "training-mean": [mean],
        "training-deviation": x - mean,
        "training-variance": [variance],
        "training-xHat": x_hat,
        "training-y": y,
        "inference-deviation": x - moving[0],
        "inference-xHat": reference.normalize(x, *moving, axes=0, epsilon=epsilon),
        "inference-y": reference.infer(x, *moving, gamma, beta, axes=0, epsilon=epsilon),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(page.numbers(name), value, rtol=2e-5, atol=2e-5, err_msg=name)


def test_the_source_s_question_comes_first_and_is_answered_in_two_clicks(explorer):
    page = explorer()
    question = page.page.get_by_role("region", name="Why is the Keras layer")
    box = question.bounding_box()
    assert box["y"] < 450
    np.testing.assert_array_equal(page.numbers("source_x"), SOURCE)
    np.testing.assert_allclose(
        page.numbers("source_ours")[:, 0], [-0.9995557, 2.9995557], rtol=1e-6
    )
    np.testing.assert_allclose(page.numbers("source_keras")[0], [2.9990008, 4.9980016, 6.9970026])
    assert not page.page.get_by_text("Not with this batch").is_visible()
    page.page.get_by_role("button", name="What did Keras normalize with?").click()
    assert page.page.get_by_text("Not with this batch").is_visible()
    page.page.get_by_role("button", name="And with training=True?").click()
    assert page.page.get_by_text("The same numbers as Algorithm 1").is_visible()
    np.testing.assert_allclose(
        page.numbers("source_training"), page.numbers("source_ours"), rtol=1e-6
    )


def test_what_keras_computed_is_labelled_and_nothing_else(explorer):
    page = explorer("#batch?answer=2")
    grids = page.page.locator(".grid")
    for index in range(grids.count()):
        words = grids.nth(index).inner_text()
        assert ("from Keras" in words) == ("layer(x" in words)


def test_the_first_numbers_are_the_oracle_s(explorer):
    check_numbers(explorer())


def test_a_typed_number_changes_all_that_depends_on_it(explorer):
    page = explorer()
    page.write("x", 0, 1, "-7.25")
    page.write("gamma", 0, 0, "0.5")
    page.write("beta", 0, 2, "1e2")
    page.write("epsilon", 0, 0, "0.1")
    page.write("inference-mean", 0, 1, "3")
    page.write("inference-variance", 0, 1, "4")
    assert page.numbers("x")[0, 1] == -7.25
    check_numbers(page)


def test_the_grid_is_walked_and_changed_by_keys_alone(explorer):
    page = explorer()
    keys = page.page.keyboard
    for _ in range(60):
        keys.press("Tab")
        if page.page.evaluate("document.activeElement.dataset.cell") == "x.0.0":
            break
    keys.press("ArrowRight")
    keys.press("ArrowDown")
    assert page.page.evaluate("document.activeElement.dataset.cell") == "x.1.1"
    keys.type("9")
    assert page.numbers("x")[1, 1] == 9
    keys.press("Alt+ArrowUp")
    assert page.numbers("x")[1, 1] == np.float32(9.05)
    keys.press("Alt+Shift+ArrowDown")
    assert page.numbers("x")[1, 1] == np.float32(8.55)
    check_numbers(page)
    keys.press("Control+z")
    assert page.numbers("x")[1, 1] == 5


def test_a_number_is_dragged_sideways(explorer):
    page = explorer()
    page.drag(page.cell("x", 1, 2), -80)
    assert page.numbers("x")[1, 2] == 5
    check_numbers(page)
    page.page.get_by_role("button", name="Undo").click()
    np.testing.assert_array_equal(page.numbers("x"), SOURCE)


@pytest.mark.parametrize("fan", ["Training", "Inference"])
def test_a_dragged_sample_moves_the_others_in_training_alone(explorer, fan):
    page = explorer("#batch?x=1,2,3;4,5,6;2,0,1")
    before = {mode: page.numbers(f"{mode}-y") for mode in ("training", "inference")}
    ring = page.page.get_by_role("slider", name=f"Sample 2, {fan}")
    page.drag(ring, 60, drop=False)
    moved = page.numbers("x")
    page.page.mouse.up()
    assert moved[1, 0] != 4
    np.testing.assert_array_equal(np.delete(moved, 1, 0), [[1, 2, 3], [2, 0, 1]])
    after = {mode: page.numbers(f"{mode}-y") for mode in ("training", "inference")}
    assert (after["training"][:, 0] != before["training"][:, 0]).all()
    assert (after["inference"][:, 0] != before["inference"][:, 0]).tolist() == [False, True, False]
    assert "in training 3 of 3 outputs moved" in page.page.locator(".moved").inner_text()
    assert "in inference 1" in page.page.locator(".moved").inner_text()
    check_numbers(page)


def test_a_sample_is_moved_by_keys(explorer):
    page = explorer()
    page.page.get_by_role("slider", name="Sample 1, Training").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.numbers("x")[0, 0] > 1
    assert "in inference 1" in page.page.locator(".moved").inner_text()


def test_a_cell_opens_into_its_formula_and_lights_what_belongs_to_it(explorer):
    page = explorer()
    page.cell("training-xHat", 1, 0).hover()
    assert "x̂ = (x − μ) / √(σ² + ε)" in page.formula
    assert "1.5 / √(2.25 + 0.001)" in page.formula
    assert "= 0.99977785" in page.formula

    def lit(kind):
        return set(
            page.page.evaluate(
                """kind => [...document.querySelectorAll(kind)].map(cell =>
                    cell.dataset.cell ?? cell.querySelector('[data-cell]').dataset.cell)""",
                kind,
            )
        )

    sources = {"training-deviation.1.0", "training-variance.0.0", "epsilon.0.0"}
    assert lit(".is-source") == sources
    assert lit(".is-dependent") == {"training-y.1.0"}
    page.cell("x", 0, 0).hover()
    outputs = {cell for cell in lit(".is-dependent") if "-y." in cell}
    assert outputs == {"training-y.0.0", "training-y.1.0", "inference-y.0.0"}


def test_screen_readers_hear_the_value_and_the_formula(explorer):
    page = explorer()
    page.cell("training-y", 1, 0).focus()
    assert "gamma times x hat + beta" in page.heard
    assert "equals 2.9995556" in page.heard
    label = page.cell("training-y", 1, 0).get_attribute("aria-label")
    assert label == "Output y, sample 2, channel 1: 2.9996"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("x", "two", "“two” is not a number"),
        ("x", "", "Nothing is written here"),
        ("x", "1e39", "larger than float32 can hold"),
        ("epsilon", "0", "divided by 0"),
        ("epsilon", "-1", "positive"),
        ("inference-variance", "-2", "average of squares"),
    ],
)
def test_a_bad_value_is_explained_where_it_stands_and_loses_nothing(explorer, name, text, why):
    page = explorer()
    before = page.numbers("training-y"), page.numbers("inference-y"), page.numbers(name)
    cell = page.cell(name)
    place = page.box(cell)
    cell.fill(text)
    grid = page.page.locator(".grid").filter(has=cell)
    assert why in grid.locator(".note").inner_text()
    assert "is still used" in grid.locator(".note").inner_text()
    assert cell.get_attribute("aria-invalid") == "true"
    assert cell.input_value() == text
    # What is being edited stays where it is.
    assert cell.bounding_box() == place
    cell.press("Tab")
    assert cell.input_value() == text
    after = page.numbers("training-y"), page.numbers("inference-y"), page.numbers(name)
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)
    cell.press("Escape")
    assert grid.locator(".note").inner_text() == ""
    assert cell.get_attribute("aria-invalid") == "false"


def test_an_infinite_sample_loses_its_channel_in_training_alone(explorer):
    page = explorer()
    page.write("x", 0, 1, "inf")
    lost = ~np.isfinite(page.numbers("training-y"))
    assert lost.tolist() == [[False, True, False], [False, True, False]]
    assert (~np.isfinite(page.numbers("inference-y"))).sum() == 1
    assert "not finite" in page.page.locator(".remarks").inner_text()
    page.write("x", 0, 1, "2")
    check_numbers(page)
    assert page.page.locator(".remarks").inner_text() == ""


def test_a_batch_of_one_is_explained(explorer):
    page = explorer()
    page.page.get_by_role("button", name="One sample less").click()
    assert "A batch of one" in page.page.locator(".remarks").inner_text()
    np.testing.assert_array_equal(page.numbers("training-y"), page.numbers("beta"))
    assert page.page.get_by_role("button", name="One sample less").is_disabled()
    check_numbers(page)


def test_the_batch_grows_to_16_by_8_and_no_further(explorer):
    page = explorer()
    for name, times in (("One sample more", 14), ("One channel more", 5)):
        button = page.page.get_by_role("button", name=name)
        for _ in range(times):
            button.click()
        assert button.is_disabled()
    assert page.numbers("x").shape == (16, 8)
    check_numbers(page)
    page.page.get_by_role("button", name="Undo").click()
    assert page.numbers("x").shape == (16, 7)
