"""`port` carries batch norm from torch, flax and ONNX, and its outputs are theirs."""

import keras
import numpy as np
import pytest
from oracle_cases import data, whole

import batchnorm_mechanics as bnm
from batchnorm_mechanics._exceptions import InputError

L = keras.layers
BN = L.BatchNormalization


def state_of(rng, *channels, prefix="bn"):
    """A state_dict of so many batch norms, without torch."""
    state = {}
    for number, many in enumerate(channels):
        state |= {
            f"{prefix}{number}.weight": rng.uniform(0.5, 2, many),
            f"{prefix}{number}.bias": rng.normal(size=many),
            f"{prefix}{number}.running_mean": rng.normal(size=many),
            f"{prefix}{number}.running_var": rng.uniform(0.5, 2, many),
            f"{prefix}{number}.num_batches_tracked": np.array(3),
        }
    return state


def dense_model(*channels, **settings):
    norms = [BN(name=f"norm{number}", **settings) for number in range(len(channels))]
    layers = [
        part
        for many, norm in zip(channels, norms, strict=True)
        for part in (L.Dense(many, name=f"dense_of_{norm.name}"), norm)
    ]
    return keras.Sequential([L.Input((3,)), *layers])


def test_a_module_of_torch_gives_its_outputs_its_epsilon_and_the_complement_of_its_momentum(rng):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 1),
        torch.nn.BatchNorm2d(4, momentum=0.3, eps=1e-2),
        torch.nn.ReLU(),
        torch.nn.BatchNorm2d(4, affine=False),
    )
    for _ in range(3):
        theirs(torch.from_numpy(data(rng, (8, 2, 5, 5), 3.0, "float32")))
    theirs.eval()
    ours = keras.Sequential(
        [
            L.Input((5, 5, 2)),
            L.Conv2D(4, 1, name="conv"),
            BN(name="first"),
            L.ReLU(),
            bnm.BatchNormalization(
                name="second", statistics=bnm.ExponentialMovingAverage(0.9, unbiased=True)
            ),
        ]
    )
    kernel, bias = (part.detach().numpy() for part in (theirs[0].weight, theirs[0].bias))
    ours.get_layer("conv").set_weights([kernel.transpose(2, 3, 1, 0), bias])
    x = data(rng, (4, 5, 5, 2), 3.0, "float32")

    def outputs(x):
        channels_first = torch.from_numpy(x.transpose(0, 3, 1, 2))
        return theirs(channels_first).detach().numpy().transpose(0, 2, 3, 1)

    done = bnm.port(theirs, ours, data=x, outputs=outputs)
    assert done.pairs == {"first": "1", "second": "3"}
    assert done.difference < 1e-5
    assert done.notes == (
        "Trained on, the moving variance of first goes from one kind to the other, biased or "
        "unbiased, n/(n-1) apart: inference is the same until then.",
    )
    first = ours.get_layer("first")
    assert (first.epsilon, first.momentum) == (1e-2, 0.7)
    assert ours.get_layer("second").epsilon == 1e-5
    # The same without the modules, by a state_dict, which is silent on both numbers.
    again = bnm.port(theirs[1].state_dict(), first, epsilon=1e-2, momentum=0.7)
    assert again.pairs == {"first": "batch norm"}
    assert "Outputs were not compared" in str(again)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_flaxs_modules_and_variables_are_taken_in_the_order_of_their_numbers(kind, rng):
    pytest.importorskip("flax")
    import jax.numpy as jnp

    x = data(rng, (6, 3), 2.0, "float32")
    # Eleven, since as text 10 comes before 2.
    model = keras.Sequential([L.Input((3,)), *(BN(name=f"norm{k}") for k in range(11))])
    values = [rng.uniform(0.5, 2, 3).astype("float32") for _ in range(4 * 11)]
    if kind == "linen":
        params = {
            f"BatchNorm_{k}": {"scale": values[4 * k], "bias": values[4 * k + 1]} for k in range(11)
        }
        statistics = {
            f"BatchNorm_{k}": {"mean": values[4 * k + 2], "var": values[4 * k + 3]}
            for k in range(11)
        }
        from flax import linen

        class Stack(linen.Module):
            @linen.compact
            def __call__(self, x):
                for _ in range(11):
                    x = linen.BatchNorm(use_running_average=True, epsilon=1e-2)(x)
                return x

        source = {"params": params, "batch_stats": statistics}
        expected = Stack().apply(source, jnp.asarray(x))
        done = bnm.port(source, model, epsilon=1e-2, momentum=0.9, data=x, outputs=expected)
    else:
        from flax import nnx

        class Stack(nnx.Module):
            def __init__(self):
                for k in range(11):
                    norm = nnx.BatchNorm(
                        3, momentum=0.9, epsilon=1e-2, rngs=nnx.Rngs(0), use_running_average=True
                    )
                    held = (norm.scale, norm.bias, norm.mean, norm.var)
                    for variable, value in zip(held, values[4 * k : 4 * k + 4], strict=True):
                        variable[...] = jnp.asarray(value)
                    setattr(self, f"norm{k}", norm)

            def __call__(self, x):
                for k in range(11):
                    x = getattr(self, f"norm{k}")(x)
                return x

        source = Stack()
        done = bnm.port(source, model, data=x, outputs=np.asarray(source(jnp.asarray(x))))
    assert [name[-2:].strip("_m") for name in done.pairs.values()] == [str(k) for k in range(11)]
    assert done.agrees
    assert (model.layers[3].epsilon, model.layers[3].momentum) == (1e-2, 0.9)
    assert done.notes == ()


def test_the_nodes_of_an_onnx_file_give_what_its_runtime_gives(rng, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    arrays, nodes = {}, []
    for k, settings in enumerate(({"epsilon": 1e-2, "momentum": 0.8}, {})):
        parts = {
            f"{part}{k}": rng.uniform(0.5, 2, 3).astype("float32") for part in ("s", "b", "m", "v")
        }
        arrays |= parts
        nodes.append(
            helper.make_node("BatchNormalization", [f"x{k}", *parts], [f"x{k + 1}"], **settings)
        )
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 3]) for n in ("x0", "x2")]
    held = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "two", info[:1], info[1:], held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(made, tmp_path / "two.onnx")
    x = data(rng, (6, 3), 2.0, "float32")
    session = runtime.InferenceSession(tmp_path / "two.onnx")
    model = keras.Sequential([L.Input((3,)), BN(name="a"), BN(name="b")])
    done = bnm.port(
        tmp_path / "two.onnx", model, data=x, outputs=lambda x: session.run(None, {"x0": x})[0]
    )
    assert done.pairs == {"a": "x1", "b": "x2"}
    assert done.agrees
    assert [(layer.epsilon, layer.momentum) for layer in model.layers] == [
        pytest.approx((1e-2, 0.8)),
        pytest.approx((1e-5, 0.9)),
    ]
    # What is computed is no constant.
    del graph.initializer[0]
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    with pytest.raises(InputError, match=r"Received: x1 with 's0', which is computed"):
        bnm.port(made, model)


def test_names_say_what_belongs_together_and_what_is_wrong_shows_in_the_outputs(rng, tmp_path):
    state = state_of(rng, 4, 4)
    model, twin = dense_model(4, 4), dense_model(4, 4)
    x = data(rng, (5, 3), dtype="float32")
    bnm.port(state, model, epsilon=1e-3)
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    expected = model(x)
    crossed = bnm.port(
        state,
        twin,
        names={"norm0": "bn1", "norm1": "bn0"},
        epsilon=1e-3,
        momentum=0.9,
        data=x,
        outputs=expected,
    )
    assert not crossed.agrees
    assert str(crossed).splitlines()[1].startswith("Outputs differ: by ")
    done = bnm.port(state, twin, epsilon=1e-3, data=x, outputs=expected)
    assert done.agrees
    assert done.notes[1] == (
        "The source says no momentum; norm0, norm1 kept what it had. It matters in training alone."
    )
    assert twin.get_layer("norm0").momentum == 0.9


def test_a_compiled_model_and_every_policy_take_what_is_ported(rng):
    state = state_of(rng, 3)
    for statistics in (bnm.DebiasedMovingAverage(), bnm.Renormalization(), bnm.PooledPopulation()):
        norm = bnm.BatchNormalization(statistics=statistics)
        model = keras.Sequential([L.Input((3,)), norm])
        if statistics == bnm.DebiasedMovingAverage():
            model.compile("sgd", "mse")
            model.predict(np.ones((2, 3)), verbose=0)
        x = data(rng, (2, 3), dtype="float32")
        mean, variance = state["bn0.running_mean"], state["bn0.running_var"]
        expected = state["bn0.weight"] * (x - mean) / np.sqrt(variance + 1e-5) + state["bn0.bias"]
        if statistics == bnm.Renormalization():
            with pytest.raises(InputError, match="must normalize by batches in training"):
                bnm.port(state, model, epsilon=1e-5)
            continue
        bnm.port(state, model, epsilon=1e-5)
        found = model.predict(x, verbose=0) if model.compiled else model(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-6)


def refused(change=None, channels=(3, 3), model=None, **options):
    state = state_of(np.random.default_rng(0), *channels)
    if change:
        change(state)
    bnm.port(state, model or dense_model(3, 3), **{"epsilon": 1e-5, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"channels": (3,)},
            "port: `model` must have as many batch norm layers as the source. Received: 2 (norm0, "
            "norm1), where the source has 1 (bn0). Pass `names` for those that belong together.",
        ),
        (
            {"channels": (3, 4)},
            "port: `model` must have the source's numbers of channels. Received: norm1 of 3, where "
            "bn1 has 4. The order may be another one: pass `names`.",
        ),
        (
            {"names": {"norm0": "bn7"}},
            "port: `names` must name batch norm layers of the model and the source. Received: "
            "'bn7', where the source has bn0, bn1. It goes from paths in the model to names in the "
            "source.",
        ),
        (
            {"epsilon": None},
            "port: `epsilon` must be given where the source does not say it. Received: bn0 "
            "without. Pass the number it was trained with; the default is 1e-5 in PyTorch.",
        ),
        (
            {"change": lambda state: state["bn1.running_var"].__imul__(-1)},
            None,
        ),
        (
            {"change": lambda state: state.pop("bn1.running_var")},
            "port: `source` must hold a moving mean and a moving variance. Received: bn1 with one "
            "of them. Look at what wrote it.",
        ),
        (
            {"model": dense_model(3, 3, scale=False)},
            "port: `model` must have the gamma of the source. Received: norm0 without, where bn0 "
            "has one. Make the layer with scale=True.",
        ),
        (
            {"data": np.ones((1, 3))},
            "port: `data` and `outputs` must come together. Received: one of them. Outputs are "
            "compared on the data that gave them.",
        ),
        (
            {"data": np.ones((1, 3)), "outputs": np.ones((3, 1))},
            "port: `outputs` must have the shape of the model's, (1, 3). Received: "
            "outputs.shape=(3, 1). Bring the channels into Keras's order.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    # How far below 0, chance decides.
    begins = r"port: `source` must hold variances of 0 or more\. Received: bn1 with -"
    with pytest.raises(InputError, match=begins if message is None else whole(message)):
        refused(**options)


def test_nothing_is_changed_where_something_does_not_fit():
    model = dense_model(3, 3)
    before = model.get_weights()
    with pytest.raises(InputError, match="numbers of channels"):
        refused(channels=(3, 4), model=model)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match=r"linen module, an ONNX model or its file. Received: sou"):
        bnm.port("model.pt", model)
