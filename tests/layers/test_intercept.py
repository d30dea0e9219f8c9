"""Whoever stands in a layer's `call` leaves it as it was found, in any nesting."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.layers.intercept import intercepted, own_call, put_call

# Two steps of training are few, and it says so.
pytestmark = pytest.mark.filterwarnings("ignore:Watch. BN106")

X = np.random.default_rng(0).normal(3.0, 2.0, (40, 4)).astype("float32")


def doubled(call, inputs):
    return 2 * call(inputs)


def plus_one(call, inputs):
    return 1 + call(inputs)


def one_relu():
    return keras.layers.ReLU()


def value_of(layer):
    return layer(keras.ops.ones(1)).numpy().item()


def held(layer):
    return vars(layer).get("call")


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))], ids=str)
def test_blocks_may_end_in_any_order(order):
    layer = one_relu()
    blocks = [intercepted(layer, answer) for answer in (doubled, plus_one, doubled)]
    for block in blocks:
        block.__enter__()
    assert value_of(layer) == 2 * (1 + 2 * 1)
    for number in order:
        blocks[number].__exit__(None, None, None)
    assert held(layer) is None
    assert value_of(layer) == 1


def test_the_last_to_come_stands_first():
    layer = one_relu()
    with intercepted(layer, doubled), intercepted(layer, plus_one):
        assert value_of(layer) == 1 + 2 * 1


def test_what_is_put_for_good_within_a_block_stays():
    layer = one_relu()
    with intercepted(layer, doubled):
        put_call(layer, lambda inputs: 5.0 * inputs)
        assert value_of(layer) == 10
    assert value_of(layer) == 5
    with intercepted(layer, doubled):
        put_call(layer, None)
        assert own_call(layer) is None
        assert value_of(layer) == 2
    assert held(layer) is None


def test_what_somebody_else_puts_there_meanwhile_is_theirs():
    layer = one_relu()

    def theirs(inputs):
        return 7.0 * inputs

    with intercepted(layer, doubled):
        layer.call = theirs
    assert held(layer) is theirs


def test_an_exception_leaves_nothing_behind():
    layer = one_relu()

    def stand_and_fail():
        with intercepted(layer, doubled):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        stand_and_fail()
    assert held(layer) is None


def test_a_graph_has_what_stood_there_when_it_was_traced():
    layer = one_relu()
    graph = tf.function(layer)
    with intercepted(layer, doubled):
        assert graph(tf.ones(1)).numpy().item() == 2
    assert graph(tf.ones(1)).numpy().item() == 2
    assert graph(tf.ones(2)).numpy().tolist() == [1, 1]


def two_norms():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(name="second"),
        ]
    )


def traced(model):
    bnm.trace(model, X, layer="bn", training=True)


def diagnosed(model):
    bnm.diagnose(model, X)


def repaired(model):
    bnm.repair(model, X)


def recalibrated(model):
    bnm.recalibrate(model, X)


def watched(model):
    model.compile("sgd", "mse")
    model.fit(X, X[:, :3], batch_size=20, verbose=0, callbacks=[bnm.Watch()])


EVERYTHING = (traced, diagnosed, repaired, recalibrated, watched)


@pytest.mark.parametrize("use", EVERYTHING)
def test_an_accelerated_layer_stays_so_whatever_looks_at_it(use):
    model = two_norms()
    bnm.accelerate(model)
    before = [held(model.get_layer(name)) for name in ("bn", "second")]
    assert None not in before
    use(model)
    assert [held(model.get_layer(name)) for name in ("bn", "second")] == before
    assert bnm.restore(model) == 2


@pytest.mark.parametrize("use", EVERYTHING)
def test_a_layer_of_keras_stays_so_whatever_looks_at_it(use):
    model = two_norms()
    use(model)
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("use", EVERYTHING)
@pytest.mark.parametrize("before", [True, False])
def test_an_exception_in_the_middle_leaves_the_layers_as_they_were(use, before):
    model = two_norms()
    norm = model.get_layer("second")
    if before:
        bnm.accelerate(model)

    class BrokenError(Exception):
        pass

    def breaking(*_arguments, **_options):
        raise BrokenError

    own = held(norm)
    # The first layer runs, the one after it does not.
    with intercepted(model.layers[1], breaking), pytest.raises((BrokenError, InputError)):
        use(model)
    assert held(norm) is own
    assert held(model.layers[1]) is None


def test_accelerate_and_restore_work_while_a_block_stands():
    model = two_norms()
    norm = model.get_layer("bn")
    with intercepted(norm, lambda call, *a, **k: call(*a, **k)):
        assert bnm.accelerate(model).count == 2
        assert bnm.accelerate(model).count == 2
    assert held(norm) is not None
    with intercepted(norm, lambda call, *a, **k: call(*a, **k)):
        assert bnm.restore(model) == 2
    assert held(norm) is None


def test_a_model_within_takes_a_repaired_momentum_with_its_next_step():
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(momentum=0.01, name="bn")
    inner = keras.Sequential([keras.layers.Input((4,)), norm], name="inner")
    outer = keras.Sequential([keras.layers.Input((4,)), inner], name="outer")
    inner.compile("sgd", "mse")
    inner.fit(X, X, batch_size=20, verbose=0)
    repair = bnm.repair(outer, only=["BN105"])
    assert [change.name for change in repair.change.layers] == ["inner/bn"]
    norm.moving_mean.assign([100.0] * 4)
    inner.fit(X, X, batch_size=40, verbose=0)
    # One step at 0.99; at the old 0.01 it would be about 4.
    assert norm.moving_mean.numpy().min() > 90
