"""The one way to renew what Keras compiled from a model when something traced into it changes."""

from typing import Any

from batchnorm_mechanics._keras import layers_in


def renew_compiled_functions(model: Any) -> None:
    """Have a model, and every model nested in it, trace its steps anew.

    A compiled step holds what it met when it was traced: which `call` a layer had, its momentum,
    whether it was frozen. A change of these shows nowhere until the step is traced again.

    Args:
        model: a model or layer. One that holds it, and was trained before, is not known here.
    """
    for layer in layers_in(model):
        for step in ("train", "test", "predict"):
            # Made anew at once rather than set to None, which `fit` would call if it is running.
            if getattr(layer, f"{step}_function", None) is not None:
                getattr(layer, f"make_{step}_function")(force=True)
