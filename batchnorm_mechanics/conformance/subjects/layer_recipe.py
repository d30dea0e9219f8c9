"""How a Keras layer is made for a setting, of a class or an instance, and where its weights are."""

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import keras

from batchnorm_mechanics._exceptions import InputError

GAMMA, BETA, MEAN, VARIANCE = "gamma", "beta", "moving_mean", "moving_variance"
ROLES = (GAMMA, BETA, MEAN, VARIANCE)

# What a layer may let one set, each with Keras's default for a constructor that has none.
OPTIONS: Mapping[str, Any] = {"axis": -1, "momentum": 0.99, "epsilon": 1e-3, "dtype": "float32"}

# Half precision is used through a mixed policy: variables stay float32.
POLICIES = {
    "float32": "float32",
    "float64": "float64",
    "float16": "mixed_float16",
    "bfloat16": "mixed_bfloat16",
}


class ClassRecipe:
    """Makes layers that differ in their options alone: calls the class.

    Attributes:
        layer_class: the class of the layers.
        takes: which of `OPTIONS` can be set.
        needs: which of them must be.

    Args:
        layer_class: a subclass of `keras.layers.Layer` whose constructor needs no argument besides
            `OPTIONS` and `name`.

    Raises:
        InputError: the constructor needs more.
    """

    def __init__(self, layer_class: type[keras.layers.Layer]) -> None:
        required = {
            name: None
            for name, parameter in inspect.signature(layer_class).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        missing = [name for name in required if name not in OPTIONS]
        if missing:
            raise InputError(
                "conform: `subject` must be a layer class that can be constructed without "
                f"arguments. Received: subject={layer_class.__name__}, whose __init__ needs "
                f"{', '.join(missing)}. Pass an instance instead."
            )
        self.layer_class = layer_class
        self.needs = frozenset(required)

    @cached_property
    def takes(self) -> frozenset[str]:
        """Which options the constructors of the class and its bases take.

        Followed through `**kwargs` down to Keras's own layer, of whose arguments `dtype` counts.
        """
        found: set[str] = set()
        for cls in self.layer_class.__mro__:
            if cls is keras.layers.Layer:
                found.add("dtype")
                break
            if "__init__" not in vars(cls):
                continue
            parameters = inspect.signature(vars(cls)["__init__"]).parameters
            found |= OPTIONS.keys() & parameters.keys()
            if all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
                break
        own = inspect.signature(self.layer_class).parameters
        return frozenset(name for name in found if name in own or not self._fixes(name))

    def _fixes(self, name: str) -> bool:
        """Whether the class hands the option on to its base by itself, and so takes it no more."""
        try:
            self.make({name: OPTIONS[name]})
        except TypeError as error:
            return "multiple values for" in str(error)
        except Exception:
            # Whatever else is wrong with it is found, and reported, when it is opened for a case.
            return False
        return False

    def make(self, options: Mapping[str, Any]) -> keras.layers.Layer:
        """Return a new layer, not built yet, with these options; what is not named stays."""
        return self.layer_class(**{**{name: OPTIONS[name] for name in self.needs}, **options})


class InstanceRecipe:
    """Does the same by copying an instance by its own configuration; weights are not copied.

    Attributes:
        layer_class, takes, needs: as of `ClassRecipe`.

    Args:
        layer: any Keras layer; it is left alone.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer_class = type(layer)
        self.needs: frozenset[str] = frozenset()
        self._layer = layer
        self._problem: Exception | None = None
        try:
            self._config: dict[str, Any] = layer.get_config()
        except Exception as error:
            # A layer that cannot be copied cannot be saved either: `make` fails with this reason,
            # and until then nothing may be refused in its stead.
            self._problem = error
        self.takes = frozenset(OPTIONS if self._problem else OPTIONS.keys() & self._config.keys())

    def make(self, options: Mapping[str, Any]) -> keras.layers.Layer:
        """Return a new layer with other options: see `ClassRecipe.make`.

        Raises:
            ValueError: the configuration cannot be had, or makes no layer.
        """
        if self._problem is not None:
            raise self._not_copied(self._problem) from self._problem
        # A frozen layer would not train, and its computation is what is judged here.
        config = {**self._config, "trainable": True, **options}
        try:
            return self.layer_class.from_config(config)
        except Exception as error:
            raise self._not_copied(error) from error

    def _not_copied(self, error: Exception) -> ValueError:
        return ValueError(
            "conform: `subject` must give by get_config() what from_config() makes the same layer "
            f"of. Received: subject={self._layer!r}, {type(error).__name__}: {error} "
            "Repair get_config, which saving a model needs too, or pass the class."
        )


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
