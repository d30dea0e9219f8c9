import re

import numpy as np
import pytest

from batchnorm_mechanics.bench.products import Products


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
