import keras
import numpy as np

from batchnorm_mechanics.bench import model, study
from batchnorm_mechanics.bench.study import Trained, disagreement


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


def test_the_study_is_timed_in_turns_for_each_batch_size_and_number_of_seeds(monkeypatch):
    calls = []

    def train(engine, arrays, settings, *, seed):
        calls.append((engine, settings.batch_size, len(arrays.x_train), seed))
        return Trained(first=5.0, later=(0.6, 0.5, 9.0), steps=3, loss=1.0)

    monkeypatch.setattr(study, "train", train)
    plan = study.Plan(rows=240, epochs=2, batch_sizes=(50, 10_000), most_steps=3, seeds=(2,))
    found = list(study.compare_studies(plan, repeats=1, report=lambda message: None))
    assert [one.case for one in found[2:]] == ["batch of 50", "2 seeds"]
    assert found[0].samples["fit"] == [0.6]
    assert found[1].samples["fit"] == [5.0]
    assert found[2].samples["fit"] == [0.6 / 3]
    engines = list(study.ENGINES.values())
    assert calls[:3] == [(engine, 60, 220, 100) for engine in engines]
    assert calls[3:6] == [(engine, 50, 150, 100) for engine in engines]
    assert calls[6:] == [(engine, 60, 220, seed) for engine in engines[:2] for seed in (100, 101)]
