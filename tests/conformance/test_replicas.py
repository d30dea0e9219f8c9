"""Layers whose batches are shared by replicas: the right ones pass, and what is wrong is named."""

import functools
import json

import keras
import numpy as np
import pytest
from commands import bnm_here
from numpy_subjects import Right

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.cases import CASES, select, shared
from batchnorm_mechanics.conformance.shares import MANNERS, Shares

TABLE = {case.name: case for case in shared(CASES, 2)}
PLAIN = [TABLE[f"one step rank 2, {manner}"] for manner in MANNERS]
MASKED = [TABLE[f"mask over batch, some out, {manner}"] for manner in MANNERS]
FAR = TABLE["offset 10000 float32, uneven"]
OTHERS = [
    TABLE["ten steps rank 4, uneven"],
    TABLE["batch of 1 rank 4, even"],
    TABLE["mask over batch and time, one left, even"],
    TABLE["one NaN rank 2, uneven"],
    TABLE["saving and loading rank 4 keep 1, even"],
    TABLE["dtype float16 rank 4 keep 3, one empty"],
    TABLE["inference alone rank 2, even"],
]
MASK_NAME = "a mask switches synchronization off: each replica goes by its own part"
ONE_PASS = "variance computed as E[x^2] - E[x]^2"
OWN = "each replica keeps moving statistics of its own part"


class SaysSo(keras.layers.BatchNormalization):
    """Says that it is synchronized, and is not."""

    def call(self, inputs, training=None, mask=None):
        self.synchronized = False
        try:
            return super().call(inputs, training=training, mask=mask)
        finally:
            self.synchronized = True


class MergesAlone(bnm.BatchNormalization):
    """Says the same, and merges the moving statistics alone."""

    def call(self, inputs, training=None, mask=None):
        self.synchronized = False
        try:
            return super().call(inputs, training=training, mask=mask)
        finally:
            self.synchronized = True


@functools.cache
def report_of_keras(synchronized):
    layer = keras.layers.BatchNormalization(synchronized=synchronized)
    return bnm.conform(layer, cases=[*PLAIN[1:], FAR, *MASKED[1:]], replicas=2)


def names_of(report, what=""):
    return {
        (check.diagnosis or "").removesuffix(", in training only")
        for case in report.cases
        for check in case.wrong
        if check.what.startswith(what)
    }


@pytest.mark.parametrize("synchronized", [False, True])
def test_ours_is_right_in_every_way_to_share_a_batch(synchronized):
    layer = bnm.BatchNormalization(synchronized=synchronized)
    report = bnm.conform(layer, cases=[PLAIN[2], FAR, MASKED[1], *OTHERS], replicas=2)
    assert report, str(report)
    assert {case.status for case in report.cases} == {"pass"}
    kind = "synchronized" if synchronized else "not synchronized"
    assert report.description.endswith(f", on 2 replicas, {kind}")
    checks = [check.what for check in report.cases[0].checks]
    assert "moving variance on replica 2" in checks


def test_a_difference_of_squares_and_a_mask_that_ends_synchronization_are_named():
    report = report_of_keras(True)
    wrong = {case.case: case for case in report.cases if case.status == "fail"}
    assert set(wrong) == {case.name for case in (FAR, *MASKED[1:])}
    assert {c.diagnosis for c in wrong[FAR.name].wrong} == {ONE_PASS}
    named = {c.diagnosis for case in MASKED[1:] for c in wrong[case.name].wrong}
    assert all(name.startswith(MASK_NAME) for name in named), named
    assert "E[x^2] - E[x]^2" in report.verdict.sentence
    assert "a mask switches" in report.verdict.sentence


def test_moving_statistics_that_are_not_merged_are_named_and_nothing_else_is_wrong():
    report = report_of_keras(False)
    found = names_of(report)
    assert all(name.startswith(OWN) for name in found), found
    # With an empty part it divides by nothing, and so do the slopes of gamma.
    assert f"{OWN}, NaN where that is empty" in found
    assert f"{OWN}, mean 0 and variance 0 where that is empty" in found
    outputs = [c for case in report.cases for c in case.checks if c.what == "training output"]
    assert len(outputs) == 5
    assert all(check.passed for check in outputs)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (SaysSo, "not synchronized: each replica goes by its own part"),
        (MergesAlone, "each replica normalizes by its own part"),
    ],
)
def test_a_layer_that_only_says_that_it_is_synchronized_is_named(layer, name):
    report = bnm.conform(layer(synchronized=True), cases=[PLAIN[1], MASKED[0]], replicas=2)
    assert names_of(report) == {name}


def test_a_mistake_that_is_none_of_replicas_has_its_name_on_replicas_too():
    class NoBeta(bnm.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) - self.beta

    for synchronized in (False, True):
        layer = NoBeta(synchronized=synchronized)
        report = bnm.conform(layer, cases=PLAIN[1:2], replicas=2)
        assert names_of(report, "training output") == {"beta ignored"}


def test_the_conventions_are_those_of_one_replica():
    alone = bnm.conform(keras.layers.BatchNormalization, cases="one step rank 2")
    assert report_of_keras(False).conventions == alone.conventions


@pytest.mark.parametrize("subject", [Right(), "tf.nn"])
def test_what_knows_nothing_of_replicas_is_refused(subject):
    with pytest.raises(
        InputError, match=r"must be a Keras layer, for a strategy of tf\.distribute"
    ):
        bnm.conform(subject, cases="one step rank 2", replicas=2)


def test_a_layer_that_xla_compiles_and_too_many_replicas_are_refused():
    with pytest.raises(InputError, match="must not be compiled by XLA"):
        bnm.conform("bnm.layer-compiled", cases="one step rank 2", replicas=2)
    with pytest.raises(InputError, match=r"Received: replicas=3, devices=2\. Use the command"):
        bnm.conform("keras", cases="one step rank 2", replicas=3)
    with pytest.raises(InputError, match=r"must be from 1 to 8\. Received: replicas=9"):
        bnm.conform("keras", cases="one step rank 2", replicas=9)


def test_every_way_to_share_deals_out_each_sample_once():
    for manner in MANNERS:
        for replicas in (2, 3, 8):
            for samples in range(20):
                sizes = Shares(replicas, manner).sizes(samples)
                assert len(sizes) == replicas
                assert sum(sizes) == samples
                assert min(sizes) >= 0
        parts = Shares(3, manner).split(np.arange(10))
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(10))


def test_cases_that_keep_the_batch_axis_are_not_shared():
    assert shared(select("axes rank 2 keep 0 float32"), 2) == ()
    assert len({case.name for case in TABLE.values()}) == len(TABLE)


def test_a_graph_of_both_replicas_is_judged_like_eager_steps():
    assert bnm.conform("bnm.layer-graph", cases=[PLAIN[1]], replicas=2)


@pytest.mark.slow
def test_the_command_begins_with_as_many_devices_as_there_are_replicas(tmp_path):
    case = "mask over batch, some out, even"
    asked = "keras-synchronized", "--replicas", "3", "--cases", case, "--json"
    ended = bnm_here("conform", *asked, cwd=tmp_path)
    assert ended.code == 1, ended.err
    [subject] = json.loads(ended.out)["subjects"]
    assert subject["replicas"] == 3
    assert [one["case"] for one in subject["cases"]] == [case]
    assert subject["failures"][0]["diagnosis"].startswith(MASK_NAME)
