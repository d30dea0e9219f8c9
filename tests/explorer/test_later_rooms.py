"""Rooms 4, 5 and 6 as a person uses them, by mouse and by keyboard, and a model of one's own."""

import keras
import numpy as np
import pytest
import sick_models
from commands import bnm_here
from explorer_page import Explorer

import batchnorm_mechanics as bnm
from batchnorm_mechanics.explorer.network import stored_run

pytestmark = pytest.mark.browser


def slider(page, name):
    return page.page.get_by_role("slider", name=name)


def value_once(page, holds):
    """Wait until the slider of time stands where it should, and return where that is."""
    for _ in range(200):
        if holds(value := int(page.page.locator(".playback input").input_value())):
            return value
        page.page.wait_for_timeout(50)
    raise AssertionError(f"it stands at {value}")


def test_one_sees_why_099_after_50_batches_still_is_60_percent_start(explorer):
    page = explorer("#statistics")
    said = page.page.locator(".saying").inner_text()
    assert said == (
        "After 50 batches the average by Keras\u2019s rule is still 60.5 % the 0 and 1 that it "
        "began with: 0.99 to the power of 50. It needs 69 batches to lose half of them."
    )
    bar = page.page.get_by_role("img", name="Keras\u2019s momentum: 60.5 % its start")
    assert bar.locator(".part-start").bounding_box()["width"] == pytest.approx(
        0.605 * bar.bounding_box()["width"], rel=0.01
    )
    assert page.numbers("read")[0, 2] == 69


def test_stepping_is_one_more_update_of_each_policy(explorer):
    page = explorer("#statistics?at=20")
    before, batch = page.numbers("read"), None
    page.page.get_by_role("button", name="One batch further").click()
    (batch,) = page.numbers("batch")
    policy = bnm.ExponentialMovingAverage(decay=0.99)
    state = policy.init([1])._replace(
        mean=before[:1, 0].astype(np.float32), variance=before[:1, 1].astype(np.float32)
    )
    after = policy.update(state, batch[1:2], batch[2:3], batch[0])
    assert page.numbers("read")[0, :2].tolist() == [
        after.mean.numpy()[0],
        after.variance.numpy()[0],
    ]
    assert page.address == "#statistics?at=21"
    page.page.get_by_role("button", name="One batch back").click()
    np.testing.assert_array_equal(page.numbers("read"), before)


def test_it_plays_pauses_and_is_undone_as_one(explorer):
    page = explorer("#statistics?at=3")
    page.page.get_by_role("button", name="Play").click()
    pause = page.page.get_by_role("button", name="Pause")
    value_once(page, lambda value: value >= 6)
    pause.click()
    stood = slider(page, "Go to a batch").input_value()
    page.page.wait_for_timeout(300)
    assert slider(page, "Go to a batch").input_value() == stood
    page.page.get_by_role("button", name="Undo").click()
    assert slider(page, "Go to a batch").input_value() == "3"


def test_it_stops_at_the_end_and_begins_anew(explorer):
    page = explorer("#statistics?batches=4&at=2&jump=0")
    play = page.page.get_by_role("button", name="Play")
    play.click()
    value_once(page, lambda value: value == 4)
    play.wait_for()
    play.click()
    value_once(page, lambda value: value < 4)


def test_leaving_the_room_stops_the_playing(explorer):
    page = explorer("#statistics?at=3")
    page.page.get_by_role("button", name="Play").click()
    page.page.get_by_role("link", name="Digits").click()
    page.page.wait_for_timeout(300)
    assert page.numbers("errors").shape == (3, 4)
    assert page.address == "#digits"


def test_time_is_gone_through_by_keyboard_and_by_the_chart(explorer):
    page = explorer("#statistics")
    slider(page, "Go to a batch").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.numbers("read")[0, 0] != 0
    assert "after 51 of 200" in slider(page, "Go to a batch").get_attribute("aria-valuetext")
    page.page.keyboard.press("Home")
    assert page.numbers("read")[:, :2].tolist() == [[0, 1]] * 5
    chart = page.page.locator(".chart").first
    box = page.box(chart)
    page.page.mouse.click(box["x"] + box["width"] - 11, box["y"] + 100)
    assert slider(page, "Go to a batch").input_value() == "200"


def test_batches_of_any_size_are_set_and_what_cannot_be_is_explained(explorer):
    page = explorer("#statistics")
    page.page.get_by_role("button", name="One size more").click()
    assert page.numbers("sizes").tolist() == [[16, 1]]
    assert "A batch of one sample has variance 0" in page.page.locator(".remarks").inner_text()
    page.write("sizes", 0, 1, "0")
    assert "A batch has 1 to 100 samples here. 1 is still used." in page.page.inner_text("main")
    page.write("momentum", 0, 0, "1")
    assert "below 1, with which nothing new would ever count" in page.page.inner_text("main")
    page.write("before", 0, 1, "-2")
    assert "A standard deviation is 0 or more" in page.page.inner_text("main")
    page.write("before", 0, 0, "-200")
    assert page.numbers("read")[4, 0] == pytest.approx(-200, abs=1)


def test_a_formula_opens_with_its_numbers(explorer):
    page = explorer("#statistics")
    page.cell("read", 0, 0).focus()
    assert "keep · before + (1 − keep) · batch" in page.formula
    assert "60.5 % of it is still the start, 0: 0.99 to the power of 50" in page.formula
    assert "is-source" in page.page.locator('[data-cell="batch.0.1"]').get_attribute("class")


def test_calm_playing_goes_by_leaps(explorer):
    page = explorer("#statistics?at=0", reduced_motion="reduce")
    page.page.get_by_role("button", name="Play").click()
    assert value_once(page, lambda value: value > 0) == 10


def test_the_mean_is_moved_to_a_million(explorer):
    page = explorer("#digits")
    slider(page, "Mean").focus()
    page.page.keyboard.press("End")
    assert page.numbers("mean").tolist() == [[1e6]]
    x = (1e6 + np.array([-1.5, -0.75, -0.25, 0.25, 0.5, 1.75])).astype(np.float32)
    y = bnm.forward(x[:, None], 1.0, 0.0, axes=[0], epsilon=1e-3)[0].numpy()[:, 0]
    digits = page.numbers("digits")
    np.testing.assert_array_equal(digits[:, 0], x)
    np.testing.assert_allclose(digits[:, 4], y, rtol=1e-6)
    np.testing.assert_allclose(digits[:, 1], y, rtol=1e-6)
    assert "nothing of it is left" in page.page.locator(".saying").inner_text()
    page.page.keyboard.press("Home")
    assert page.numbers("errors")[0].max() < 1e-6


def test_types_and_formulas_are_chosen_by_keyboard(explorer):
    page = explorer("#digits?mean=300")
    page.page.get_by_role("radio", name="float32").focus()
    page.page.keyboard.press("ArrowLeft")
    assert page.page.get_by_role("radio", name="float16", exact=True).is_checked()
    assert "x² is past 65504" in page.page.locator(".remarks").inner_text()
    assert np.isnan(page.numbers("digits")[:, 2]).all()
    page.page.get_by_role("radio", name="E[x²]").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.address == "#digits?mean=300&dtype=float16&formula=tfnn"
    assert page.page.get_by_role("img", name="y in float64").count() == 1


def test_bits_are_drawn_and_the_lost_ones_are_hatched(explorer):
    page = explorer("#digits?mean=3000")
    line = page.page.get_by_role("img", name="E[x²], ")
    assert line.inner_text().split() == list(f"{9000001:b}")
    truth = page.page.get_by_role("img", name="the variance in float64")
    assert truth.locator(".bit-lost-one, .bit-lost-zero").count() == 10
    assert "and 10 that are lost" in truth.get_attribute("aria-label")


def test_an_epsilon_that_float16_cannot_hold(explorer):
    page = explorer("#digits")
    assert page.numbers("held")[2].tolist() == [0, 0, 0, np.inf]
    assert "float16 holds nothing between 0 and 6e−8" in page.page.locator(".said").inner_text()
    page.write("small", 0, 0, "1e-3")
    assert page.numbers("held")[2, 1] == np.float16(1e-3)
    page.write("variance", 0, 0, "-1")
    assert "It must be 0 or more" in page.page.inner_text("main")
    page.write("epsilon", 0, 0, "0")
    assert "ε must be above 0 here" in page.page.inner_text("main")


def test_the_stored_run_is_gone_through_step_by_step(explorer):
    run = stored_run()
    page = explorer("#network")
    for at in (5, 6):
        own, other = run["training"]["with"][at], run["training"]["without"][at]
        shown = [own["training"], own["inference"], other["inference"]]
        np.testing.assert_array_equal(page.numbers("now"), np.float32([shown]))
        page.page.get_by_role("button", name="One look further").click()
    assert page.page.locator(".heat").count() == 6
    page.page.locator('[data-cell="now.0.1"]').focus()
    assert page.formula.endswith(f"Computed by Keras {run['keras']}.")
    # Our code stands in for its layers where they normalize by the batch.
    page.page.locator('[data-cell="now.0.0"]').focus()
    assert page.formula.endswith("but for batch norm, which bnm doctor computed by the batch.")


@pytest.mark.parametrize("name", [one["name"] for one in stored_run()["failures"]])
def test_it_is_broken_diagnosed_and_repaired(explorer, name):
    (failure,) = [one for one in stored_run()["failures"] if one["name"] == name]
    page = explorer(f"#network?failure={name}")
    whole = stored_run()["whole"]["accuracy"]
    shown = [whole, failure["broken"]["accuracy"], failure["repaired"]["accuracy"]]
    np.testing.assert_array_equal(page.numbers("asked"), np.float32([shown]))
    main = page.page.locator("main")
    assert failure["broken"]["told"]["verdict"] in main.inner_text()
    for group in failure["broken"]["told"]["groups"]:
        if group["severity"] != "note":
            # Backticks became code.
            assert group["why"].replace("`", "") in main.inner_text()
    page.page.get_by_text("As the terminal shows it").click()
    assert page.page.locator("pre").inner_text().strip() == failure["broken"]["text"].strip()
    page.page.get_by_role("radio", name="repaired").click()
    assert page.address.endswith("stage=repaired")
    assert failure["steps"][0] in main.inner_text()
    assert failure["repaired"]["told"]["verdict"] in main.inner_text()


def test_the_code_of_room_6_prints_its_numbers(explorer, capsys):
    page = explorer("#network?at=9&failure=domain")
    exec(page.code(), {})
    printed = capsys.readouterr().out
    numbers = [*page.numbers("now")[0], *page.numbers("asked")[0]]
    names = ("by the batch", "inference", "without batch norm", "trained", "broken", "repaired")
    for name, number in zip(names, numbers, strict=True):
        assert f"{name} [{float(str(np.float32(number)))}]" in printed
    assert "BN203" in printed


@pytest.fixture(scope="module")
def own_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    sick_models.write(folder)
    done = bnm_here("explore", "sick.keras", "--data", "data.npz", "--no-open", cwd=folder)
    assert done.code == 0, done.err
    return folder / "explorer.html"


@pytest.fixture
def own(open_page, own_page):
    return lambda address="", **context: Explorer(open_page(**context), own_page).go(address)


def test_a_layer_of_one_s_own_model_is_put_into_room_1(own):
    page = own("#batch")
    keras_s = page.numbers("own")
    origin = page.page.locator(".own-card .origin").inner_text()
    assert origin == f"Computed by Keras {keras.__version__}, in your model, from data.npz."
    page.page.get_by_role("button", name="Put what it got into the grid below").click()
    assert page.numbers("x").shape == keras_s.shape == (16, 8)
    # The page's inference beside Keras's, channel 3 being spoilt.
    np.testing.assert_allclose(page.numbers("inference-y"), keras_s, rtol=1e-5, atol=1e-5)
    assert np.isnan(keras_s[:, 3]).all()
    again = page.go(page.address)
    np.testing.assert_allclose(again.numbers("inference-y"), keras_s, rtol=1e-5, atol=1e-5)
    page.page.get_by_label("Layer of your model").select_option("bn_2")
    assert "What bn_2 gave" in page.page.locator(".own-card").inner_text()


def test_its_batches_come_in_room_4(own):
    page = own("#statistics")
    page.page.get_by_label("What comes").select_option(index=1)
    assert "after 125 of 125 batches" in page.page.locator(".playback").inner_text()
    origin = page.page.locator(".pick + .origin").inner_text()
    assert origin.startswith(
        "Each batch\u2019s mean and variance: measured by bnm doctor on data.npz"
    )
    assert "Keras" not in origin
    assert page.numbers("momentum")[0, 0] == np.float32(0.9)
    assert not page.page.locator('[data-cell="sizes.0.0"]').is_visible()
    assert page.page.get_by_text("what your model keeps", exact=True).is_visible()
    page.page.get_by_label("Channel").select_option("5")
    assert page.address == "#statistics?momentum=0.9&batches=125&at=125&layer=0&channel=5"
    reading = page.numbers("read")
    again = page.go(page.address)
    np.testing.assert_array_equal(again.numbers("read"), reading)


def test_the_doctor_speaks_of_it_in_room_6(own):
    page = own("#network")
    section = page.page.locator(".own")
    assert "Your model: sick.keras" in section.inner_text()
    assert "BN101" in section.inner_text()
    assert "bn_1, channels 3, 17" in section.inner_text()
    assert section.get_by_role("region", name="bn_1").count() == 1
    assert "2 of 25 channels: not a number" in section.inner_text()
    assert "x̂ of it: by bnm trace" in section.inner_text()
    assert "omputed by Keras" not in section.inner_text()
    # What a remedy quotes is set as code.
    assert "bnm repair" in section.locator("dd code").all_inner_texts()
    assert "`" not in section.inner_text()


def test_an_address_with_a_layer_leads_somewhere_without_the_model_too(explorer):
    page = explorer("#statistics?layer=3&channel=7&batches=30")
    assert page.numbers("read").shape == (5, 4)
