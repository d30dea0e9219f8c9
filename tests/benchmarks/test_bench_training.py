import re

import bench_training
import numpy as np
import pytest
from bench_training import ENGINES, EPOCH, Products, disagreement, train


def gradients(batch, kernels):
    """Of a linear network whose loss is half the sum of its squared outputs, in float64."""
    inputs = [batch.astype(np.float64)]
    kernels = [kernel.astype(np.float64) for kernel in kernels]
    for kernel in kernels:
        inputs.append(inputs[-1] @ kernel)
    slopes, found = inputs[-1], []
    for x, kernel in zip(inputs[-2::-1], kernels[::-1], strict=True):
        found.append(x.T @ slopes)
        slopes = slopes @ kernel.T
    return found[::-1]


@pytest.mark.parametrize("steps", [4, 5])
def test_the_products_are_those_of_the_last_batch(steps):
    products = Products((7, 5, 3, 2), 4, steps)
    expected = gradients(products.batches[(steps - 1) % 2], products.kernels)
    found = products.run()
    assert len(found) == 3
    for one, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-4, atol=1e-5)


def test_the_batches_differ():
    batches = Products((7, 5, 2), 4, 3).batches
    assert (batches[0] != batches[1]).all()


@pytest.mark.parametrize(("hidden", "expected"), [((100, 100, 100), 11), ((40,), 5), ((), 2)])
def test_xla_leaves_every_product_in_the_loop(hidden, expected):
    text = Products((784, *hidden, 10), 60, 916).compiled()
    # One computation a paragraph; that of the loop's body is named by the `while`.
    body = re.search(r"\bwhile\(.*body=(%[\w.-]+)", text)[1]
    (paragraph,) = [one for one in text.split("\n\n") if one.startswith(f"{body} (")]
    assert paragraph.count(" dot(") == expected
    assert text.count(" dot(") == expected


def test_a_training_that_did_something_else_is_refused():
    assert disagreement((10, 0.5), (10, 0.501)) is None
    assert disagreement((10, 0.5), (30, 0.501), epochs=3) is None
    assert disagreement((10, 0.5), (5, 0.5)) == "it took 5 steps, not 10"
    for loss in (0.6, float("nan")):
        assert "its first epoch has a loss of" in disagreement((10, 0.5), (10, loss))


@pytest.mark.thorough
def test_every_engine_takes_the_steps_of_fit_from_the_same_start():
    right = train("fit", 10, steps=6, epochs=2)[-1]
    assert right[0] == 12
    for engine in ENGINES:
        start, ends, found = train(engine, 10, steps=6, epochs=2)
        assert disagreement(right, found) is None
        assert start < ends[0] < ends[1]


def test_an_engine_that_leaves_steps_out_is_refused(monkeypatch):
    found = {"fit": (10, 0.5), EPOCH: (29, 0.5)}
    monkeypatch.setattr(
        bench_training, "train", lambda engine, *size, epochs: (0.0, [1.0, 3.0, 7.0], found[engine])
    )
    bench_training._right.cache_clear()
    with pytest.raises(
        SystemExit,
        match=r"^refused an epoch at a time at batches of 100: it took 29 steps, not 30$",
    ):
        bench_training.later_epochs(2, EPOCH, 100)
    found[EPOCH] = (30, 0.5)
    assert bench_training.later_epochs(2, EPOCH, 100) == 6.0
    found[EPOCH] = (10, 0.5)
    assert bench_training.first_epochs(3, EPOCH, 100) == 3.0
    bench_training._right.cache_clear()
