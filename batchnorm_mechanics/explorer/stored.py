"""Write `js/stored.js`: what Keras computes of the inputs that the page begins with.

The page computes everything else itself. `python -m batchnorm_mechanics.explorer.stored` writes the
file anew; a test compares it with what Keras says.
"""

import json
from pathlib import Path
from typing import Any

from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

PATH = Path(__file__).parent / "js" / "stored.js"

# The first example of the notebooks: two samples of three channels.
_X = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
_GAMMA, _BETA, _EPSILON = 2.0, 1.0, 1e-3


def keras_numbers() -> dict[str, Any]:
    """Return what a new Keras layer makes of the notebooks' example, in both modes."""
    import_tensorflow_quietly()
    import keras
    import numpy as np

    layer = keras.layers.BatchNormalization(
        epsilon=_EPSILON,
        gamma_initializer=keras.initializers.Constant(_GAMMA),
        beta_initializer=keras.initializers.Constant(_BETA),
    )
    x = np.array(_X, np.float32)
    # In this order: training moves the moving statistics.
    called, training = layer(x), layer(x, training=True)
    return {
        "keras": keras.__version__,
        "called": _decimals(np.asarray(called)),
        "training": _decimals(np.asarray(training)),
    }


def _decimals(array: Any) -> list[list[float]]:
    """Return float32 numbers by the fewest digits that name them."""
    return [[float(str(value)) for value in row] for row in array]


def module(numbers: dict[str, Any]) -> str:
    """Return the JavaScript that holds the numbers."""
    lines = "".join(f"  {name}: {json.dumps(value)},\n" for name, value in numbers.items())
    return (
        "/** What Keras computed; written by `python -m batchnorm_mechanics.explorer.stored`. */\n"
        f"export const KERAS = {{\n{lines}}};\n"
    )


if __name__ == "__main__":
    write_atomically(PATH, module(keras_numbers()))
