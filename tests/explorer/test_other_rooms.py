"""Rooms 2 and 3 as a person uses them."""

import numpy as np
import pytest

from batchnorm_mechanics import reference

pytestmark = pytest.mark.browser
COUNTING = np.arange(24.0).reshape(2, 2, 3, 2)


def sheets(page):
    """The 4-D input as it stands in its four grids."""
    x = np.empty((2, 2, 3, 2))
    for sample in range(2):
        for channel in range(2):
            x[sample, :, :, channel] = page.numbers(f"x{sample}{channel}")
    return x


def check_axes(page, axes):
    x = sheets(page)
    mean, variance, count = (part.ravel() for part in reference.moments(x, axes))
    groups = page.numbers("groups")
    np.testing.assert_allclose(groups[:, 0], count)
    np.testing.assert_allclose(groups[:, 1], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(groups[:, 2], variance, rtol=1e-5, atol=1e-6)
    *_, last = reference.moments_one_axis_at_a_time(x, axes)
    np.testing.assert_allclose(
        page.numbers("steps")[-1],
        [last[3].ravel()[0], last[4].ravel()[0], last[2].ravel()[0]],
        rtol=1e-5,
        atol=1e-6,
    )


def toggle(page, axis):
    return page.page.get_by_role("group", name="Axes reduced over").get_by_role("button").nth(axis)


def test_the_input_is_the_notebooks_and_reduced_as_keras_does(explorer):
    page = explorer("#axes")
    np.testing.assert_array_equal(sheets(page), COUNTING)
    assert toggle(page, 0).get_attribute("aria-pressed") == "true"
    assert toggle(page, 3).get_attribute("aria-pressed") == "false"
    check_axes(page, [0, 1, 2])


def test_axes_are_chosen_by_mouse_in_any_order(explorer):
    page = explorer("#axes")
    toggle(page, 0).click()
    check_axes(page, [1, 2])
    toggle(page, 3).click()
    check_axes(page, [1, 2, 3])
    toggle(page, 1).click()
    toggle(page, 1).click()
    check_axes(page, [2, 3, 1])
    assert page.address == "#axes?axes=2,3,1"


def test_axes_are_chosen_by_keys(explorer):
    page = explorer("#axes")
    toggle(page, 1).focus()
    page.page.keyboard.press("Space")
    check_axes(page, [0, 2])
    assert page.numbers("steps")[-1].tolist() == [36, np.float32(8 / 3), np.float32(36 + 8 / 3)]


def test_the_last_axis_cannot_be_switched_off(explorer):
    page = explorer("#axes?axes=2")
    toggle(page, 2).click()
    assert "One axis at least" in page.page.locator(".choice .note").inner_text()
    check_axes(page, [2])


@pytest.mark.parametrize(
    ("name", "axes"), [("Keras, axis=-1", [0, 1, 2]), ("Keras, axis=1", [0, 2, 3])]
)
def test_what_keras_reduces_over_is_a_click_away(explorer, name, axes):
    page = explorer("#axes?axes=0")
    page.page.get_by_role("button", name=name).click()
    check_axes(page, axes)
    assert page.page.get_by_role("button", name=name).get_attribute("aria-pressed") == "true"


def test_a_number_of_the_input_is_changed(explorer):
    page = explorer("#axes?axes=0,2")
    page.write("x10", 1, 2, "-50")
    assert sheets(page)[1, 1, 2, 0] == -50
    check_axes(page, [0, 2])


def test_groups_have_letters_and_light_up(explorer):
    page = explorer("#axes?axes=0,2")
    page.cell("groups", 1, 1).hover()
    lit = page.page.locator(".is-source [data-cell]")
    found = {lit.nth(index).get_attribute("data-cell") for index in range(lit.count())}
    assert found == {f"x{sample}1.0.{column}" for sample in range(2) for column in range(3)}
    letters = page.page.evaluate(
        "[...document.querySelectorAll('.is-source')].map(cell => cell.dataset.group)"
    )
    assert letters == ["B"] * 6


def test_the_variance_of_any_group_is_taken_apart(explorer):
    page = explorer("#axes?axes=0,2")
    page.write("x01", 0, 0, "100")
    page.page.locator("select").select_option("group B")
    x = sheets(page)
    *_, last = reference.moments_one_axis_at_a_time(x, [0, 2])
    assert page.numbers("steps")[-1][2] == pytest.approx(last[2][0, 1], rel=1e-5)


def test_a_wrong_axis_makes_rows_of_pixels_equally_bright(explorer):
    page = explorer("#axes")
    figures = page.page.locator(".pictures")
    assert "top row 0, bottom row 0" in figures.nth(2).inner_text()
    assert "top row 0," not in figures.nth(1).inner_text()
    drawn = page.page.evaluate(
        """[...document.querySelectorAll('.pictures canvas')].map(canvas =>
            new Set(canvas.getContext('2d').getImageData(0, 0, 24, 18).data).size)"""
    )
    assert len(drawn) == 6
    assert min(drawn) > 4


# --- Back through it ----------------------------------------------------------------------------

SIX = {
    "dXHat": "d_x_hat",
    "dVariance": "d_variance",
    "dMean": "d_mean",
    "dX": "d_x",
    "dGamma": "d_gamma",
    "dBeta": "d_beta",
}


def check_gradients(page, but=()):
    x, dy = page.numbers("x"), page.numbers("dy")
    gamma, epsilon = page.numbers("gamma")[0], float(page.numbers("epsilon")[0, 0])
    expected = reference.gradients(dy, x, gamma, axes=0, epsilon=epsilon)
    for ours, name in SIX.items():
        if ours not in but:
            np.testing.assert_allclose(
                page.numbers(ours),
                np.atleast_2d(expected[name]),
                rtol=3e-5,
                atol=3e-5,
                err_msg=name,
            )


def sums(page):
    dx, x_hat = page.numbers("dX"), page.numbers("xHat")
    return dx.sum(0), (dx * x_hat).sum(0)


def verdicts(page):
    return [
        each.inner_text().startswith("Vanishes") for each in page.page.locator(".verdict").all()
    ]


def test_the_six_gradients_are_the_oracle_s(explorer):
    page = explorer("#gradients")
    check_gradients(page)
    assert verdicts(page) == [True, True]
    plain, by_x_hat = sums(page)
    assert np.abs(plain).max() < 1e-6
    assert np.abs(by_x_hat).max() < 1e-2


def test_a_gradient_is_typed_and_dragged_at_the_output(explorer):
    page = explorer("#gradients")
    page.write("dy", 3, 0, "-2.5")
    page.write("x", 1, 1, "7")
    check_gradients(page)
    page.drag(page.cell("dy", 0, 1), 80)
    assert page.numbers("dy")[0, 1] == 1.5
    check_gradients(page)
    assert verdicts(page) == [True, True]


@pytest.mark.parametrize(
    ("way", "broken"),
    [("through the mean", [False, True]), ("through the variance", [True, False])],
)
def test_a_way_that_is_switched_off_breaks_its_own_sum(explorer, way, broken):
    page = explorer("#gradients")
    page.page.get_by_label(way).focus()
    page.page.keyboard.press("Space")
    assert verdicts(page) == broken
    check_gradients(page, but=("dX",))
    assert "wrong now, on purpose" in page.page.locator(".remarks").inner_text()
    plain, by_x_hat = sums(page)
    assert (np.abs(plain[0]) > 0.1) == (not broken[0])
    assert (np.abs(by_x_hat[0]) > 0.1) == (not broken[1])
    page.page.get_by_label(way).click()
    assert verdicts(page) == [True, True]


def test_a_gradient_opens_into_its_three_ways(explorer):
    page = explorer("#gradients")
    page.cell("dX", 2, 1).hover()
    assert "dx = dx̂ / √(σ² + ε) + dσ² · 2 (x − μ) / m + dμ / m" in page.formula
    line = page.page.locator(".inspector .numbers").inner_text()
    terms = [float(part.strip(" =()").replace("−", "-")) for part in line.split(" + ")]
    assert len(terms) == 3
    assert sum(terms) == pytest.approx(page.numbers("dX")[2, 1], abs=1e-4)


def test_two_samples_and_one_are_explained(explorer):
    page = explorer("#gradients?x=1,2;4,5&dy=1,0;0,1")
    assert "With two samples" in page.page.locator(".remarks").inner_text()
    check_gradients(page)
    page.page.get_by_role("button", name="One sample less").click()
    assert "A batch of one" in page.page.locator(".remarks").inner_text()
    check_gradients(page)
