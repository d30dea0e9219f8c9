"""Flax's `nnx.BatchNorm`; jax and flax are imported on opening."""

# A peer need not be installed.
# pyright: reportMissingImports=false

import importlib.metadata
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Self

import numpy as np

from batchnorm_mechanics.conformance.subject import (
    ONE,
    Ability,
    Array,
    Mask,
    Session,
    Setting,
    Slopes,
    Statistics,
    Subject,
    given,
    wide,
)


class FlaxBatchNorm(Subject):
    """`nnx.BatchNorm` under `nnx.jit`, with E[x^2] - E[x]^2 for the variance, as it is by default.

    Half precision is asked for by its argument `dtype`, and leaves parameters and statistics in
    float32. In float64, which JAX has to be told of, the statistics are made float64 too.
    """

    keeps = ONE

    def __init__(self) -> None:
        version = importlib.metadata.version("flax")
        self.name = "flax"
        self.description = f"flax.nnx.BatchNorm of Flax {version}"
        self.abilities = frozenset(Ability)
        self.declared_momentum = "old"

    def open(self, setting: Setting) -> "FlaxSession":
        """Return a new module with the setting's values."""
        return FlaxSession(setting)


class FlaxSession(Session):
    """A module set up for one setting, and its computations."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._dtype = wide(setting.dtype)
        with self._precision():
            self._module = self._new_module()
            self._assign(
                scale=setting.gamma,
                bias=setting.beta,
                mean=setting.moving_mean,
                var=setting.moving_variance,
            )

        self._forward, self._gradients = _compiled()

    def _precision(self) -> AbstractContextManager[Any]:
        import jax

        return jax.enable_x64(self._dtype == "float64")

    def _new_module(self) -> Any:
        from flax import nnx
        from jax import numpy as jnp

        setting = self._setting
        axis = None if setting.kept is None else setting.kept[0]
        half = None if setting.dtype == self._dtype else jnp.dtype(setting.dtype)
        options = given(axis=axis, epsilon=setting.epsilon, momentum=setting.momentum, dtype=half)
        [features] = setting.keeping(-1).kept_shape
        return nnx.BatchNorm(features, rngs=nnx.Rngs(0), **options)

    def _assign(self, **values: Any) -> None:
        """Give the variables values, None for those that they have, in their own dtype."""
        from jax import numpy as jnp

        for name, value in values.items():
            variable = getattr(self._module, name)
            # As a whole: element by element, a float32 variable would stay float32.
            variable.set_value(jnp.asarray(variable[...] if value is None else value, self._dtype))

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Call the module with `use_running_average`, which says of inference what others say."""
        mode = None if training is None else not training
        with self._precision():
            return np.asarray(self._forward(self._module, x, _aligned(mask, x), mode=mode))

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return the gradients of `nnx.grad`."""
        with self._precision():
            of_module, dx = self._gradients(self._module, x, dy, _aligned(mask, x))
            return Slopes(
                np.asarray(dx),
                np.asarray(of_module["scale"][...]),
                np.asarray(of_module["bias"][...]),
            )

    def statistics(self) -> Statistics:
        """Return the module's statistics."""
        return Statistics(np.array(self._module.mean[...]), np.array(self._module.var[...]))

    def reload(self) -> Self:
        """Write the module's state as msgpack, and put it into a new module of the same settings.

        Flax saves what a module holds; the arguments are the program's.
        """
        from flax import nnx, serialization

        with self._precision():
            state = nnx.to_pure_dict(nnx.state(self._module))
            saved = serialization.msgpack_serialize(state)
            loaded: Any = serialization.msgpack_restore(saved)
            session = type(self)(self._setting)
            session._assign(**loaded)
        return session


@cache
def _compiled() -> tuple[Any, Any]:
    """Return both computations, compiled once for each setting and shape, whatever session asks."""
    from flax import nnx

    return nnx.jit(_forward, static_argnames=("mode",)), nnx.jit(_gradients)


def _forward(module: Any, x: Any, mask: Any, mode: bool | None) -> Any:
    return module(x, use_running_average=mode, mask=mask)


def _gradients(module: Any, x: Any, dy: Any, mask: Any) -> tuple[Any, Any]:
    from flax import nnx
    from jax import numpy as jnp

    def loss(module: Any, x: Any) -> Any:
        y = module(x, use_running_average=False, mask=mask)
        # The sum is of no interest, and in half precision it could overflow.
        return jnp.sum(y.astype(jnp.promote_types(y.dtype, jnp.float32)) * dy)

    return nnx.grad(loss, argnums=(0, 1))(module, x)


def _aligned(mask: np.ndarray | None, x: np.ndarray) -> np.ndarray | None:
    """Return the mask with an axis of size 1 for each axis of the input that it does not have."""
    return None if mask is None else mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
