"""Copies of models: what they take along, what they leave to others, and what is refused."""

import keras
import numpy as np
import pytest
from oracle_cases import whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._keras import nodes_in
from batchnorm_mechanics.layers import accelerate
from batchnorm_mechanics.models.model_copies import Edits, copied

L = keras.layers
REFUSED = (
    "fold: `model` must consist of layers that Keras can copy by `get_config` and `from_config`. "
    "Received: the layer "
)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def source(shape=(4,), **settings):
    return keras.Input(shape, **settings)


def graph(inputs, outputs, **settings):
    return keras.Model(inputs, outputs, **settings)


def sequence(*layers):
    return keras.Sequential([L.Input((4,)), *layers])


def data_for(model):
    rng = np.random.default_rng(0)
    inputs = getattr(model, "_functional", model)
    made = [
        rng.integers(0, 3, (3, *tensor.shape[1:])).astype(tensor.dtype)
        if "int" in tensor.dtype
        else rng.normal(1, 2, (3, *tensor.shape[1:])).astype(tensor.dtype)
        for tensor in inputs.inputs
    ]
    return keras.tree.pack_sequence_as(inputs.input, made)


def copy_of(model, edits=None):
    """Copy a model, and see that the copy computes the same and has nothing of the model's."""
    done = copied(model, edits, caller="fold")
    new = done.model
    assert not {id(part) for part in (*model._flatten_layers(), *model.variables)} & {
        id(part) for part in (*new._flatten_layers(), *new.variables)
    }
    if edits is None:
        data = data_for(model)
        agree(new(data, training=False), model(data, training=False))
    before = [variable.numpy() for variable in model.variables]
    for variable in new.variables:
        variable.assign(keras.ops.zeros_like(variable))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    return copied(model, edits, caller="fold")


def whole_copy_of(model):
    """Copy a model of which nothing may be lost, variables and flags included."""
    done = copy_of(model)
    assert done.lost == ()
    assert type(done.model) is type(model)
    for old, new in zip(model.variables, done.model.variables, strict=True):
        np.testing.assert_array_equal(new, old)
        assert (new.trainable, new.dtype) == (old.trainable, old.dtype)
    return done.model


def agree(actual, expected):
    keras.tree.assert_same_structure(actual, expected)
    for one, other in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def names_in(model):
    return [layer.name for layer in model._flatten_layers()]


def refused(model, message):
    with pytest.raises(InputError, match=whole(REFUSED + message)):
        copied(model, caller="fold")


# What is taken along: structure.


def test_names_and_the_structure_of_inputs_and_outputs_are_the_same():
    first, second = source(name="first"), source((6,), name="a", dtype="int32")
    h = L.Dense(3, name="dense")(first)
    model = graph(
        {"first": first, "a": second}, {"z": h, "parts": [h * 2.0, (second, h)]}, name="both"
    )
    new = whole_copy_of(model)
    assert names_in(new) == names_in(model)
    assert [op.name for op in new.operations] == [op.name for op in model.operations]
    assert (new.name, list(new.input), new.output_names) == (
        "both",
        ["first", "a"],
        model.output_names,
    )
    assert [tensor.name for tensor in new.inputs] == [tensor.name for tensor in model.inputs]


def test_inputs_keep_their_kind():
    class Either(L.Layer):
        def call(self, first, second=None):
            return first if second is None else first + second

        def compute_output_shape(self, first_shape, second_shape=None):
            return first_shape

    x, y = source((4,), batch_size=3, sparse=True, name="x"), source((2,), name="y", optional=True)
    model = graph([x, y], Either()(L.Dense(2)(x), y))
    new = copied(model, caller="fold").model
    settings = [
        [(tensor.name, tensor.shape, tensor.sparse) for tensor in one.inputs]
        for one in (new, model)
    ]
    assert settings[0] == settings[1]
    assert [layer.optional for layer in new.layers if isinstance(layer, L.InputLayer)] == [
        False,
        True,
    ]


def test_a_graph_between_tensors_of_another_is_copied_alone():
    h = L.Dense(5)(source())
    assert len(whole_copy_of(graph(h, L.Dense(3)(h))).layers) == 2


def test_operations_indices_and_constants_are_copied():
    x = source((5, 4))
    h = keras.ops.concatenate([x[:, 1:3] * 2.0, keras.ops.flip(x, axis=1)], axis=1)
    h = keras.ops.einsum("bij,bkj->bik", h, h) + np.arange(7, dtype="float32")
    model = graph(x, h)
    new = whole_copy_of(model)
    assert not {id(op) for op in new.operations} & {id(op) for op in model.operations}


def test_arguments_in_any_place_are_copied():
    x = source((5, 4))
    sequence_, h, c = L.LSTM(3, return_state=True, return_sequences=True)(x)
    again = L.LSTM(3, return_sequences=True)(sequence_, initial_state=[h, c])
    attended = L.MultiHeadAttention(2, 3)(again, value=x, use_causal_mask=True)
    new = whole_copy_of(graph(x, attended))
    (node,) = new.layers[-1]._inbound_nodes
    assert node.arguments.kwargs["use_causal_mask"] is True


def test_a_model_within_that_is_called_twice_is_one_copy_called_twice():
    z = source()
    inner = graph(z, L.Dense(4)(z), name="inner")
    x, y = source(), source()
    new = whole_copy_of(graph([x, y], inner(x) - inner(inner(y))))
    (copy,) = [layer for layer in new.layers if layer.name == "inner"]
    assert len([node for node in nodes_in(new) if node.operation is copy]) == 3


def test_a_sequence_within_stays_a_sequence_and_a_shared_layer_shared():
    shared, x = L.Dense(4, name="shared"), source()
    model = graph(x, sequence(shared, L.ReLU())(x) + shared(x))
    new = whole_copy_of(model)
    (inner,) = [layer for layer in new.layers if isinstance(layer, keras.Sequential)]
    assert inner.layers[0] is new.get_layer("shared")


def test_a_sequence_that_got_its_input_from_data_is_copied():
    model = keras.Sequential([L.Dense(3)])
    model(np.ones((2, 4)))
    assert whole_copy_of(model).input_shape == model.input_shape


def test_layers_within_layers_are_copied():
    x = source((5, 4))
    inner = sequence(L.Dense(3, activation="relu"), L.BatchNormalization())
    h = L.TimeDistributed(inner)(x)
    h = L.Bidirectional(L.LSTM(3, return_sequences=True, dropout=0.2))(h)
    whole_copy_of(graph(x, L.RNN([L.LSTMCell(2), L.GRUCell(3)])(h)))


# What is taken along: classes.


class Trained(keras.Model):
    def train_step(self, data):
        return {"of_its_own": keras.ops.zeros(())}


class Passing(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Few(keras.Model):
    def __init__(self, inputs, outputs, name=None):
        super().__init__(inputs, outputs, name=name)


class Row(keras.Sequential):
    def summary(self):
        return "a row"


@pytest.mark.parametrize("kind", [Trained, Passing, Few])
def test_a_graph_keeps_a_class_with_the_constructor_of_keras_s(kind):
    x = source()
    whole_copy_of(kind(x, L.Dense(3)(x), name="own"))


def test_a_sequence_keeps_its_class():
    x = source()
    inner = Row([L.Input((4,)), L.Dense(3)])
    new = whole_copy_of(graph(x, inner(x)))
    assert new.layers[1].summary() == "a row"


class Own(keras.Model):
    def __init__(self, units, name=None):
        x = source()
        super().__init__(x, L.Dense(units)(x), name=name)


class Longer(keras.Model):
    def __init__(self, inputs, outputs, name=None):
        super().__init__(inputs, outputs * 2.0 if made else outputs, name=name)


class Demanding(keras.Model):
    def __init__(self, *args, **kwargs):
        if made:
            raise KeyError("units")
        super().__init__(*args, **kwargs)


class LongerRow(keras.Sequential):
    def __init__(self, layers=None, trainable=True, name=None):
        super().__init__([*layers, L.ReLU()] if made else layers, trainable, name)


made = []


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Own(3, name="m"),
        lambda x: Longer(x, L.Dense(3)(x), name="m"),
        lambda x: Demanding(x, L.Dense(3)(x), name="m"),
        lambda x: LongerRow([L.Input((4,)), L.Dense(3)], name="m"),
    ],
    ids=["other arguments", "more in it", "raises", "longer row"],
)
def test_a_class_with_another_constructor_becomes_keras_s_and_that_is_said(make, monkeypatch):
    model = make(source())
    monkeypatch.setitem(globals(), "made", [model])
    done = copy_of(model)
    plain = "Sequential" if isinstance(model, keras.Sequential) else "Functional"
    assert type(done.model).__name__ == plain
    assert done.lost == (
        f"m is a {plain} model now and no {type(model).__name__}, whose constructor is one of its "
        "own.",
    )


def local_things():
    class Twice(L.Layer):
        def call(self, inputs):
            return inputs * 2.0

        def compute_output_shape(self, shape):
            return shape

    class Small(keras.regularizers.Regularizer):
        def __call__(self, weights):
            return keras.ops.sum(weights)

        def get_config(self):
            return {}

    def cubed(x):
        return x**3

    return Twice, Small, cubed


def test_classes_and_functions_that_keras_cannot_find_are_at_hand():
    twice, small, cubed = local_things()
    x = source((5, 4))
    h = L.TimeDistributed(twice())(x)
    h = L.TimeDistributed(L.Dense(3, activation=cubed))(h)
    dense = L.Dense(3, activation=cubed, kernel_regularizer=small())
    whole_copy_of(graph(x, L.Dense(2, activation=lambda t: t / 3.0)(dense(h))))


def test_two_functions_of_one_name_are_not_taken_for_one_another():
    def function(times):
        def scaled(x):
            return x * times

        return scaled

    x = source((5, 4))
    cells = [L.SimpleRNNCell(2, activation=function(times)) for times in (2.0, 5.0)]
    with pytest.raises(InputError, match=r"of class RNN, which said: .*'scaled'"):
        copied(graph(x, L.RNN(cells)(x)), caller="fold")


def test_a_function_in_a_lambda_layer_is_kept():
    model = sequence(L.Lambda(lambda x, by: x * by, arguments={"by": 3.0}, name="times"))
    assert whole_copy_of(model).layers[0].name == "times"


# What is taken along: types of numbers, flags, state.


def test_types_of_numbers_are_kept_whatever_is_set_now():
    x = source()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inner = sequence(L.Dense(4), L.Dense(4, dtype="mixed_bfloat16"))
        model = graph(x, L.Dense(3, dtype="float64")(inner(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    new = whole_copy_of(model)
    policies = [
        [part.dtype_policy.name for part in of._flatten_layers() if part.built and part.variables]
        for of in (model, new)
    ]
    assert policies[0] == policies[1]
    assert set(policies[1]) >= {"mixed_float16", "mixed_bfloat16", "float64"}
    assert new.dtype_policy.name == "mixed_float16"


def test_autocast_and_masking_that_were_set_on_an_object_are_kept():
    class Plain(L.Layer):
        def call(self, inputs):
            return inputs * 1.0

    plain = Plain(dtype="float16", name="plain")
    plain.supports_masking, plain.autocast = True, False
    x = source((5, 4))
    # Keras would warn, and end the mask, if the copy did not say that it supports masks.
    h = L.LSTM(3)(plain(L.Masking()(x)))
    new = whole_copy_of(graph(x, h)).get_layer("plain")
    assert (new.supports_masking, new.autocast) == (True, False)


def test_a_frozen_model_within_stays_frozen_with_what_is_thawed_in_it():
    inner = sequence(L.Dense(3, name="a"), L.BatchNormalization(name="b"), L.Dense(3, name="c"))
    inner.name = "inner"
    x = source()
    model = graph(x, L.Dense(3, name="d")(inner(x)))
    inner.trainable = False
    inner.get_layer("c").trainable = True
    new = whole_copy_of(model)
    assert {part.name: part.trainable for part in new._flatten_layers(include_self=False)} == {
        new.layers[0].name: True,
        "inner": False,
        **{part.name: False for part in new.get_layer("inner").layers[:2]},
        "c": True,
        "d": True,
        new.get_layer("inner")._layers[0].name: False,
    }


def test_a_model_thawed_within_a_frozen_one_stays_thawed():
    x = source()
    inner = sequence(L.Dense(3))
    model = graph(x, L.Dense(3)(inner(x)))
    model.trainable = False
    inner.trainable = True
    new = whole_copy_of(model)
    assert [new.trainable, *(part.trainable for part in new.layers[1:])] == [False, True, False]


def test_single_frozen_and_thawed_weights_stay_so():
    model = sequence(L.Dense(3), L.BatchNormalization(), L.Dense(3))
    first, norm, last = model.layers
    first.bias.trainable = False
    norm.gamma.trainable = False
    last.trainable = False
    last.bias.trainable = True
    flags = [variable.trainable for variable in whole_copy_of(model).variables]
    assert flags == [True, False, False, True, False, False, False, True]


def test_low_rank_and_quantized_weights_are_kept():
    model = sequence(L.Dense(3, name="lora"), L.Dense(3, name="small"))
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 3)))
    model.layers[1].quantize("int8")
    new = whole_copy_of(model)
    assert (new.layers[0].lora_rank, new.layers[1].quantization_mode) == (2, "int8")


class Scaled(L.Layer):
    def build(self, shape):
        self.scale = keras.Variable(np.ones(shape[-1]), trainable=True)

    def call(self, inputs):
        return inputs * self.scale


def test_variables_made_without_keras_s_add_weight_are_copied():
    model = sequence(Scaled())
    model.layers[0].scale.assign([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(whole_copy_of(model).layers[0].scale, [1.0, 2.0, 3.0, 4.0])


def test_random_numbers_go_on_where_the_original_s_are():
    x = source((5, 4))
    h = L.LSTM(4, dropout=0.5, recurrent_dropout=0.5, return_sequences=True)(x)
    model = graph(x, L.GaussianNoise(1.0)(L.Dropout(0.5, seed=3)(h)))
    data = data_for(model)
    model(data, training=True)
    new = copied(model, caller="fold").model
    for _ in range(2):
        agree(new(data, training=True), model(data, training=True))


class Counting(L.Layer):
    """Holds a number that is no variable."""

    count = 0

    def call(self, inputs):
        return inputs + float(self.count)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["count"] = np.array(self.count)

    def load_own_variables(self, store):
        self.count = int(store["count"])


def test_what_a_layer_of_one_s_own_puts_into_a_file_is_copied():
    layer = Counting()
    layer.count = 7
    assert whole_copy_of(sequence(layer)).layers[0].count == 7


def test_norms_of_every_kind_are_copied_with_their_statistics():
    model = sequence(
        bnm.BatchNormalization(statistics=bnm.DebiasedMovingAverage(decay=0.8)),
        L.BatchNormalization(renorm=True),
        bnm.BatchNormalization(momentum=0.7, scale=False),
    )
    for _ in range(3):
        model(data_for(model), training=True)
    new = whole_copy_of(model)
    # The state of a policy is more than what inference reads of it.
    agree(new(data_for(model), training=True), model(data_for(model), training=True))
    for old, copy in zip(model.variables, new.variables, strict=True):
        np.testing.assert_array_equal(copy, old)


def test_what_preprocessing_has_learnt_is_copied():
    words, numbers = source((1,), dtype="string"), source((3,))
    lookup, scaling = L.StringLookup(output_mode="one_hot"), L.Normalization()
    bins = L.Discretization(num_bins=3, output_mode="one_hot")
    lookup.adapt(np.array([["a"], ["b"], ["a"]]))
    scaling.adapt(np.array([[1.0, 20.0, -3.0], [2.0, 40.0, 9.0]]))
    bins.adapt(np.arange(9.0))
    rare = L.TextVectorization(output_mode="tf_idf")
    rare.adapt(np.array(["a b", "a"]))
    parts = [lookup(words), rare(words), scaling(numbers), bins(numbers)]
    model = graph([words, numbers], L.Concatenate()([L.Flatten()(part) for part in parts]))
    data = [
        keras.ops.convert_to_tensor([["b"], ["c"]]),
        keras.ops.reshape(keras.ops.arange(6.0), (2, 3)),
    ]
    agree(copied(model, caller="fold").model(data), model(data))


def test_accelerated_layers_stay_accelerated_within_others_too():
    norm, inner, x = L.BatchNormalization(), L.BatchNormalization(), source((5, 4))
    model = graph(x, L.TimeDistributed(inner)(norm(x)))
    assert accelerate(model).count == 2
    layers = whole_copy_of(model)._flatten_layers()
    copies = [layer for layer in layers if isinstance(layer, L.BatchNormalization)]
    assert [vars(copy)["call"].__self__ for copy in copies] == copies
    assert {vars(one)["call"].__func__ for one in (*copies, norm)} == {norm.call.__func__}


# What is lost, and said to be.


def test_a_variable_in_the_graph_becomes_a_constant_as_in_a_file():
    dense, x = L.Dense(4, use_bias=False, name="dense"), source()
    model = graph(x, keras.ops.matmul(dense(x), dense.kernel))
    done = copy_of(model)
    (constant,) = [
        argument
        for node in nodes_in(done.model)
        for argument in node.arguments.args
        if node.operation.name == "matmul" and not isinstance(argument, keras.KerasTensor)
    ]
    assert not isinstance(constant, keras.Variable)
    assert done.lost == (
        f"matmul takes the variable {dense.kernel.path}, which is a constant in the new model.",
    )


def test_weights_that_two_layers_share_are_said_to_be_apart():
    first, second = L.Dense(4, name="first"), L.Dense(4, name="second")
    model = sequence(first, second)
    second._tracker.unlock()
    second._kernel, second._trainable_variables[0] = first._kernel, first._kernel
    assert copy_of(model).lost == (
        "first and second have weights of their own now, and no more in common.",
    )


def test_layers_outside_the_graph_are_said_to_be_missing():
    x = source()
    model = graph(x, L.Dense(3)(x), name="m")
    model.more = L.Dense(2, name="more")
    model.scale = keras.Variable(1.0, name="scale")
    assert copied(model, caller="fold").lost == (
        "What m holds outside its graph is not in the new model: more, scale.",
    )


# What is refused.


class WithoutConfiguration(L.Layer):
    def __init__(self, units):
        super().__init__()

    def call(self, inputs):
        return inputs

    def get_config(self):
        return super().get_config()


def test_a_layer_without_a_configuration_is_refused():
    model = sequence(WithoutConfiguration(3))
    refused(
        model,
        f"{model.layers[0].name!r} of class WithoutConfiguration, which said: Exception "
        "encountered: WithoutConfiguration.__init__() got an unexpected keyword argument 'name'. "
        "Give it both methods.",
    )


def test_of_a_long_reason_the_beginning_is_told():
    class Wordy(L.Layer):
        def call(self, inputs):
            return inputs

        def get_config(self):
            raise ValueError("word " * 100 + "\nlast line")

    refused(
        sequence(Wordy(name="wordy")),
        f"'wordy' of class Wordy, which said: {'word ' * 38}word.... Give it both methods.",
    )


def test_an_operation_that_cannot_be_copied_is_refused():
    x = source()
    model = graph(x, keras.ops.vectorized_map(lambda row: row * 2.0, x))
    with pytest.raises(InputError, match=r"the layer 'vectorized_map' of class VectorizedMap, whi"):
        copied(model, caller="fold")


class Holder(L.Layer):
    def __init__(self, inner, **settings):
        super().__init__(**settings)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return super().get_config() | {"inner": self.inner}


def test_a_copy_that_shares_layers_with_the_original_is_refused():
    refused(
        sequence(Holder(L.Dense(3), name="holder")),
        "'holder' of class Holder, whose copy shares layers or weights with it. Have `get_config` "
        "return `keras.saving.serialize_keras_object` of what it holds.",
    )


class OtherEachTime(L.Layer):
    built_so_far = 0

    def build(self, shape):
        OtherEachTime.built_so_far += 1
        self.weight = self.add_weight(shape=(OtherEachTime.built_so_far,))

    def call(self, inputs):
        return inputs * keras.ops.sum(self.weight)


def test_a_copy_with_other_weights_is_refused():
    refused(
        sequence(OtherEachTime(name="odd")),
        "'odd' of class OtherEachTime, whose copy has other layers or weights in it. "
        "Let them depend on nothing but `get_config` and the shape of the input.",
    )


@pytest.mark.parametrize("within", [False, True])
def test_a_layer_whose_call_was_replaced_is_refused(within):
    dense = L.Dense(3, name="dense")
    model = sequence(Within(dense, name="outer") if within else dense)
    dense.call = lambda inputs, training=None: inputs
    refused(
        model,
        f"{'outer' if within else 'dense'!r} of class {'Within' if within else 'Dense'}, in which "
        "`call` of the object 'dense' was replaced. Put that method into a class, with both of "
        "these.",
    )


class Within(L.Wrapper):
    def call(self, inputs):
        return self.layer(inputs)


def test_a_model_within_whose_call_was_replaced_is_refused():
    x = source()
    inner = graph(z := source(), L.Dense(3)(z), name="inner")
    model = graph(x, inner(x))
    inner.call = lambda inputs, training=None, mask=None: inputs
    with pytest.raises(InputError, match="the layer 'inner' of class Functional, in which `call`"):
        copied(model, caller="fold")


class Forgetful(L.Layer):
    def __init__(self, units=4, **settings):
        super().__init__(**settings)
        self.units = units

    def call(self, inputs):
        return inputs[:, : self.units]

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize("in_a_sequence", [False, True])
def test_a_copy_that_no_longer_fits_its_neighbours_is_refused(in_a_sequence):
    x = source()
    forgetful, gate = Forgetful(3, name="forgetful"), L.Reshape((3, 1), name="gate")
    model = sequence(forgetful, gate) if in_a_sequence else graph(x, gate(forgetful(x)))
    name, kind = (model.name, "Sequential") if in_a_sequence else ("gate", "Reshape")
    with pytest.raises(
        InputError, match=rf"the layer '{name}' of class {kind}, which said: The to"
    ):
        copied(model, caller="fold")


def test_a_layer_whose_arguments_keras_cannot_write_down_is_refused_with_keras_s_reason():
    class Holding(L.Layer):
        def __init__(self, thing):
            super().__init__()

        def call(self, inputs):
            return inputs

    with pytest.raises(InputError, match="said: Object Holding was created by passing"):
        copied(sequence(Holding(object())), caller="fold")


def test_the_error_names_its_caller():
    with pytest.raises(InputError, match=r"^repair: `model` must consist of layers"):
        copied(sequence(WithoutConfiguration(3)), caller="repair")


# What is other.


def test_a_layer_that_is_left_out_is_bridged():
    x = source()
    first, gone, last = L.Dense(4), L.Rescaling(5.0), L.Dense(3)
    model = graph(x, last(gone(first(x))))
    new = copy_of(model, Edits(left_out={id(gone)})).model
    assert [layer.name for layer in new.layers[1:]] == [first.name, last.name]
    data = data_for(model)
    agree(new(data), last(first(data)))


def test_a_layer_is_left_out_of_a_sequence():
    model = sequence(L.Dense(4, name="a"), L.Rescaling(5.0), L.Dense(3, name="b"))
    new = copy_of(model, Edits(left_out={id(model.layers[1])})).model
    assert [layer.name for layer in new.layers] == ["a", "b"]


def test_a_layer_with_other_settings_gets_flags_and_no_weights():
    dense = L.Dense(3, use_bias=False, kernel_initializer="ones")
    model = sequence(dense, L.Dense(2))
    dense.kernel.assign(keras.ops.zeros((4, 3)))
    dense.trainable = False
    done = copy_of(model, Edits(settings={id(dense): {"use_bias": True}}))
    (new,) = done.of[id(dense)]
    assert (new.trainable, new.use_bias, new.name) == (False, True, dense.name)
    np.testing.assert_array_equal(new.kernel, np.ones((4, 3)))
    np.testing.assert_array_equal(done.model.layers[1].kernel, model.layers[1].kernel)


def test_only_calls_that_are_named_lose_their_training():
    x = source()
    norm = L.BatchNormalization()
    model = graph(x, norm(norm(x, training=True), training=True))
    gone, _ = [node for node in nodes_in(model) if node.operation is norm]
    new = copy_of(model, Edits(flags={id(gone): None})).model
    flags = [node.arguments.kwargs.get("training") for node in nodes_in(new)[1:]]
    assert flags == [None, True]


def test_a_split_layer_has_a_copy_with_its_weights_and_flags_for_each_call():
    x, y = source(), source()
    norm = L.BatchNormalization(name="norm")
    other = L.ReLU(name="norm_2")
    model = graph([x, y], [norm(other(norm(x))), norm(y)])
    norm.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    norm.gamma.trainable = False
    done = copy_of(model, Edits(split={id(norm)}))
    copies = done.of[id(norm)]
    assert [copy.name for copy in copies] == ["norm", "norm_3", "norm_4"]
    for copy in copies:
        np.testing.assert_array_equal(copy.moving_mean, norm.moving_mean)
        assert [weight.trainable for weight in copy.weights] == [False, True, False, False]
        assert len(copy._inbound_nodes) == 1
    data = data_for(model)
    agree(done.model(data), model(data))
    assert done.lost == ()
