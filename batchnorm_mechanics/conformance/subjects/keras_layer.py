"""Any Keras layer as a subject: Keras's own, ours, or a user's class or instance."""

import inspect
import tempfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics.conformance.subject import (
    Ability,
    Array,
    Mask,
    Session,
    Setting,
    Slopes,
    Statistics,
    Subject,
    given,
    in_shape,
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
    find_weights,
)
from batchnorm_mechanics.conformance.subjects.tensor_functions import taped
from batchnorm_mechanics.layers import BatchNormalization

Way = Literal["eager", "graph", "compiled"]

# What a layer is built for to see which weights it has: one of them should suit it.
_TRIAL_SHAPES = ((2, 3), (2, 3, 4, 5), (2, 3, 4), (2, 3, 4, 5, 6))


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

    Attributes:
        way: as given.

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
        self._recipe = ClassRecipe(layer) if is_class else InstanceRecipe(layer)
        self.way: Way = way
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
    def synchronized(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a layer with nothing set says so, as Keras's does by its argument."""
        return bool(getattr(self._sample, "synchronized", False))

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
    def _sample(self) -> keras.layers.Layer | None:
        """A layer with nothing set; None where that raises: all cases fail so, none is refused."""
        try:
            return self._recipe.make({})
        except Exception:
            return None

    def _is_for(self, rank: int) -> bool:
        """Whether the layer itself says so, before it has seen a shape, or says nothing."""
        spec: Any = getattr(self._sample, "input_spec", None)
        if not isinstance(spec, keras.layers.InputSpec):
            return True
        if spec.ndim:
            return rank == spec.ndim
        return (spec.min_ndim or 0) <= rank <= (spec.max_ndim or rank)

    def _make(self, setting: Setting) -> keras.layers.Layer:
        kept = list(setting.kept or ())
        options = given(
            axis=kept[0] if len(kept) == 1 else None if setting.kept is None else kept,
            momentum=setting.momentum,
            epsilon=setting.epsilon,
            dtype=POLICIES[setting.dtype],
        )
        takes = self._recipe.takes
        return self._recipe.make({name: options[name] for name in options if name in takes})

    def _build(self, setting: Setting) -> keras.layers.Layer:
        layer = self._make(setting)
        _create_weights(layer, _batch_shape(setting), setting.dtype)
        return layer

    def refusal(self, setting: Setting) -> str | None:
        """Return why the layer is not made for a setting: see `Subject.refusal`."""
        takes = self._recipe.takes
        for name in (*ROLES, "momentum", "epsilon"):
            has = self._roles if name in ROLES else takes
            if getattr(setting, name) is not None and name not in has:
                return f"it has no {name}"
        if setting.dtype != "float32" and "dtype" not in takes:
            return "it has no argument `dtype` and computes in float32"
        if not self._is_for(len(setting.shape)):
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
        try:
            (self._build if several else self._make)(
                Setting(setting.shape, setting.kept, setting.dtype)
            )
        except Exception as error:
            if self._sample is None:
                return None
            what = "a list for `axis`" if several else f"{setting.dtype} with this axis"
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
        return LayerSession(layer, setting, self.way)


class LayerSession(Session):
    """A layer set up for one setting.

    Attributes:
        layer, setting, way: which, how, and run how.
    """

    def __init__(self, layer: keras.layers.Layer, setting: Setting, way: Way) -> None:
        self.layer = layer
        self.setting = setting
        self.way: Way = way
        self._weights = find_weights(layer)
        self._traced: dict[Any, Callable[..., Any]] = {}
        self._modes = _takes(type(layer), "training")

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Call the layer with `training`, unless it does not take that or is told none."""

        def output(x: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
            return self._called(x, mask, training)

        y = self._run(f"training={training}", output, x, mask)
        if not tf.is_tensor(y):
            raise TypeError(
                f"conform: the layer {type(self.layer).__name__} must return one tensor. "
                f"Received: {type(y).__name__}. Return the output alone from call()."
            )
        return y.numpy()

    def _called(self, x: tf.Tensor, mask: tuple[tf.Tensor, ...], training: bool | None) -> Any:
        mode = training if self._modes else None
        return self.layer(x, **given(training=mode), **({"mask": mask[0]} if mask else {}))

    def _run(self, name: str, function: Callable[..., Any], *arrays: np.ndarray | None) -> Any:
        """Return what a function of tensors returns, run in the session's way.

        Args:
            name: stands for the function; the same name must always come with the same function.
            function: takes a tensor for each array that is not None, and returns tensors.
            *arrays: its inputs.
        """
        tensors = [tf.constant(array) for array in arrays if array is not None]
        if self.way == "eager":
            return function(*tensors)
        key = (name, *((tuple(tensor.shape), tensor.dtype) for tensor in tensors))
        if key not in self._traced:
            # Traced by hand for each shape, as it is meant: left to tf.function, many subjects one
            # after another look like needless retracing, and it warns.
            self._traced[key] = tf.function(
                function, jit_compile=self.way == "compiled"
            ).get_concrete_function(*tensors)
        return self._traced[key](*tensors)

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return the gradients that `tf.GradientTape` finds; 0 where it finds no way."""
        roles = [role for role in (GAMMA, BETA) if role in self._weights]

        def slopes(x: tf.Tensor, dy: tf.Tensor, *mask: tf.Tensor) -> list[Any]:
            weights = [self._weights[role] for role in roles]
            sources = [x, *(w.value if isinstance(w, keras.Variable) else w for w in weights)]
            return taped(lambda x, *_: self._called(x, mask, training=True), sources, dy)

        dx, *of_weights = self._run("gradients", slopes, x, dy, mask)
        found = dict(zip(roles, map(self._of_weight, of_weights), strict=True))
        return Slopes(dx.numpy(), found.get(GAMMA), found.get(BETA))

    def statistics(self) -> Statistics:
        """Return the values of the two variables."""
        return Statistics(*(self._of_weight(self._weights[role]) for role in (MEAN, VARIANCE)))

    def _of_weight(self, value: Any) -> np.ndarray:
        """Return a copy of what a weight, or its gradient, holds, in the shape of the kept axes."""
        setting = self.setting
        kept_shape = None if setting.kept is None else setting.kept_shape
        return in_shape(tf.convert_to_tensor(value).numpy().copy(), kept_shape)

    def reload(self) -> Self:
        """Save a model of this one layer as a `.keras` file and load it.

        Nothing is set again: settings and statistics of the new session are the file's.
        """
        layer_class = type(self.layer)
        model = keras.Sequential(
            [
                keras.Input(batch_shape=_batch_shape(self.setting), dtype=self.setting.dtype),
                self.layer,
            ]
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            loaded = keras.saving.load_model(
                path, custom_objects={layer_class.__name__: layer_class}
            )
        return type(self)(loaded.layers[-1], self.setting, self.way)


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


def _takes(layer_class: type[keras.layers.Layer], argument: str) -> bool:
    """Whether `call` names an argument, which is what Keras looks at too."""
    return argument in inspect.signature(layer_class.call).parameters


class _Fused(BatchNormalization):
    """Our layer by the kernel for large inputs, which the small ones of the cases never get."""

    _kernel = "fused"


class _Differentiated(BatchNormalization):
    """Our layer with autodiff's gradient in place of the closed form."""

    _kernel = "autodiff"


class _FusedSubject(KerasLayer):
    """The fused kernel, asked only what it is made for."""

    @property
    def abilities(self) -> frozenset[Ability]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All but masks."""
        return super().abilities - {Ability.MASK}

    def refusal(self, setting: Setting) -> str | None:
        """Refuse other axes and dtypes too; see `Subject.refusal`."""
        if setting.dtype == "float64":
            return "the fused kernel has no float64"
        if setting.keeping(-1).kept != (len(setting.shape) - 1,):
            return "the fused kernel keeps the last axis"
        return super().refusal(setting)


def _ours(name: str, way: Way, description: str) -> Callable[[], KerasLayer]:
    return partial(KerasLayer, name, BatchNormalization, way, description=description)


our_layer = _ours("bnm.layer", "eager", "our layer, eager")
our_layer_in_a_graph = _ours("bnm.layer-graph", "graph", "our layer in a tf.function")
our_layer_compiled = _ours(
    "bnm.layer-compiled", "compiled", "our layer in a tf.function compiled by XLA"
)
our_layer_fused = partial(
    _FusedSubject, "bnm.layer-fused", _Fused, description="our layer, fused kernel"
)
our_layer_differentiated = partial(
    KerasLayer,
    "bnm.layer-autodiff",
    _Differentiated,
    description="our layer, autodiff's gradient",
)
_OF_KERAS = f"keras.layers.BatchNormalization of Keras {keras.__version__}"
keras_layer = partial(KerasLayer, "keras", keras.layers.BatchNormalization, description=_OF_KERAS)


def our_synchronized_layer() -> KerasLayer:
    """Return our layer, synchronized."""
    layer = BatchNormalization(synchronized=True)
    return KerasLayer("bnm.layer-synchronized", layer, description="our layer")


def keras_synchronized_layer() -> KerasLayer:
    """Return Keras's layer, synchronized."""
    layer = keras.layers.BatchNormalization(synchronized=True)
    return KerasLayer("keras-synchronized", layer, description=_OF_KERAS)
