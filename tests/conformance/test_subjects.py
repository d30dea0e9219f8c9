"""Each built-in subject, opened for real and held against the oracle."""

import importlib
from functools import cache

import numpy as np
import pytest
from subject_checks import (
    Layout,
    assert_close,
    batch_of,
    check_gradients,
    check_inference_output,
    check_mask,
    check_reloading,
    check_training,
    setting_of,
)

from batchnorm_mechanics.conformance import subjects
from batchnorm_mechanics.conformance.subject import Ability, Setting

LAST = [
    Layout((6, 5), (1,)),
    Layout((4, 3, 2, 5), (3,), "float16"),
    Layout((4, 2, 3, 2, 5), (4,), "bfloat16"),
]
SECOND = [Layout((4, 3, 5), (1,)), Layout((4, 3, 2, 2), (1,), "float16")]
BFLOAT16 = [Layout((4, 3, 2, 2, 3), (1,), "bfloat16")]
FIRST = [Layout((3, 4, 5), (0,))]
FLOAT64 = [Layout((4, 3, 5), (1,), "float64")]
SETS = [Layout((4, 3, 5), (1, 2)), Layout((4, 3, 5), ()), Layout((4, 3, 2, 5), (1, 3), "float64")]
ANY_ONE_AXIS = [*LAST, *SECOND, *FIRST]

LAYOUTS = {
    "bnm.functions": [*ANY_ONE_AXIS, *FLOAT64, *SETS],
    "bnm.functions-autodiff": [*ANY_ONE_AXIS, *FLOAT64, *SETS],
    "bnm.layer": [*ANY_ONE_AXIS, *FLOAT64],
    # Beside replicas, in test_replicas.py.
    "bnm.layer-synchronized": LAST[:1],
    "bnm.layer-fused": LAST,
    "bnm.layer-autodiff": [LAST[0], SECOND[0], *FLOAT64],
    # In float32 beside the eager path, below.
    "bnm.layer-graph": [LAST[1], *FLOAT64],
    "bnm.layer-compiled": [LAST[1], *FLOAT64],
    "keras": [*ANY_ONE_AXIS, *FLOAT64],
    "keras-synchronized": LAST[:1],
    "tf.nn": [LAST[0], SECOND[0], *FIRST, *FLOAT64, *SETS],
    "tf.fused": ANY_ONE_AXIS,
    "torch": [*SECOND, *BFLOAT16, Layout((6, 5), (1,)), *FLOAT64],
    "flax": [SECOND[1], *FIRST, LAST[0], *FLOAT64],
    "onnxruntime": [*SECOND, Layout((6, 5), (1,))],
}
PEERS = {"torch": ["torch"], "flax": ["jax", "flax"], "onnxruntime": ["onnx", "onnxruntime"]}
UNBIASED = {"tf.fused", "torch"}
ALL = set(Ability)
WITHOUT = {
    "bnm.functions": {Ability.CALL, Ability.RELOAD},
    "bnm.functions-autodiff": {Ability.CALL, Ability.RELOAD},
    "bnm.layer-fused": {Ability.MASK},
    "tf.nn": {Ability.CALL, Ability.RELOAD, Ability.MASK, Ability.STATISTICS},
    "tf.fused": {Ability.RELOAD, Ability.MASK},
    "torch": {Ability.MASK},
    "onnxruntime": {Ability.MASK, Ability.GRADIENTS},
}


@cache
def subject(name):
    for package in PEERS.get(name, []):
        pytest.importorskip(package)
    return subjects.resolve(name)


def cases(*, needing=None):
    return [
        pytest.param(name, layout, id=f"{name}-{layout.shape}-{layout.kept}-{layout.dtype}")
        for name, layouts in LAYOUTS.items()
        if needing not in WITHOUT.get(name, ())
        for layout in layouts
    ]


def names(*, needing):
    return [name for name in LAYOUTS if needing not in WITHOUT.get(name, ())]


def test_every_built_in_subject_is_tested_here():
    assert set(LAYOUTS) == set(subjects.all_names())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_subject_says_what_it_can_be_asked(name):
    assert subject(name).abilities == ALL - WITHOUT.get(name, set())


@pytest.mark.parametrize(("name", "layout"), cases())
def test_no_layout_of_these_is_refused(name, layout, rng):
    setting = setting_of(subject(name), layout, rng)
    assert subject(name).refusal(setting) is None


@pytest.mark.parametrize(("name", "layout"), cases())
def test_training_gives_the_oracle_s_outputs_and_moving_statistics(name, layout, rng):
    check_training(subject(name), layout, rng, unbiased=name in UNBIASED)


@pytest.mark.parametrize(("name", "layout"), cases())
def test_the_inference_output_is_the_oracle_s(name, layout, rng):
    check_inference_output(subject(name), layout, rng)


@pytest.mark.parametrize(("name", "layout"), cases(needing=Ability.GRADIENTS))
def test_the_gradients_are_the_oracle_s(name, layout, rng):
    check_gradients(subject(name), layout, rng)


@pytest.mark.parametrize("name", names(needing=Ability.RELOAD))
def test_a_loaded_subject_goes_on_as_the_saved_one(name, rng):
    # An axis that is not the default must be in the file; the fused kernel keeps only the last.
    kept = (2,) if name == "bnm.layer-fused" else (1,)
    check_reloading(subject(name), Layout((4, 3, 5), kept), rng)


@pytest.mark.parametrize("name", names(needing=Ability.MASK))
def test_a_mask_keeps_samples_out_of_the_statistics(name, rng):
    check_mask(subject(name), Layout((6, 4, 3), (2,)), rng)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("bnm.layer", "infer"),
        ("keras", "infer"),
        ("tf.fused", "train"),
        ("torch", "train"),
        ("flax", "train"),
        ("onnxruntime", "infer"),
    ],
)
def test_without_a_mode_a_subject_does_what_it_does_by_itself(name, mode, rng):
    layout = Layout((6, 5), (1,))
    setting, x = setting_of(subject(name), layout, rng), batch_of(layout, rng)
    called = subject(name).open(setting).call(x)
    np.testing.assert_array_equal(called, getattr(subject(name).open(setting), mode)(x))


@pytest.mark.parametrize("name", ["bnm.layer", "bnm.layer-graph", "bnm.layer-compiled", "torch"])
def test_inference_leaves_the_moving_statistics_alone(name, rng):
    layout = Layout((6, 5), (1,))
    session = subject(name).open(setting_of(subject(name), layout, rng))
    before = session.statistics()
    session.infer(batch_of(layout, rng))
    np.testing.assert_array_equal(before, session.statistics())


@pytest.mark.parametrize("name", names(needing=Ability.STATISTICS))
def test_statistics_handed_out_do_not_change_afterwards(name, rng):
    layout = Layout((6, 5), (1,))
    session = subject(name).open(setting_of(subject(name), layout, rng))
    before = session.statistics()
    copies = [part.copy() for part in before]
    session.train(batch_of(layout, rng))
    np.testing.assert_array_equal(before, copies)
    assert np.all(session.statistics().mean != before.mean)


def test_our_layer_gives_the_same_on_all_three_paths(rng):
    layout = Layout((6, 3, 4), (2,))
    setting, x = setting_of(subject("bnm.layer"), layout, rng), batch_of(layout, rng)
    results = []
    for path in ("", "-graph", "-compiled"):
        session = subject(f"bnm.layer{path}").open(setting)
        results.append((session.train(x), *session.statistics(), session.infer(x)))
    for other in results[1:]:
        for actual, expected in zip(other, results[0], strict=True):
            assert_close(actual, expected.astype(float), layout.dtype)


@pytest.mark.parametrize(
    ("name", "epsilon", "axis"),
    [
        ("bnm.functions", 1e-3, -1),
        ("bnm.layer", 1e-3, -1),
        ("keras", 1e-3, -1),
        ("tf.fused", 1e-4, -1),
        ("torch", 1e-5, 1),
        ("flax", 1e-5, -1),
        ("onnxruntime", 1e-5, 1),
    ],
)
def test_what_a_setting_leaves_out_is_the_subject_s_own(name, epsilon, axis):
    session = subject(name).open(Setting((2, 3, 4)))
    x = np.ones((2, 3, 4), np.float32)
    np.testing.assert_allclose(session.infer(x), 1 / np.sqrt(1 + epsilon), rtol=3e-7)
    assert session.statistics().mean.shape == ((2, 3, 4)[axis],)


@pytest.mark.parametrize(
    ("name", "setting", "reason"),
    [
        ("bnm.functions", Setting((2, 3), (0, 1)), "it reduces over at least one axis"),
        ("bnm.layer", Setting((2, 3), ()), "it keeps at least one axis"),
        ("keras", Setting((2, 3), ()), "it keeps at least one axis"),
        (
            "keras",
            Setting((2, 3, 4), (1, 2)),
            "it does not take a list for `axis`: TypeError: int() argument must be a string, a "
            "bytes-like object or a real number, not 'list'",
        ),
        ("tf.nn", Setting((2, 3), (0, 1)), "it reduces over at least one axis"),
        ("tf.nn", Setting((2, 3), (1,), momentum=0.9), "it has no momentum"),
        ("tf.fused", Setting((2, 3), (1,), "float64"), "it has no float64 kernel"),
        ("tf.fused", Setting((2, 3, 4), (1, 2)), "it keeps exactly one axis"),
        ("torch", Setting((2, 3, 4), (2,)), "it keeps axis 1"),
        ("torch", Setting((2, 3, 4, 2, 2, 2), (1,)), "it takes rank 2 to 5"),
        ("flax", Setting((2, 3, 4), (1, 2)), "its `axis` is one axis"),
        ("onnxruntime", Setting((2, 3, 4), (2,)), "it keeps axis 1"),
        ("onnxruntime", Setting((2, 3), (1,), "bfloat16"), "it has no bfloat16 kernel"),
        (
            "onnxruntime",
            Setting((2, 3), (1,), "float64", epsilon=0.01),
            "its epsilon and momentum are float32, so that these would be others",
        ),
    ],
)
def test_what_a_subject_does_not_claim_is_refused_with_the_reason(name, setting, reason):
    assert subject(name).refusal(setting) == reason


def test_onnx_runtime_takes_float64_where_its_float32_attributes_are_exact(rng):
    setting = Setting((6, 5), (1,), "float64", epsilon=0.25, momentum=0.5)
    x = rng.normal(size=(6, 5))
    assert subject("onnxruntime").refusal(setting) is None
    y = subject("onnxruntime").open(setting).train(x)
    assert_close(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 0.25), "float64")


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("bnm.functions", {"axis"}),
        ("bnm.layer", set()),
        ("tf.nn", {"axis", "epsilon", "statistics"}),
        ("tf.fused", {"statistics"}),
        ("torch", set()),
        ("flax", set()),
        ("onnxruntime", {"statistics"}),
    ],
)
def test_a_subject_says_what_it_has_no_default_for(name, needs):
    assert subject(name).needs == needs


@pytest.mark.parametrize("name", ["keras", "tf.nn", "tf.fused"])
def test_a_description_names_the_library_s_version(name):
    library = importlib.import_module("keras" if name == "keras" else "tensorflow")
    assert library.__version__ in subject(name).description


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_s_description_names_its_version(name):
    described = subject(name).description
    assert importlib.import_module(name).__version__.partition("+")[0] in described
