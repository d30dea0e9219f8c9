"""Two Keras models: true counterparts, planted faults, and what is said of them."""

import compared_networks as networks
import keras
import numpy as np
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.comparison.compare import compare
from batchnorm_mechanics.models.norms import norms_in

NETWORKS = ("mobile", "residual", "separable", "recurrent")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_model_agrees_and_every_stage_has_its_true_counterpart(network, name):
    model, data = network(name)
    found = compare(model, networks.folded(model), data)
    assert found.agrees is True
    assert found.lost == ()
    for row in found.rows:
        # Folding keeps the names of the layers that stay, and puts a norm into one beside it.
        assert row.counterpart in row.layers
        assert row.own > 100
    compared = [layer for row in found.rows for layer in row.layers]
    assert len(compared) == len(set(compared))
    assert {norm.name for norm in norms_in(model)} <= set(compared)


# Each fault, and each kind of place: behind a convolution, a depthwise and a separable one, in a
# shortcut, before a dense layer, and where folding leaves it.
PLANTED = [
    ("mobile", "stem_bn", "swapped_affine"),
    ("mobile", "0_depth_bn", "swapped_statistics"),
    ("mobile", "1_project_bn", "missing"),
    ("residual", "0_short_bn", "initial_statistics"),
    ("residual", "1_b_bn", "squared_variance"),
    ("residual", "last_bn", "epsilon"),
    ("separable", "1_bn", "missing"),
    ("recurrent", "lstm_bn", "epsilon"),
]


@pytest.mark.parametrize(("name", "place", "fault"), PLANTED)
def test_a_planted_fault_is_named_first_with_its_cause_and_nothing_else_is(
    network, name, place, fault
):
    model, data = network(name)
    found = compare(model, networks.folded(networks.faulty(model, place, fault)), data)
    assert found.agrees is False
    assert (found.start.name, found.start.cause.code) == (place, fault)
    assert found.start.cause.is_norm is True
    assert [row.name for row in found.rows if row.differs] == [place]
    # Behind it, stages inherit an error that is none of theirs.
    assert found.rows[-1].inherited < 100


def test_two_faults_are_both_found_and_the_first_is_named_first(network):
    model, data = network("mobile")
    other = networks.faulty(model, "1_expand_bn", "squared_variance")
    other = networks.faulty(other, "0_depth_bn", "initial_statistics")
    found = compare(model, networks.folded(other), data)
    differing = [(row.name, row.cause.code) for row in found.rows if row.differs]
    assert differing == [
        ("0_depth_bn", "initial_statistics"),
        ("1_expand_bn", "squared_variance"),
    ]
    assert "1 further stage differs by itself, too (1_expand_bn)" in found.summary


def test_the_answer_is_a_sentence_with_both_numbers(network):
    model, data = network("mobile")
    found = compare(model, networks.faulty(model, "0_project_bn", "epsilon"), data)
    assert found.summary.startswith(
        "Both agree exactly up to `0_project_bn`, whose epsilon is 1e-05 in B and 0.001 in A; "
        "the outputs' distance ("
    )


def test_what_no_batch_norm_explains_is_not_laid_to_one(network):
    model, data = network("mobile")
    other = networks.folded(model)
    kernel = other.get_layer("1_depth").kernel
    kernel.assign(np.flip(kernel.numpy(), 0))
    found = compare(model, other, data)
    assert found.start.layers[0] == "1_depth"
    assert (found.start.cause.code, found.start.cause.is_norm) == ("other", False)


def test_another_bias_of_a_merged_layer_is_not_told_from_beta(network):
    model, data = network("residual")
    other = networks.folded(model)
    bias = other.get_layer("0_a").bias
    bias.assign(bias.numpy() + np.linspace(0.1, 1, bias.shape[0]))
    cause = compare(model, other, data).start.cause
    assert (cause.code, cause.layer, cause.is_norm) == ("offset", "0_a_bn", None)
    assert cause.words.endswith("or another bias of the layer that it is merged with")


def test_one_graph_is_compared_by_weights_and_settings_too(network):
    model, data = network("recurrent")
    other = networks.faulty(model, "conv_bn", "initial_statistics")
    other.get_layer("lstm_bn").epsilon = 1e-5
    found = compare(model, other, data)
    changed = {(change.layer, change.what) for change in found.changes}
    assert changed == {
        ("conv_bn", "moving_mean"),
        ("conv_bn", "moving_variance"),
        ("lstm_bn", "epsilon"),
    }
    assert [row.name for row in found.rows if row.differs] == ["conv_bn", "lstm_bn"]
    assert all(len(row.layers) == 1 for row in found.rows)


def test_weights_that_the_outputs_do_not_show_are_told(network):
    model, data = network("recurrent")
    other = networks.faulty(model, "conv_bn", "epsilon")
    other.get_layer("conv_bn").epsilon = 1e-3
    variance = other.get_layer("conv_bn").moving_variance
    variance.assign(variance.numpy() * (1 + 1e-6))
    found = compare(model, other, data)
    assert found.agrees is True
    assert [(change.layer, change.what) for change in found.changes] == [
        ("conv_bn", "moving_variance")
    ]


def test_a_channel_of_nan_is_where_both_part(network):
    model, data = network("separable")
    other = networks.faulty(model, "0_bn", "epsilon")
    variance = other.get_layer("0_bn").moving_variance
    variance.assign([-1.0, *variance.numpy()[1:]])
    found = compare(model, other, data)
    assert found.agrees is False
    assert found.start.name == "0_bn"


def test_neither_model_changes(network):
    inputs = keras.Input((4,))
    norm = keras.layers.BatchNormalization(momentum=0.5)
    trains = keras.Model(inputs, norm(inputs, training=True))
    before = [weight.numpy().copy() for weight in trains.weights]
    compare(trains, trains, np.random.default_rng(0).normal(size=(8, 4)).astype("float32"))
    for weight, old in zip(trains.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


class Own(keras.Model):
    """A model with its own code."""

    def __init__(self, shift):
        super().__init__()
        self.layer, self.shift = keras.layers.Dense(3, kernel_initializer="ones"), shift

    def call(self, inputs):
        return self.layer(inputs) + self.shift


def test_of_a_model_with_its_own_code_outputs_alone_are_compared():
    data = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    one, same, other = Own(0.0), Own(0.0), Own(1.0)
    for model in (one, same, other):
        model(data)
    assert compare(one, same, data).agrees is True
    found = compare(one, other, data)
    assert found.agrees is False
    assert "by their values alone" in found.notes[0]
    # Nothing was seen of its stages, which is not to say that B has none of them.
    assert found.summary.endswith("; no stage of A could be looked at by itself.")


def test_decibels_that_were_asked_for_decide(network):
    model, data = network("mobile")
    other = networks.folded(networks.faulty(model, "0_depth_bn", "epsilon"))
    found = compare(model, other, data, min_sqnr=20.0)
    assert found.agrees is True
    assert found.start is not None
    assert compare(model, other, data, min_sqnr=150.0).agrees is False


def test_samples_bound_what_is_taken(network):
    model, data = network("separable")
    assert compare(model, model, data, samples=3).samples == 3
    assert compare(model, model, data[:2]).samples == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"samples": 0},
            "compare: `samples` must be an integer of 1 or more. Received: samples=0. "
            "Leave it out for 8.",
        ),
        (
            {"min_sqnr": float("nan")},
            "compare: `min_sqnr` must be a number of decibels. Received: min_sqnr=nan. "
            "Leave it out to ask for rounding alone.",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(network, options, message):
    model, data = network("separable")
    with pytest.raises(InputError) as error:
        compare(model, model, data, **options)
    assert str(error.value) == message


def test_a_model_that_was_never_called_is_refused_with_the_cure(network):
    model = keras.Sequential([keras.layers.Dense(2)], name="new")
    with pytest.raises(InputError) as error:
        compare(network("separable").model, model, np.zeros((2, 3), np.float32))
    assert str(error.value) == (
        "compare: `b` must have weights. Received: new, which was never called. Call it on a batch "
        "first, as model(batch); exporting it needs that too."
    )
