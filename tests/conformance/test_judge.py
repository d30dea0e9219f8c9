"""One case put to one subject: what is asked, what passes, what fails and with which words."""

import numpy as np
import pytest
from numpy_subjects import Right, RightSession, always, raise_something

from batchnorm_mechanics.conformance.cases import CASES, judged
from batchnorm_mechanics.conformance.judge import judge
from batchnorm_mechanics.conformance.record import (
    DBETA,
    DGAMMA,
    DX,
    INFERENCE_OUTPUT,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TRAINING_OUTPUT,
    Conventions,
)
from batchnorm_mechanics.conformance.subject import Ability, Statistics

# Edge cases among them: what is only shown is decided as if it were judged.
NAMES = {case.name: case for case in judged(CASES)}
BIASED = Conventions(moving_variance="biased", momentum_weighs="old")
USUAL = {TRAINING_OUTPUT, INFERENCE_OUTPUT, MOVING_MEAN, MOVING_VARIANCE, DX, DGAMMA, DBETA}


def result(subject, name, conventions=BIASED):
    return judge(subject, NAMES[name], conventions)[0]


def failed(subject, name, conventions=BIASED):
    """The failed checks of a case by their names; the case must have failed if there are any."""
    found = result(subject, name, conventions)
    checks = {check.what: check for check in found.checks if not check.passed}
    assert (found.status == "fail") == bool(checks)
    return checks


def with_session(**methods):
    return Right(session=type("Odd", (RightSession,), methods))


def test_a_usual_case_asks_for_every_output():
    found = result(Right(), "one step rank 2")
    assert {check.what for check in found.checks} == USUAL
    assert found.status == "pass"
    assert found.seconds > 0


def test_a_check_has_the_largest_differences_and_the_element_nearest_its_tolerance():
    check = failed(Right(epsilon_outside=True), "one step rank 2")[TRAINING_OUTPUT]
    assert check.absolute >= check.error > check.tolerance > 0
    assert check.relative > 1e-5
    assert check.ulps > 100
    assert check.reason is None


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        (Ability.GRADIENTS, {DX, DGAMMA, DBETA}),
        (Ability.INFER, {INFERENCE_OUTPUT}),
        (Ability.STATISTICS, {MOVING_MEAN, MOVING_VARIANCE}),
        (Ability.TRAIN, {TRAINING_OUTPUT, MOVING_MEAN, MOVING_VARIANCE, DX, DGAMMA, DBETA}),
    ],
)
def test_what_a_subject_cannot_do_is_not_asked(missing, gone):
    subject = Right()
    subject.abilities -= {missing, *([Ability.GRADIENTS] if missing == Ability.TRAIN else [])}
    found = result(subject, "one step rank 2")
    assert {check.what for check in found.checks} == USUAL - gone
    assert found.status == "pass"


@pytest.mark.parametrize(
    ("name", "missing", "reason"),
    [
        ("mask over batch, some out", Ability.MASK, "it has no masks"),
        ("saving and loading rank 2 keep 1", Ability.RELOAD, "it has no saving and loading"),
        ("inference twice rank 2", Ability.INFER, "it has no inference mode"),
    ],
)
def test_a_case_about_something_missing_is_skipped_with_the_reason(name, missing, reason):
    subject = Right()
    subject.abilities -= {missing}
    found = result(subject, name)
    assert (found.status, found.reason, found.checks) == ("skipped", reason, ())


def test_a_refused_setting_is_skipped_with_the_subjects_own_words():
    found = result(Right(refusal="it keeps the last axis"), "one step rank 2")
    assert (found.status, found.reason) == ("skipped", "it keeps the last axis")


def test_a_refusal_that_raises_is_a_failure():
    class Raises(Right):
        def refusal(self, setting):
            raise_something()

    assert failed(Raises(), "one step rank 2")["setting"].reason == (
        "raised LookupError: no such channel and more of it"
    )


def test_a_subject_without_moving_statistics_to_set_is_judged_from_its_own_start():
    class Fixed(Right):
        def refusal(self, setting):
            return None if setting.moving_mean is None else "they cannot be set"

    start = Conventions("biased", "old", initial_mean=0.0, initial_variance=1.0)
    assert result(Fixed(), "ten steps rank 4", start).status == "pass"
    wrong = Conventions("biased", "old", initial_mean=1.0, initial_variance=1.0)
    assert set(failed(Fixed(), "one step rank 4", wrong)) == {MOVING_MEAN}


def test_without_gamma_and_beta_the_output_is_x_hat():
    class Plain(Right):
        lacks = frozenset({"gamma", "beta"})

    assert result(Plain(), "one step rank 2").status == "pass"


def test_an_epsilon_that_cannot_be_set_is_judged_by_what_was_found():
    class Fixed(Right):
        takes_epsilon = False

    assert result(
        Fixed(), "one step rank 2", Conventions("biased", default_epsilon=1e-3)
    ).status == ("pass")
    wrong = Conventions("biased", default_epsilon=1e-2)
    assert TRAINING_OUTPUT in failed(Fixed(), "one step rank 2", wrong)
    unknown = result(Fixed(), "one step rank 2", Conventions("biased"))
    assert unknown.status == "skipped"
    assert unknown.reason == "its epsilon can be neither set nor found out"


def test_a_momentum_that_cannot_be_set_is_judged_by_what_was_found():
    class Fixed(Right):
        declared_momentum = None

    right = Conventions("biased", "old", default_momentum=0.99)
    assert result(Fixed(), "one step rank 2", right).status == "pass"
    wrong = Conventions("biased", "old", default_momentum=0.9)
    assert set(failed(Fixed(), "one step rank 2", wrong)) == {MOVING_MEAN, MOVING_VARIANCE}
    unknown = result(Fixed(), "one step rank 2", Conventions("biased"))
    assert {check.what for check in unknown.checks} == USUAL - {MOVING_MEAN, MOVING_VARIANCE}


@pytest.mark.parametrize(
    ("unbiased", "found", "wrong"),
    [
        (False, "biased", set()),
        (True, "unbiased", set()),
        (True, "biased", {MOVING_VARIANCE}),
        (True, "other", {MOVING_VARIANCE}),
        (True, None, {MOVING_VARIANCE}),
        (False, "none", set()),
    ],
)
def test_the_moving_variance_is_judged_by_the_convention_found(unbiased, found, wrong):
    subject = Right(unbiased=unbiased)
    assert set(failed(subject, "one step rank 2", Conventions(found))) == wrong


def test_momentum_is_judged_by_what_the_subject_declares():
    class New(Right):
        declared_momentum = "new"

    assert failed(New(reversed=True), "one step rank 2") == {}
    _, evidence = judge(New(), NAMES["one step rank 2"], BIASED)
    assert (evidence.setting.momentum, evidence.momentum_weighs) == (0.25, "new")
    assert set(failed(New(), "one step rank 2")) == {MOVING_MEAN, MOVING_VARIANCE}
    assert set(failed(Right(reversed=True), "one step rank 2")) == {MOVING_MEAN, MOVING_VARIANCE}


def test_an_error_of_the_subject_fails_the_case_in_one_line():
    checks = failed(Right(session=always(raise_something)), "one step rank 2")
    assert checks[TRAINING_OUTPUT].reason == "raised LookupError: no such channel and more of it"


def test_a_long_message_is_cut():
    def shout():
        raise LookupError("x " * 1000)

    reason = failed(Right(session=always(shout)), "one step rank 2")[TRAINING_OUTPUT].reason
    assert len(reason) < 190
    assert reason.endswith(" ...")


def test_ctrl_c_is_not_an_error_of_the_subject():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        result(Right(session=always(interrupt)), "one step rank 2")


def test_a_wrong_shape_fails_with_both_shapes():
    subject = with_session(train=lambda self, x, mask=None: np.zeros((3, 16), np.float32))
    assert failed(subject, "one step rank 2")[TRAINING_OUTPUT].reason == (
        "shape (3, 16), expected (16, 3)"
    )


def test_moving_statistics_of_a_wrong_shape_fail_and_leave_inference_unjudged():
    subject = with_session(
        statistics=lambda self: Statistics(np.zeros((1, 3), np.float32), np.ones(3))
    )
    found = result(subject, "one step rank 2")
    checks = {check.what: check for check in found.checks}
    assert checks[MOVING_MEAN].reason == "shape (1, 3), expected (3,)"
    assert INFERENCE_OUTPUT not in checks
    assert found.status == "fail"


def test_what_is_no_number_fails():
    subject = with_session(infer=lambda self, x: np.zeros(x.shape, complex))
    assert failed(subject, "one step rank 2")[INFERENCE_OUTPUT].reason == (
        "dtype complex128, which is no floating type"
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_output_must_have_the_dtype_of_the_input(dtype):
    case = f"dtype {dtype} rank 2 keep 1"
    assert failed(Right(), case) == {}
    other = "float32" if dtype == "float64" else "float64"
    assert failed(Right(output=other), case)["dtype of the output"].reason == (
        f"dtype {other}, the input's is {dtype}"
    )


def test_nan_must_show_in_its_channel_and_only_there():
    for name in ("one NaN rank 2", "one inf rank 2", "one NaN rank 4", "one inf rank 4"):
        assert failed(Right(), name) == {}

    def hide(self, x, mask=None):
        return np.nan_to_num(RightSession.train(self, x, mask))

    def spill(self, x, mask=None):
        return np.full_like(x, np.nan)

    assert failed(with_session(train=hide), "one NaN rank 2")[TRAINING_OUTPUT].reason == (
        "a number where the input's NaN or infinity should show"
    )
    assert failed(with_session(train=spill), "one NaN rank 2")[TRAINING_OUTPUT].reason == (
        "NaN or infinite where it should be a number"
    )


def test_one_kind_of_not_finite_is_as_good_as_another():
    def infinite(self, x, mask=None):
        y = RightSession.train(self, x, mask)
        return np.where(np.isnan(y), np.float32(np.inf), y)

    assert failed(with_session(train=infinite), "one NaN rank 2") == {}


class Empty(RightSession):
    def train(self, x, mask=None):
        if not x.size:
            return self.changes["empty"](self, x)
        return super().train(x, mask)


def poison(session, x):
    session.moving_mean = np.full(3, np.nan, np.float32)
    return x


def move(session, x):
    session.moving_variance = session.moving_variance * np.float32(0.5)
    return x


def fail_with(error):
    def fail(session, x):
        raise error

    return fail


EMPTY = "batch of 0 rank 2"


@pytest.mark.parametrize("does", [lambda session, x: x, fail_with(ValueError("no samples"))])
def test_an_empty_batch_may_be_ignored_or_refused(does):
    found = result(Right(session=Empty, empty=does), EMPTY)
    assert found.status == "pass"
    assert {check.what for check in found.checks} == {
        TRAINING_OUTPUT,
        MOVING_MEAN,
        MOVING_VARIANCE,
        INFERENCE_OUTPUT,
    }


def test_a_refusal_is_shown():
    [check] = [c for c in result(Right(), EMPTY).checks if c.what == TRAINING_OUTPUT]
    assert check.reason == "refused: ValueError: an empty batch has no mean"


@pytest.mark.parametrize(
    ("does", "what", "reason"),
    [
        (poison, MOVING_MEAN, "NaN or infinite after a training batch without samples"),
        (move, MOVING_VARIANCE, "moved after a training batch without samples"),
        (
            lambda s, x: np.zeros((1, 3), np.float32),
            TRAINING_OUTPUT,
            "shape (1, 3), expected (0, 3)",
        ),
        (fail_with(KeyError("x")), TRAINING_OUTPUT, "raised KeyError: 'x'"),
        (fail_with(ValueError()), TRAINING_OUTPUT, "raised ValueError"),
    ],
)
def test_an_empty_batch_must_poison_nothing(does, what, reason):
    checks = failed(Right(session=Empty, empty=does), EMPTY)
    assert {name: check.reason for name, check in checks.items()} == {what: reason}


def test_empty_inference_gives_an_empty_output():
    subject = with_session(infer=lambda self, x: np.zeros((1, 3), np.float32))
    assert failed(subject, EMPTY)[INFERENCE_OUTPUT].reason == "shape (1, 3), expected (0, 3)"


ONE = "batch of 1 rank 2"


def test_one_sample_may_be_normalized_or_refused():
    assert failed(Right(), ONE) == {}

    def refuse():
        raise ValueError("expected more than 1 value per channel")

    found = result(Right(session=always(refuse)), ONE)
    assert found.status == "pass"
    reasons = {check.what: check.reason for check in found.checks}
    assert reasons[TRAINING_OUTPUT] == (
        "refused: ValueError: expected more than 1 value per channel"
    )
    assert f"{MOVING_MEAN} after a refusal" in reasons


def test_one_sample_refused_without_a_word_is_a_failure():
    def crash():
        raise ZeroDivisionError

    assert failed(Right(session=always(crash)), ONE)[TRAINING_OUTPUT].reason == (
        "raised ZeroDivisionError"
    )


def test_two_samples_may_not_be_refused():
    def refuse():
        raise ValueError("expected more than 2 values per channel")

    assert TRAINING_OUTPUT in failed(Right(session=always(refuse)), "batch of 2 rank 2")


def test_the_unbiased_variance_of_one_sample_must_be_finite_and_is_not_judged():
    unbiased = Conventions("unbiased")
    assert failed(Right(unbiased=True), ONE, unbiased) == {}

    class Divides(RightSession):
        def update(self, mean, variance, count):
            super().update(mean, variance, count)
            self.moving_variance = np.full_like(self.moving_variance, np.nan)

    checks = failed(Right(session=Divides, unbiased=True), ONE, unbiased)
    assert MOVING_VARIANCE in checks


@pytest.mark.parametrize("over", ["batch", "batch and time"])
def test_masks_must_be_heeded(over):
    class Ignores(RightSession):
        def train(self, x, mask=None):
            return super().train(x)

        def gradients(self, x, dy, mask=None):
            return super().gradients(x, dy)

    for words in ("some out", "one left", "all out"):
        name = f"mask over {over}, {words}"
        assert failed(Right(), name) == {}
        expected = {MOVING_MEAN, MOVING_VARIANCE}
        assert expected <= set(failed(Right(session=Ignores), name))


def test_what_becomes_of_a_masked_sample_is_its_own_affair():
    class Zeros(RightSession):
        def train(self, x, mask=None):
            y = super().train(x, mask)
            return y if mask is None else np.where(mask[..., None], y, np.float32(0))

    assert failed(Right(session=Zeros), "mask over batch, some out") == {}


def test_what_loading_loses_is_found():
    name = "saving and loading rank 4 keep 1"
    found = {check.what for check in result(Right(), name).checks}
    after = {f"{what} after loading" for what in USUAL - {DX, DGAMMA, DBETA}}
    step = {f"{what} one step after loading" for what in (MOVING_MEAN, MOVING_VARIANCE)}
    assert found == USUAL - {DX, DGAMMA, DBETA} | after | step
    assert failed(Right(), name) == {}
    checks = failed(Right(forgets=True), name)
    assert {f"{MOVING_MEAN} after loading", f"{INFERENCE_OUTPUT} after loading"} <= set(checks)


def test_statistics_that_move_in_inference_are_found():
    name = "inference twice rank 4"
    assert failed(Right(), name) == {}
    assert {
        f"{MOVING_MEAN} after inference",
        f"{MOVING_VARIANCE} after inference",
        f"{INFERENCE_OUTPUT} asked again",
    } <= set(failed(Right(moves_in_inference=True), name))


def test_a_sample_alone_must_come_out_as_among_others():
    name = "inference alone rank 2"
    what = f"{INFERENCE_OUTPUT} of one sample alone"
    assert what in {check.what for check in result(Right(), name).checks}
    assert failed(Right(), name) == {}
    assert what in failed(Right(batch_in_inference=True), name)


def test_inputs_must_be_left_as_they_are():
    name = "inputs left as they are rank 2"
    assert len(result(Right(), name).checks) == 4
    assert failed(Right(), name) == {}
    assert set(failed(Right(scribbles=True), name)) == {f"input after asking for {TRAINING_OUTPUT}"}


def test_a_subject_that_writes_to_its_input_does_not_change_the_evidence():
    _, evidence = judge(Right(scribbles=True), NAMES["one step rank 2"], BIASED)
    assert np.all(evidence.batches[0] != 0)


def test_the_evidence_holds_all_that_was_given_and_came_back():
    _, evidence = judge(Right(), NAMES["ten steps rank 2 float32"], BIASED)
    assert evidence.setting.epsilon == 1e-3
    assert evidence.setting.momentum == 0.75
    assert evidence.momentum_weighs == "old"
    assert not evidence.unbiased
    assert len(evidence.batches) == len(evidence.masks) == 10
    assert set(evidence.actual) == set(evidence.expected) == set(evidence.tolerance) == USUAL
    for what, value in evidence.expected.items():
        assert value.dtype == np.float64
        assert evidence.tolerance[what].shape == value.shape == evidence.actual[what].shape


def test_the_inference_output_is_judged_by_the_subjects_own_statistics():
    # One mistake in the moving statistics is not counted a second time.
    checks = failed(Right(reversed=True), "one step rank 2")
    assert set(checks) == {MOVING_MEAN, MOVING_VARIANCE}
