"""Any Keras layer as a subject: Keras's own, ours, or a user's class or instance."""

import inspect
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics.conformance.subject import (
    Ability,
    Session,
    Setting,
    Slopes,
    Statistics,
    Subject,
    in_shape,
    kept_shape,
)
from batchnorm_mechanics.conformance.subjects.layer_recipe import (
    BETA,
    GAMMA,
    MEAN,
    POLICIES,
    ROLES,
    VARIANCE,
    ClassRecipe,
    InstanceRecipe,
    Recipe,
    find_weights,
)

Way = Literal["eager", "graph", "compiled"]

# What a layer is built for to see which weights it has: one of them should suit it.
_TRIAL_SHAPES = ((2, 3), (2, 3, 4, 5), (2, 3, 4), (2, 3, 4, 5, 6))


class _Ranks(NamedTuple):
    min: int = 0
    max: int = 99


class KerasLayer(Subject):
    """A Keras layer class, or an instance, of which copies are judged.

    What the layer takes and has is looked at when it is first asked for, not on construction: a
    user's layer may hang.

    Args:
        name: see `Subject`.
        layer: class or instance.
        way: how its computation is run.
        description: see `Subject`; by default it is made of the class's name.
        source: see `Subject`.

    Raises:
        InputError: the class cannot be constructed without arguments of its own.
    """

    def __init__(
        self,
        name: str,
        layer: type[keras.layers.Layer] | keras.layers.Layer,
        way: Way = "eager",
        *,
        description: str | None = None,
        source: str | None = None,
    ) -> None:
        is_class = inspect.isclass(layer)
        self._recipe: Recipe = ClassRecipe(layer) if is_class else InstanceRecipe(layer)
        self._way: Way = way
        kind = "class" if is_class else "instance"
        self.name = name
        self.description = description or f"Keras layer {kind} {self._recipe.layer_class.__name__}"
        self.source = source
        self.needs = self._recipe.needs - {"dtype"}

    @cached_property
    def abilities(self) -> frozenset[Ability]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the signature of `call` and the weights let one ask."""
        abilities = {Ability.TRAIN, Ability.CALL, Ability.GRADIENTS, Ability.RELOAD}
        if _takes(self._recipe.layer_class, "training"):
            abilities.add(Ability.INFER)
        if _takes(self._recipe.layer_class, "mask"):
            abilities.add(Ability.MASK)
        if {MEAN, VARIANCE} <= self._roles:
            abilities.add(Ability.STATISTICS)
        return frozenset(abilities)

    @cached_property
    def declared_momentum(self) -> Literal["old"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Keras's documentation says the old value; a layer without the argument says nothing."""
        return "old" if "momentum" in self._recipe.takes else None

    @cached_property
    def takes_epsilon(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the constructor has the argument."""
        return "epsilon" in self._recipe.takes

    @cached_property
    def lacks(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Which of gamma and beta no weight was found for."""
        return frozenset({GAMMA, BETA} - self._roles)

    @cached_property
    def _roles(self) -> frozenset[str]:
        for shape in _TRIAL_SHAPES:
            try:
                return frozenset(find_weights(self._build(Setting(shape))))
            except Exception:
                # It may be made for another rank. If it suits none of them, it is taken to have all
                # weights, and each case fails with what the layer raises.
                continue
        return frozenset(ROLES)

    @cached_property
    def _ranks(self) -> "_Ranks":
        """The ranks that the layer itself says it is made for, before it has seen a shape."""
        spec: Any = self._recipe.make({}).input_spec if self._constructible else None
        if not isinstance(spec, keras.layers.InputSpec):
            return _Ranks()
        least, most = (spec.ndim, spec.ndim) if spec.ndim else (spec.min_ndim, spec.max_ndim)
        return _Ranks(least or _Ranks().min, most or _Ranks().max)

    @cached_property
    def _constructible(self) -> bool:
        try:
            self._recipe.make({})
        except Exception:
            # Then every case fails with this, and none is refused.
            return False
        return True

    def _make(self, setting: Setting) -> keras.layers.Layer:
        options: dict[str, Any] = {
            "axis": _axis_argument(setting.kept),
            "momentum": setting.momentum,
            "epsilon": setting.epsilon,
            "dtype": POLICIES[setting.dtype],
        }
        takes = self._recipe.takes
        return self._recipe.make(
            {name: value for name, value in options.items() if name in takes and value is not None}
        )

    def _build(self, setting: Setting) -> keras.layers.Layer:
        layer = self._make(setting)
        _create_weights(layer, _batch_shape(setting), setting.dtype)
        return layer

    def refusal(self, setting: Setting) -> str | None:
        """Return why the layer is not made for a setting: see `Subject.refusal`."""
        takes = self._recipe.takes
        given = {name: getattr(setting, name) for name in (*ROLES, "momentum", "epsilon")}
        for name, value in given.items():
            if value is not None and name not in (self._roles if name in ROLES else takes):
                return f"it has no {name}"
        if setting.dtype != "float32" and "dtype" not in takes:
            return "it has no argument `dtype` and computes in float32"
        if not self._ranks.min <= len(setting.shape) <= self._ranks.max:
            return f"its input_spec is for other ranks than {len(setting.shape)}"
        if setting.kept == ():
            return "it keeps at least one axis"
        last = (len(setting.shape) - 1,)
        if "axis" not in takes and setting.kept not in (None, last):
            return "it has no argument `axis` and keeps the last"
        return self._refusal_of_its_own(setting)

    def _refusal_of_its_own(self, setting: Setting) -> str | None:
        """Return what the constructor says against an axis or dtype, if it says nothing otherwise.

        Most layers take one axis, and some of those notice a list only when they are built.
        """
        several = len(setting.kept or ()) > 1
        plain = Setting(setting.shape, setting.kept, setting.dtype)
        try:
            if several:
                self._build(plain)
            else:
                self._make(plain)
        except Exception as error:
            if not self._constructible:
                return None
            what = "a list for `axis`" if several else f"{plain.dtype} with this axis"
            return f"it does not take {what}: {type(error).__name__}: {error}"
        return None

    def open(self, setting: Setting) -> "LayerSession":
        """Return a new layer, built, with the setting's values assigned."""
        layer = self._build(setting)
        weights = find_weights(layer)
        for role in ROLES:
            value = getattr(setting, role)
            if value is not None:
                variable = weights[role]
                variable.assign(np.reshape(value, variable.shape))
        return LayerSession(layer, setting, self._way)


class Execution:
    """Runs functions of tensors in one way, each traced once for each shape of its inputs.

    Args:
        way: "eager" calls them; "graph" makes a `tf.function` of them; "compiled" one with
            `jit_compile=True`.

    Example:
        >>> run = Execution("graph")
        >>> run("double", lambda x: [2 * x], tf.constant(3.0))[0].numpy().item()
        6.0
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._traced: dict[Any, Callable[..., Any]] = {}

    def __call__(self, name: str, function: Callable[..., Any], *tensors: tf.Tensor) -> Any:
        """Return what the function returns.

        Args:
            name: stands for the function; the same name must always come with the same function.
            function: takes the tensors and returns tensors.
            *tensors: its inputs, of known shapes.
        """
        if self._way == "eager":
            return function(*tensors)
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        key = (name, *((tuple(spec.shape), spec.dtype.name) for spec in specs))
        if key not in self._traced:
            # Traced by hand for each shape, as it is meant: left to tf.function, many subjects one
            # after another look like needless retracing, and it warns.
            self._traced[key] = tf.function(
                function, jit_compile=self._way == "compiled"
            ).get_concrete_function(*specs)
        return self._traced[key](*tensors)


class LayerSession(Session):
    """A layer set up for one setting."""

    def __init__(self, layer: keras.layers.Layer, setting: Setting, way: Way) -> None:
        self._layer = layer
        self._setting = setting
        self._way: Way = way
        self._weights = find_weights(layer)
        self._run = Execution(way)
        self._modes = _takes(type(layer), "training")

    def output(
        self, x: np.ndarray, mask: np.ndarray | None = None, *, training: bool | None
    ) -> np.ndarray:
        """Call the layer with `training`, unless it does not take that or is told none."""

        def output(x: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
            return self._called(x, mask, training)

        y = self._run(f"training={training}", output, *_tensors(x, mask))
        return _as_array(y, self._layer)

    def _called(self, x: tf.Tensor, mask: tuple[tf.Tensor, ...], training: bool | None) -> Any:
        mode = {} if training is None or not self._modes else {"training": training}
        return self._layer(x, **mode, **({"mask": mask[0]} if mask else {}))

    def gradients(self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None = None) -> Slopes:
        """Return the gradients that `tf.GradientTape` finds; 0 where it finds no way."""
        roles = [role for role in (GAMMA, BETA) if role in self._weights]

        def slopes(x: tf.Tensor, dy: tf.Tensor, *mask: tf.Tensor) -> list[Any]:
            sources = [x, *(_as_variable(self._weights[role]) for role in roles)]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                y = self._called(x, mask, training=True)
            return tape.gradient(
                y,
                sources,
                output_gradients=[tf.cast(dy, y.dtype)],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        dx, *of_weights = self._run("gradients", slopes, *_tensors(x, dy, mask))
        found = dict(zip(roles, of_weights, strict=True))
        return Slopes(
            dx.numpy(),
            *(
                in_shape(tf.convert_to_tensor(found[role]).numpy(), self._kept_shape)
                if role in found
                else None
                for role in (GAMMA, BETA)
            ),
        )

    def statistics(self) -> Statistics:
        """Return the values of the two variables."""
        mean, variance = (
            in_shape(tf.convert_to_tensor(self._weights[role]).numpy().copy(), self._kept_shape)
            for role in (MEAN, VARIANCE)
        )
        return Statistics(mean, variance)

    @property
    def _kept_shape(self) -> tuple[int, ...] | None:
        kept = self._setting.kept
        return None if kept is None else kept_shape(self._setting.shape, kept)

    def reload(self) -> Self:
        """Save a model of this one layer as a `.keras` file and load it.

        Nothing is set again: settings and statistics of the new session are the file's.
        """
        layer_class = type(self._layer)
        model = keras.Sequential(
            [
                keras.Input(batch_shape=_batch_shape(self._setting), dtype=self._setting.dtype),
                self._layer,
            ]
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            loaded = keras.saving.load_model(
                path, custom_objects={layer_class.__name__: layer_class}
            )
        return type(self)(loaded.layers[-1], self._setting, self._way)


def _create_weights(layer: keras.layers.Layer, shape: tuple[int | None, ...], dtype: str) -> None:
    """Build a layer without letting it see data."""
    if layer.built:
        return
    if type(layer).build is keras.layers.Layer.build:
        # Weights that only the call creates, in layers within this one: a symbolic input does it.
        layer(keras.Input(batch_shape=shape, dtype=dtype))
    else:
        layer.build(shape)


def _batch_shape(setting: Setting) -> tuple[int | None, ...]:
    """Return the input's shape for building: the batch's size is open unless that axis is kept."""
    kept = setting.kept or ()
    return (setting.shape[0] if 0 in kept else None, *setting.shape[1:])


def _axis_argument(kept: tuple[int, ...] | None) -> int | list[int] | None:
    if kept is None:
        return None
    return kept[0] if len(kept) == 1 else list(kept)


def _takes(layer_class: type[keras.layers.Layer], argument: str) -> bool:
    """Whether `call` names an argument, which is what Keras looks at too."""
    return argument in inspect.signature(layer_class.call).parameters


def _tensors(*arrays: np.ndarray | None) -> list[tf.Tensor]:
    return [tf.constant(array) for array in arrays if array is not None]


def _as_variable(variable: Any) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _as_array(y: Any, layer: keras.layers.Layer) -> np.ndarray:
    if not tf.is_tensor(y):
        raise TypeError(
            f"conform: the layer {type(layer).__name__} must return one tensor. "
            f"Received: {type(y).__name__}. Return the output alone from call()."
        )
    return y.numpy()
