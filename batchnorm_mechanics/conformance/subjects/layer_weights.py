"""Find gamma, beta and the moving statistics among a layer's variables."""

from typing import Any

import keras

GAMMA, BETA, MEAN, VARIANCE = "gamma", "beta", "moving_mean", "moving_variance"
ROLES = (GAMMA, BETA, MEAN, VARIANCE)


def find_weights(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the layer's variables by their roles; a role that nothing fits is left out.

    A role is looked for as an attribute of that name; then as the one variable of that name; and
    then in Keras's order: of the trainable variables gamma comes before beta, of the others the
    mean before the variance. Order says nothing where one variable is left for two roles: it may be
    either. Further state, such as counters, stands behind these in Keras's order, or is told by its
    type or shape.

    Args:
        layer: built.

    Returns:
        From the roles found to Keras or TensorFlow variables.

    Example:
        >>> layer = keras.layers.BatchNormalization(scale=False)
        >>> layer.build((None, 3))
        >>> list(find_weights(layer))
        ['beta', 'moving_mean', 'moving_variance']
    """
    found = {}
    for role in ROLES:
        attribute = getattr(layer, role, None)
        named = [variable for variable in layer.variables if variable.name == role]
        if hasattr(attribute, "assign"):
            found[role] = attribute
        elif len(named) == 1:
            found[role] = named[0]
    for roles, variables in (
        ((GAMMA, BETA), layer.trainable_variables),
        ((MEAN, VARIANCE), layer.non_trainable_variables),
    ):
        open_roles = [role for role in roles if role not in found]
        taken = {id(variable) for variable in found.values()}
        left = _of_one_shape([v for v in variables if id(v) not in taken], found)
        if open_roles and len(left) >= len(open_roles):
            found.update(zip(open_roles, left, strict=False))
    return {role: found[role] for role in ROLES if role in found}


def _of_one_shape(variables: list[Any], found: dict[str, Any]) -> list[Any]:
    """Leave out what cannot be a parameter: integers, and other sizes than the rest has."""
    floating = [v for v in variables if str(keras.backend.standardize_dtype(v.dtype))[0] in "fb"]
    if not floating:
        return []
    shape = tuple(next(iter(found.values()), floating[0]).shape)
    return [variable for variable in floating if tuple(variable.shape) == shape]
