"""What we take of Keras's private names still means what we need it for.

A failure here after an update of Keras names the part of `_keras.py`, or of its like, to mend.
"""

import ast
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest

from batchnorm_mechanics import _keras, _keras_training

PACKAGE = Path(_keras.__file__).parent


@pytest.fixture
def graph():
    """Two inputs, one shared dense layer with its bias, an addition."""
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    dense = keras.layers.Dense(2, name="dense")
    return keras.Model({"a": a, "b": b}, keras.layers.Add(name="sum")([dense(a), dense(b)]))


class Holder(keras.layers.Layer):
    """A layer with a weight of its own and layers in a list."""

    def __init__(self):
        """Hold a dropout layer, twice, and a count."""
        super().__init__(name="holder")
        self.held = [keras.layers.Dropout(0.5, name="drop")]
        self.again = self.held[0]
        self.seen = self.add_weight(shape=(), name="seen", trainable=False)
        self.scale = self.add_weight(shape=(), name="scale")
        self.seed = keras.random.SeedGenerator(1)

    def call(self, inputs, training=False):
        return inputs


def test_layers_are_found_however_deep_and_each_once():
    holder = Holder()
    model = keras.Sequential([holder, keras.Sequential([holder], name="inner")], name="outer")
    names = [layer.name for layer in _keras.layers_in(model)]
    assert sorted(names) == ["drop", "holder", "inner", "outer"]
    assert names[0] == "outer"
    assert "outer" not in [layer.name for layer in _keras.layers_in(model, itself=False)]


def test_direct_layers_are_those_that_a_layer_tracks(graph):
    assert [layer.name for layer in _keras.direct_layers(graph)] == ["a", "b", "dense", "sum"]
    assert {layer.name for layer in _keras.direct_layers(Holder())} == {"drop"}


def test_own_variables_and_state_are_without_those_of_inner_layers():
    holder = Holder()
    assert [variable.name for variable in _keras.own_variables(holder)] == ["scale", "seen"]
    state = _keras.own_state(holder)
    assert any(one is holder.seen for one in state)
    assert any(one is holder.seed.state for one in state)
    assert not any(one is holder.scale for one in state)
    assert not any(one is holder.again.seed_generator.state for one in state)


def test_what_a_stateful_recurrent_layer_carries_is_state():
    layer = keras.layers.LSTM(2, stateful=True)
    layer.build((4, 3, 5))
    assert {id(one) for one in layer.states} <= {id(one) for one in _keras.own_state(layer)}


def test_what_draws_at_random_in_training_is_told():
    drawing = [keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0), Holder()]
    assert all(_keras.draws_at_random(layer) for layer in drawing)
    assert not _keras.draws_at_random(keras.layers.BatchNormalization())


def test_a_tensor_tells_whether_it_has_a_mask():
    inputs = keras.Input((4, 3))
    assert not _keras.has_mask(inputs)
    assert _keras.has_mask(keras.layers.Masking()(inputs))


def test_a_variable_tells_whether_it_is_cast():
    layer = keras.layers.BatchNormalization(dtype="mixed_float16")
    layer.build((None, 2))
    assert not _keras.is_autocast(layer.moving_mean)
    dense = keras.layers.Dense(1, dtype="mixed_float16")
    dense.build((None, 2))
    assert _keras.is_autocast(dense.kernel)


def test_a_model_tells_whether_its_call_takes_training():
    class Plain(keras.Model):
        def call(self, inputs):
            return inputs

    assert not _keras.takes_training(Plain())
    assert _keras.takes_training(Holder())


def test_a_sequence_has_a_graph_once_it_knows_its_input(graph):
    sequence = keras.Sequential([keras.layers.ReLU()])
    assert _keras.functional_of(sequence) is None
    sequence.build((None, 2))
    assert len(_keras.nodes_in(_keras.functional_of(sequence))) == 2
    assert _keras.functional_of(graph) is graph
    assert _keras.functional_of(Holder()) is None


def test_the_calls_of_a_graph_come_in_an_order_that_can_run(graph):
    names = [node.operation.name for node in _keras.nodes_in(graph)]
    assert sorted(names) == ["a", "b", "dense", "dense", "sum"]
    assert names[-1] == "sum"
    assert set(names[:2]) == {"a", "b"}
    last = _keras.nodes_in(graph)[-1]
    assert [tuple(tensor.shape) for tensor in last.input_tensors] == [(None, 2)] * 2
    assert last.output_tensors[0] is graph.output


def test_a_tensor_knows_which_call_made_it(graph):
    made = _keras.origin_of(graph.output)
    assert (made.operation.name, made.position) == ("sum", 0)
    first, second = (_keras.origin_of(tensor) for tensor in made.node.input_tensors)
    assert first.operation is second.operation
    assert first.node is not second.node
    assert [one.node.input_tensors[0].name for one in (first, second)] == ["a", "b"]


def test_inputs_come_in_the_order_of_the_graph(graph):
    a, b = np.zeros((4, 3), "float32"), np.ones((4, 3), "float32")
    tensors = {name: keras.ops.convert_to_tensor(value) for name, value in [("b", b), ("a", a)]}
    first, second = _keras.as_graph_inputs(graph, tensors)
    assert (float(first[0, 0]), float(second[0, 0])) == (0.0, 1.0)
    with pytest.raises(ValueError, match="shape"):
        _keras.as_graph_inputs(graph, {"a": tensors["a"], "b": keras.ops.ones((4, 3, 7))})


def test_a_lambda_keeps_the_output_shape_that_it_was_given():
    assert _keras.output_shape_of(keras.layers.Lambda(lambda x: x, output_shape=(2,))) == (2,)


def test_a_compiled_model_keeps_the_objects_that_it_was_compiled_with(graph):
    def loss(true, predicted):
        return keras.ops.mean(true - predicted)

    graph.compile(optimizer="sgd", loss=loss)
    assert _keras_training.compile_arguments(graph)["loss"] is loss


def test_a_compiled_model_has_its_loss_as_one_function(graph):
    assert _keras_training.compiled_loss(graph) is None
    graph.compile(loss="mse")
    loss = _keras_training.compiled_loss(graph)(keras.ops.ones((4, 2)), 3 * keras.ops.ones((4, 2)))
    assert float(loss) == 4.0


def test_an_optimizer_tells_the_average_of_each_weight():
    weight = keras.Variable([1.0], name="weight")
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([weight])
    optimizer.apply([keras.ops.ones(1)])
    ((of, average),) = _keras_training.averages_of(optimizer)
    assert of is weight
    assert average is not weight
    assert tuple(average.shape) == (1,)


def test_a_layer_is_exchanged_where_a_built_layer_holds_it():
    old, new, holder = keras.layers.ReLU(name="old"), keras.layers.ReLU(name="new"), Holder()
    holder.alone, holder.listed, holder.named = old, [old], {"key": old}
    holder.pair = (1, old)
    holder.build((None, 1))
    holder.built = True
    assert _keras.exchange_layer(holder, old, new)
    held = (holder.alone, holder.listed[0], holder.named["key"], holder.pair[1])
    assert all(one is new for one in held)
    assert old not in _keras.direct_layers(holder)
    assert new in _keras.direct_layers(holder)
    assert not _keras.exchange_layer(holder, old, new)


def test_an_optimizer_knows_the_weights_that_it_was_made_for():
    weight = keras.Variable([1.0], name="weight")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    assert _keras_training.trained_by(optimizer) == []
    optimizer.build([weight])
    (known,) = _keras_training.trained_by(optimizer)
    assert known is weight


def test_an_optimizer_counts_batches_whose_gradients_it_gathers():
    weight = keras.Variable([1.0], name="weight")
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=4)
    optimizer.build([weight])
    for _ in range(6):
        optimizer.apply([keras.ops.ones(1)])
    assert int(_keras_training.batches_seen(optimizer)) == 6
    assert int(optimizer.iterations) == 1


def private_names_of_keras(graph):
    """The names with a leading underscore that Keras's objects have."""
    graph.compile("sgd", "mse")
    node = _keras.origin_of(graph.output).node
    examples = (graph, Holder(), keras.Sequential(), graph.optimizer, graph.weights[0], node)
    names = {name for example in (*examples, graph.output) for name in dir(example)}
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


def names_taken(source):
    """Each name that is taken from an object, by a dot or by its text, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") in {"getattr", "hasattr"}
            and isinstance(node.args[1], ast.Constant)
        ):
            yield node.lineno, node.args[1].value


def own_names(source):
    """The names that a module gives to functions and to attributes of its own objects."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and getattr(node.value, "id", "") == "self"
        ):
            yield node.attr


def test_no_private_name_of_keras_is_used_elsewhere(graph):
    private = private_names_of_keras(graph)
    assert {"_layers", "_flatten_layers", "_keras_history", "_nodes_by_depth"} <= private
    sources = {
        str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("_keras.py", "_keras_training.py")
    }
    used = []
    for path, source in sources.items():
        forbidden = private - {*own_names(source)}
        used += [
            f"{path}:{line}: {name}" for line, name in names_taken(source) if name in forbidden
        ]
    assert used == [], "\n".join(used)


def test_losses_are_reduced_by_a_function_of_ours_while_it_is_asked(rng):
    y = rng.normal(size=(2, 4, 1))
    loss = keras.losses.MeanSquaredError(reduction="sum")

    def reducer(plain, values, sample_weight, mask, reduction, dtype):
        assert (tuple(values.shape), reduction, dtype) == ((4,), "sum", "float32")
        assert sample_weight is None
        assert mask is None
        return 10 * plain(values, sample_weight, mask, reduction, dtype)

    before = loss(*y)
    with _keras_training.losses_reduced_by(reducer):
        within = loss(*y)
    np.testing.assert_allclose([within, loss(*y)], [10 * before, before], rtol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_an_optimizer_begins_with_summed_gradients(scaled):
    optimizer = keras.optimizers.SGD(1.0, clipvalue=0.5)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    weight = keras.Variable([0.0, 0.0])
    unused = keras.Variable([0.0])
    for _ in range(2):
        _keras_training.sum_gradients_first(
            optimizer, lambda gradients: [2 * one for one in gradients]
        )
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([keras.ops.array([0.125, 0.375]), None], [weight, unused])
    # Summed before they are clipped, and once.
    np.testing.assert_array_equal(weight, [-0.25, -0.5])


def test_a_model_builds_itself_from_what_a_function_makes_of_a_batch():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 3)), np.ones((4, 2))
    _keras_training.build_from(
        model, lambda batch: tuple(keras.ops.array(one[:1]) for one in batch)
    )
    model.evaluate(x, y, verbose=0)
    assert model._maybe_symbolic_build is vars(model)["_maybe_symbolic_build"]
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    _keras_training.build_from(
        model, lambda batch: tuple(keras.ops.array(one[:1]) for one in batch)
    )
    model._maybe_symbolic_build(iterator=[(0, 0, iter([(x, y)]))])
    assert model.built
    assert model.optimizer.built


def test_fit_goes_on_from_the_epoch_that_it_is_told():
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    assert _keras_training.first_epoch(model) == 0
    _keras_training.go_on_from_epoch(model, 2)
    assert _keras_training.first_epoch(model) == 2
    assert model.fit(np.ones((4, 3)), np.ones((4, 1)), epochs=3, verbose=0).epoch == [2]


def test_what_a_step_of_several_workers_returns_goes_through_one_function():
    from keras.src.backend.tensorflow import trainer

    reduce = trainer.reduce_per_replica
    assert list(inspect.signature(reduce).parameters) == ["values", "strategy", "reduction"]
    # The step of a strategy calls it by that name, with the reduction that is ours.
    source = inspect.getsource(trainer.TensorFlowTrainer._make_function)
    assert 'reduction="auto"' in source
    assert callable(trainer.TensorFlowTrainer._autoconvert_optionals)


def test_a_mask_goes_along_with_other_numbers():
    masked = keras.layers.Masking()(np.array([[[1.0], [0.0]]], np.float32))
    assert _keras.has_mask(masked)
    other = _keras.with_mask_of(np.array([[[2.0], [3.0]]], np.float32), masked)
    last = keras.layers.SimpleRNN(
        1, activation="linear", kernel_initializer="ones", recurrent_initializer="zeros"
    )(other)
    # The second step is masked: the layer took the mask from the tensor.
    assert float(np.asarray(last)[0, 0]) == 2.0
    assert not _keras.has_mask(_keras.with_mask_of(np.ones(1), np.zeros(1)))


def test_a_call_is_filled_in_with_what_stands_for_its_tensors(graph):
    node = next(one for one in _keras.nodes_in(graph) if one.operation.name == "sum")
    tensors = {id(one): number for number, one in enumerate(node.input_tensors)}
    assert _keras.filled_in(node, tensors) == (([0, 1],), {})
