"""What the tests of the layer ask of it, asked of two replicas that share the batch.

The tests are those of tests/layers, in which a step is done in two parts, of unequal size where the
batch allows it, and a model trains under the strategy. A synchronized layer must then be the
oracle's on the whole batch.
"""

import importlib.util
from pathlib import Path

import pytest
from replicated_layers import on_two_replicas

# Quicker tests here ask what replicas share; and `REPLICAS=1` asks it of the whole suite.
pytestmark = pytest.mark.thorough

LAYERS = Path(__file__).parents[1] / "layers"


def module_of(name):
    spec = importlib.util.spec_from_file_location(f"again_{name}", LAYERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ONE_LAYER, MODELS = module_of("test_batch_normalization"), module_of("test_training")

# Those of a training step, and those of a model in `fit`; the others ask nothing of replicas, or
# compare with Keras's layer, whose replicas have statistics of their own.
STEPS = (
    "test_masks_work_for_every_axis",
    "test_a_training_step_at_a_large_mean_is_still_the_oracles",
    "test_a_float64_layer_is_float64_all_the_way",
    "test_epsilon_counts_in_training_and_in_inference",
    "test_a_nan_stays_in_its_channel",
    "test_what_is_masked_out_does_not_reach_the_statistics",
    "test_a_batch_whose_mask_is_empty_leaves_the_statistics",
    "test_a_channel_whose_mask_is_empty_keeps_its_statistics",
)
FITS = (
    "test_a_constraint_holds_and_a_regularizer_pulls_in_fit",
    "test_moving_statistics_after_fit_are_the_oracles",
    "test_reset_at_each_epoch_leaves_the_population_of_the_last_one",
    "test_a_frozen_layer_stays_as_it_is_in_fit",
    "test_a_layer_within_a_layer_is_built_and_trained",
)
globals().update({name: getattr(ONE_LAYER, name) for name in STEPS})
globals().update({name: getattr(MODELS, name) for name in FITS})
float64_by_default = MODELS.float64_by_default


@pytest.fixture(autouse=True)
def on_replicas(monkeypatch):
    """Create what a test creates under the strategy, and call layers in training on two parts."""
    with on_two_replicas(ONE_LAYER, monkeypatch):
        yield
