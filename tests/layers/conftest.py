"""With REPLICAS=1 in the environment, the tests of the layer ask the same of two replicas.

`make thorough` runs them so. Those of `accelerate` and of what it is made of are about Keras's own
layer, whose replicas tests/distribute asks.
"""

import os

import pytest

REPLICAS = bool(os.environ.get("REPLICAS"))
_XLA = "XLA reads no variable of another device, as on one machine all but the first replica's are"
_KERAS = "it compares with Keras's layer, whose replicas normalize each for itself"
# By the beginning of a test's name: what cannot hold on two replicas, and why.
NOT_THERE = {
    "test_a_users_policy_works_in_the_layer": "replicas add in another order, to the last digit",
    "test_a_masked_step_is_kerass_where_keras_can_mask": _KERAS,
    "test_a_model_trains_evaluates_and_predicts_as_with_kerass_layer[False]": _KERAS,
    "test_a_model_trains_evaluates_and_predicts_as_with_kerass_layer[True]": _XLA,
    "test_mixed_precision_fits_under_jit_with_finite_losses_near_kerass": _XLA,
    "test_a_compiled_layer_of_unknown_batch_size_is_the_oracles[True]": _XLA,
    "test_an_empty_batch_of_unknown_size_leaves_the_statistics[True]": _XLA,
    "test_an_empty_batch_cannot_be_trained_on": "one replica may be empty, so that none is refused",
    "test_a_mask_that_does_not_fit_is_refused": "divided like the batch, it fits the parts",
    "test_a_layer_trains_in_a_loop_of_ones_own": "its loop takes gradients outside of the replicas",
}

if REPLICAS:
    collect_ignore = ["test_accelerate.py", "test_intercept.py"]

    @pytest.fixture(autouse=True)
    def on_both(monkeypatch, request):
        """Run a test under the strategy, or say why it cannot hold there."""
        from replicated_layers import on_two_replicas

        reasons = (NOT_THERE[name] for name in NOT_THERE if request.node.name.startswith(name))
        if (reason := next(reasons, None)) is not None:
            pytest.skip(reason)
        with on_two_replicas(request.module, monkeypatch):
            yield
