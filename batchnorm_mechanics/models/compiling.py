"""A model compiled as another one is, with the state of its optimizer."""

from collections import Counter
from typing import Any

import keras

from batchnorm_mechanics._keras_training import compile_arguments
from batchnorm_mechanics.models.layer_copies import at_hand
from batchnorm_mechanics.models.wiring import method_of_its_own


def compile_like(model: Any, copy: Any) -> tuple[str, ...]:
    """Compile a model like another, the optimizer's state included; return what was lost.

    Args:
        model: the other, compiled or not.
        copy: the one; it may be the other itself, whose layers were exchanged.
    """
    if not model.compiled:
        return ()
    if method_of_its_own(model, ("compile",)) and not method_of_its_own(
        model, ("compile_from_config",)
    ):
        return ("the new model is not compiled, since its class has a `compile` of its own",)
    old = model.optimizer
    try:
        with at_hand(keras.tree.flatten(compile_arguments(model))):
            copy.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        (first, *_) = str(error).splitlines() or [""]
        return (f"the new model is not compiled, since its settings cannot be copied: {first}",)
    if old is None or not old.built:
        return ()
    return _carry_state(old, copy.optimizer)


def _carry_state(old: Any, new: Any) -> tuple[str, ...]:
    """Give an optimizer the state of another where it fits; return what did not."""
    before, after = list(old.variables), list(new.variables)
    shapes = [[tuple(variable.shape) for variable in part] for part in (before, after)]
    if shapes[0] == shapes[1]:
        for one, other in zip(before, after, strict=True):
            other.assign(one)
        return ()
    # A path tells whose state it is, unless two weights have one.
    paths = Counter(variable.path for part in (before, after) for variable in part)
    known = {variable.path: variable for variable in before if paths[variable.path] <= 2}
    lost = 0
    for variable in after:
        held = known.get(variable.path)
        if held is not None and tuple(held.shape) == tuple(variable.shape):
            variable.assign(held)
        else:
            lost += 1
    new.iterations.assign(old.iterations)
    if lost == 0:
        return ()
    return (f"the optimizer's state of weights that are new ({lost} of {len(after)} variables)",)
