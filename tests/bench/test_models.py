import keras
import numpy as np
import pytest

from batchnorm_mechanics.bench import model, seeds, study
from batchnorm_mechanics.bench.study import Trained, disagreement
from batchnorm_mechanics.bench.without_batch_norm import without_batch_norm


def small(last=1.0):
    network = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(5, kernel_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10, kernel_initializer=keras.initializers.Constant(last)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    return network


def test_models_that_differ_are_told_apart(rng):
    x, y = rng.normal(size=(8, 4)).astype(np.float32), np.arange(8) % 3
    assert model.disagreement(small(), small(), x, y) is None
    assert "predictions differ by" in model.disagreement(small(), small(1.2), x, y)


def test_a_model_case_is_timed_with_keras_layers_and_accelerated():
    case = model.Case("small", small, (8, 4))
    train, predict = model.compare_models((case,), repeats=2, report=lambda message: None)
    assert (train.measure, predict.measure) == ("training step", "prediction step")
    for comparison in (train, predict):
        assert set(comparison.samples) == {"accelerated", "Keras"}
        assert "1 layers accelerated" in comparison.how
        assert comparison.refused == {}
        assert comparison.limit == "no batch norm"
        assert len(comparison.floor) == 2
        assert comparison.fraction("accelerated") > 0


def test_the_model_without_batch_norm_takes_its_turn_in_each_repeat(monkeypatch):
    orders = []

    def interleave(jobs, *, repeats):
        orders.append(list(jobs))
        return {(name, kind): [float(len(name))] * repeats for name in jobs for kind in jobs[name]}

    monkeypatch.setattr(model, "interleave", interleave)
    monkeypatch.setattr(model, "disagreement", lambda *models: "it is wrong")
    case = model.Case("small", small, (8, 4))
    train, predict = model.compare_models((case,), repeats=2, report=lambda message: None)
    assert orders == [["Keras", "no batch norm"]]
    for comparison in (train, predict):
        assert list(comparison.samples) == ["Keras"]
        assert comparison.refused == {"accelerated": "it is wrong"}
        assert comparison.floor == [13.0, 13.0]


def test_without_batch_norm_a_model_is_its_other_layers_alone(rng):
    network = small()
    network.layers[1].gamma.assign([3.0] * 5)
    bare = without_batch_norm(network)
    x = rng.normal(size=(8, 4)).astype(np.float32)
    # Both kernels are of ones.
    expected = x.sum(axis=1, keepdims=True) * 5 * np.ones((1, 10))
    np.testing.assert_allclose(bare.predict_on_batch(x), expected, rtol=1e-5)
    before = [np.copy(weight) for weight in bare.get_weights()]
    bare.train_on_batch(x, np.arange(8) % 3)
    assert any((a != b).any() for a, b in zip(before, bare.get_weights(), strict=True))
    assert isinstance(network.layers[1], keras.layers.BatchNormalization)


def test_the_study_s_network_has_a_copy_without_batch_norm():
    network = model.QUICK_CASES[0].make()
    bare = without_batch_norm(network)
    kinds = [type(layer).__name__ for layer in bare.layers]
    assert kinds.count("PassOn") == 3
    assert "BatchNormalization" not in kinds
    # 3 times gamma, beta, moving mean and moving variance of 100 channels.
    assert network.count_params() - bare.count_params() == 3 * 4 * 100
    assert type(bare.optimizer) is type(network.optimizer)


def test_a_training_that_did_something_else_is_refused():
    right = [Trained(1.0, (1.0,), 10, 0.5)]
    assert disagreement(right, [Trained(0.1, (0.1,), 10, 0.501)]) is None
    assert disagreement(right, [Trained(0.1, (0.1,), 5, 0.5)]) == "it took 5 steps, not 10"
    for loss in (0.6, float("nan")):
        assert "its first epoch has a loss of" in disagreement(
            right, [Trained(0.1, (0.1,), 10, loss)]
        )


def test_two_engines_train_the_study_from_the_same_start(monkeypatch):
    engines = {name: study.ENGINES[name] for name in ("compiled", "fit")}
    monkeypatch.setattr(study, "ENGINES", engines)
    plan = study.Plan(rows=240, epochs=2, batch_sizes=(), seeds=())
    found = list(study.compare_studies(plan, repeats=1, report=lambda message: None))
    assert [(one.case, one.measure) for one in found] == [
        ("keras-916, 3 steps", "later epoch"),
        ("keras-916, 3 steps", "first epoch, compilation included"),
    ]
    for comparison in found:
        assert comparison.refused == {}
        assert set(comparison.samples) == {"compiled", "fit"}
    assert found[0].limit == "matrix products"
    assert found[0].floor[0] > 0
    assert found[1].floor is None


def test_the_study_is_timed_in_turns_for_each_batch_size_and_number_of_seeds(monkeypatch):
    calls, multiplied = [], []

    def train(engine, arrays, settings, *, seed):
        calls.append((engine, settings.batch_size, len(arrays.x_train), seed))
        return Trained(first=5.0, later=(0.6, 0.5, 9.0), steps=3, loss=1.0)

    class Products:
        def __init__(self, *problem):
            self.problem = problem

        def run(self):
            multiplied.append(self.problem)
            calls.append("products")

    def seconds(short, count, engine):
        calls.append((engine, count, short.settings.epochs, short.settings.rows))
        return {"compiled": 3.0, "fit": 7.0}[engine]

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "Products", Products)
    monkeypatch.setattr(study, "_median_seconds", lambda run, times: run() or 0.3 * times)
    monkeypatch.setattr(seeds, "seconds", seconds)
    plan = study.Plan(
        rows=240, epochs=2, batch_sizes=(50, 10_000), most_steps=3, seeds=(2,), seed_epochs=5
    )
    found = list(study.compare_studies(plan, repeats=1, report=lambda message: None))
    assert [one.case for one in found[2:]] == ["batch of 50", "2 seeds"]
    assert found[0].samples["fit"] == [0.6]
    assert found[1].samples["fit"] == [5.0]
    assert found[2].samples["fit"] == [0.6 / 3]
    assert found[0].floor == [0.3]
    assert found[2].floor == [pytest.approx(0.6 / 3)]
    assert found[2].fraction("fit") == pytest.approx(1.0)
    assert found[3].samples == {"compiled": [3.0], "fit": [7.0]}
    # Each once before the turns, which compiles it.
    assert multiplied == [
        *[((784, 100, 100, 100, 10), 60, 3)] * 2,
        *[((784, 100, 100, 100, 10), 50, 3)] * 2,
    ]
    engines = list(study.ENGINES.values())
    for at, batch, rows in ((0, 60, 220), (5, 50, 150)):
        trained = [(engine, batch, rows, 100) for engine in engines]
        assert calls[at : at + 5] == ["products", *trained, "products"]
    assert calls[10:] == [("compiled", 2, 5, 240), ("fit", 2, 5, 240)]
