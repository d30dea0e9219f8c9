"""What a model that ran says of the way between its values."""

import numpy as np

from batchnorm_mechanics.comparison.ran import Grid, Ran, Step, Value


def test_what_a_shortcut_rounds_is_on_the_way_though_another_anchor_depends_on_it():
    grids = {2: Grid(0.1, -1, 1), 4: Grid(0.2, -1, 1)}
    values = [Value(str(at), np.ones(4, np.float32), grids.get(at)) for at in range(6)]
    # 1 is rounded to 2, of which comes 3, rounded to 4; 5 is the sum of 2 and 4.
    wiring = [((0,), 1), ((1,), 2), ((2,), 3), ((3,), 4), ((2, 4), 5)]
    steps = [Step(str(end), "Any", given, (end,)) for given, end in wiring]
    ran = Ran("ONNX", values, steps, (0,), (5,))
    assert ran.between(1 << 1 | 1 << 3, 5) == [2, 4, 5]
    assert ran.between(1 << 2 | 1 << 4, 5) == [5]
    np.testing.assert_allclose(ran.rounding(1 << 1 | 1 << 3, 5), np.hypot(0.1, 0.2) / np.sqrt(12))
