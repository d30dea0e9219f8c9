import bench_layer
import numpy as np
import pytest


@pytest.mark.parametrize("kind", bench_layer.KINDS)
def test_a_contestant_is_timed_once_it_computes_the_problem(kind):
    assert bench_layer.steps(2, (40, 6), "ours", kind) > 0


def test_a_contestant_that_computes_something_else_is_refused(monkeypatch):
    import contestants

    def broken(layer):
        layer.call = lambda inputs, **options: inputs * layer.gamma + layer.beta

    def entries(problem):
        theirs = contestants.keras.layers.BatchNormalization
        return {
            "Keras": lambda: contestants.TensorFlowLayer("Keras", theirs, problem, prepare=broken)
        }

    monkeypatch.setattr(contestants, "entries", entries)
    with pytest.raises(SystemExit, match=r"^refused Keras at \(44, 6\): y is off by "):
        bench_layer.steps(1, (44, 6), "Keras", "training")


def test_of_torch_s_layouts_the_one_of_the_others_is_timed():
    assert bench_layer.named_in_layout("torch", (60, 100)) == "torch"
    assert bench_layer.named_in_layout("torch", (32, 7, 7, 512)) == "torch, channels last"
    assert bench_layer.named_in_layout("ours", (32, 7, 7, 512)) == "ours"


def test_memory_limits_a_tensor_that_exceeds_the_cache():
    assert bench_layer.exceeds_cache((64, 56, 56, 64))
    assert not bench_layer.exceeds_cache((1024, 1024))


def test_a_copy_copies_all_of_it():
    source = np.arange(101, dtype=np.float32).reshape(101, 1)
    target = np.full_like(source, np.nan)
    bench_layer.copy(source, target)
    np.testing.assert_array_equal(target, source)


def test_the_limit_is_the_time_of_as_many_copies(monkeypatch):
    copied = []
    monkeypatch.setattr(bench_layer, "copy", lambda source, target: copied.append(target.shape))
    assert bench_layer.copies(3, (7, 2), 4) > 0
    assert copied == [(7, 2)] * 12
