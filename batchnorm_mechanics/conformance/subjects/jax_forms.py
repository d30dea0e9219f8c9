"""Modules of JAX's libraries, whose variables go in and come out: flax, Haiku, Equinox.

Each is brought into one form: a tree of arrays from an input, and from the tree, an input and a
mode the output and the next tree.
"""

# A peer need not be installed.
# pyright: reportMissingImports=false

import copy
import inspect
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from batchnorm_mechanics.conformance.subjects.backends import JAX, QUICKLY
from batchnorm_mechanics.conformance.subjects.calling import UntoldError
from batchnorm_mechanics.conformance.subjects.form import (
    ByRole,
    Form,
    Made,
    Wanted,
    class_of,
    described,
)
from batchnorm_mechanics.conformance.subjects.object_recipe import ClassRecipe
from batchnorm_mechanics.conformance.subjects.roles import Role, find_roles, stands_for

_MODES = (Role.TRAINING, Role.INFERENCE)
Tree = Any


class Program(NamedTuple):
    """A module as two pure functions.

    Attributes:
        start: from an input to the tree of its variables.
        apply: from the tree, an input and a mode to the output and the next tree.
    """

    start: Callable[[Any], Tree]
    apply: Callable[[Tree, Any, bool | None], tuple[Any, Tree]]


class PureMade(Made):
    """A tree of variables, the program that takes it, and the same compiled."""

    def __init__(self, tree: Tree, program: "Program", apply: Callable[..., Any]) -> None:
        self._tree, self._program, self._apply = tree, program, apply

    def _leaves(self) -> dict[str, Any]:
        import jax

        found, _ = jax.tree_util.tree_flatten_with_path(self._tree)
        return {"/".join(map(_name_of, path)): leaf for path, leaf in found}

    def variables(self) -> dict[str, np.ndarray]:
        """Return the tree's arrays, but for keys of random numbers."""
        import jax

        def is_key(leaf: Any) -> bool:
            return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)

        leaves = self._leaves().items()
        return {path: np.array(leaf) for path, leaf in leaves if not is_key(leaf)}

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Return to the tree with other leaves."""
        import jax

        structure = jax.tree_util.tree_structure(self._tree)
        wide = any(value.dtype == np.float64 for value in values.values())
        with JAX.precise(wide=wide):
            leaves = [
                JAX.tensor(values[path]) if path in values else leaf
                for path, leaf in self._leaves().items()
            ]
            self._tree = jax.tree_util.tree_unflatten(structure, leaves)

    def output(self, x: np.ndarray, training: bool | None) -> np.ndarray:
        """Return the output, and keep the next tree."""
        with JAX.precise(wide=x.dtype == np.float64):
            y, self._tree = self._apply(self._tree, JAX.tensor(x), training)
            return np.array(y)

    def slopes(self, x: np.ndarray, dy: np.ndarray, paths: Mapping[Role, str]) -> ByRole:
        """Return the gradients that JAX derives."""
        import jax

        leaves = self._leaves()
        structure = jax.tree_util.tree_structure(self._tree)

        def forward(x: Any, *values: Any) -> Any:
            told = {**leaves, **dict(zip(paths.values(), values, strict=True))}
            tree = jax.tree_util.tree_unflatten(structure, list(told.values()))
            return self._program.apply(tree, x, True)[0]

        with JAX.precise(wide=x.dtype == np.float64):
            sources = [JAX.tensor(x), *(leaves[path] for path in paths.values())]
            found = JAX.slopes(forward, sources, dy)
        return dict(zip((Role.X, *paths), found, strict=True))


class PureForm(Form):
    """Modules of one of these libraries, by a class of them or by one of its objects.

    Args:
        thing: class or object.

    Raises:
        UntoldError: the constructor needs what no role is known for.
    """

    library: str

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._is_class = isinstance(thing, type | partial)
        self._class = class_of(thing)
        self.description = described(self._class, is_class=self._is_class)
        self._recipe = ClassRecipe(thing, self._extra()) if self._is_class else None
        self._programs: dict[Any, tuple[Program, Callable[..., Any]]] = {}
        self._trees: dict[Any, Tree] = {}

    def _extra(self) -> Mapping[str, Any]:
        """Return what constructors of this library may need besides, by name."""
        return {}

    @abstractmethod
    def _program(self, wanted: Wanted) -> Program:
        """Return a module with these options as a program."""

    def _module(self, wanted: Wanted) -> Any:
        """Return a new module: of the class, or like the object, with these options."""
        if self._recipe is not None:
            return self._recipe.make(wanted)
        made = copy.copy(self._thing)
        for role, name in self.options.items():
            if role in wanted.options:
                object.__setattr__(made, name, wanted.options[role])
        return made

    def make(self, wanted: Wanted) -> PureMade:
        """Return a new tree; programs are compiled once, whatever asks for them."""
        import jax

        options = tuple(sorted(wanted.options.items()))
        # A module may hold the number of its channels, and arrays of its own.
        key = wanted.shape[1:], wanted.layout, options, wanted.dtype
        with JAX.precise(wide=wanted.dtype == "float64"):
            if key not in self._programs:
                program = self._program(wanted)
                apply = jax.jit(program.apply, static_argnums=2, compiler_options=QUICKLY)
                self._programs[key] = program, apply
            program, apply = self._programs[key]
            if (key, wanted.shape) not in self._trees:
                x = JAX.tensor(np.zeros(wanted.shape, jax.numpy.dtype(wanted.dtype)))
                start = jax.jit(program.start, compiler_options=QUICKLY)
                self._trees[key, wanted.shape] = start(x)
            return PureMade(self._trees[key, wanted.shape], program, apply)

    @cached_property
    def options(self) -> Mapping[Role, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the constructor takes, or the object holds."""
        if self._recipe is not None:
            return self._recipe.takes
        held = {**getattr(self._thing, "__dict__", {})}
        numbers = [name for name, value in held.items() if isinstance(value, float)]
        return find_roles(numbers, (Role.EPSILON, Role.MOMENTUM))

    @cached_property
    def defaults(self) -> Mapping[Role, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What these are when nothing is said."""
        if self._recipe is not None:
            return self._recipe.defaults
        return {role: getattr(self._thing, name) for role, name in self.options.items()}

    @cached_property
    def axes(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A number by default is the axis kept; nothing, those that are reduced."""
        if self._recipe is None or Role.AXIS not in self._recipe.names:
            return None
        default = self._recipe.defaults.get(Role.AXIS, -1)
        return "kept" if isinstance(default, int) else "reduced" if default is None else None

    @cached_property
    def own_axis(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the constructor's default."""
        axis = None if self._recipe is None else self._recipe.defaults.get(Role.AXIS)
        return axis if isinstance(axis, int) else -1

    @cached_property
    def _mode(self) -> tuple[Role, str, bool] | None:
        """The parameter of a call that takes the mode, and whether it has a default."""
        for name, each in inspect.signature(self._class.__call__).parameters.items():
            role = next((role for role in _MODES if stands_for(name, role)), None)
            if role is not None:
                return role, name, each.default is not each.empty
        return None

    def _said(self, training: bool | None) -> dict[str, Any]:
        if self._mode is None or (training is None and self._mode[2]):
            return {}
        role, name, _ = self._mode
        return {name: bool(training) == (role is Role.TRAINING)}

    @cached_property
    def own_mode(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a call may say none, and mean one."""
        return self._mode is None or self._mode[2]

    @property
    def words(self) -> str:
        """Return how it was recognized."""
        told = f"`{self._mode[1]}`" if self._mode is not None else self._switch
        return f"module of {self.library}, training and inference by {told}"

    _switch = "nothing"


class Linen(PureForm):
    """`flax.linen` modules: `init` and `apply`."""

    library = "flax.linen"

    def _module(self, wanted: Wanted) -> Any:
        if self._recipe is not None:
            return self._recipe.make(wanted)
        told = {name: wanted.options[r] for r, name in self.options.items() if r in wanted.options}
        return self._thing.clone(**told)

    def _program(self, wanted: Wanted) -> Program:
        import jax

        module = self._module(wanted)

        def start(x: Any) -> Tree:
            return module.init(jax.random.PRNGKey(0), x, **self._said(False))

        def apply(tree: Tree, x: Any, training: bool | None) -> tuple[Any, Tree]:
            y, moved = module.apply(tree, x, **self._said(training), mutable=True)
            return y, {**tree, **moved}

        return Program(start, apply)


class Nnx(PureForm):
    """`flax.nnx` modules: `split` and `merge`."""

    library = "flax.nnx"
    _switch = "`train()` and `eval()`"

    def _extra(self) -> Mapping[str, Any]:
        from flax import nnx

        return {"rngs": nnx.Rngs(0)}

    def _program(self, wanted: Wanted) -> Program:
        from flax import nnx

        graph, state = nnx.split(self._module(wanted))

        def apply(tree: Tree, x: Any, training: bool | None) -> tuple[Any, Tree]:
            module = nnx.merge(graph, tree)
            if self._mode is None and training is not None:
                (module.train if training else module.eval)()
            y = module(x, **self._said(training))
            return y, nnx.state(module)

        return Program(lambda x: state, apply)


class Equinox(PureForm):
    """`equinox` modules with state, called under `jax.vmap` over the batch."""

    library = "Equinox"
    _switch = "`equinox.nn.inference_mode`"

    def _extra(self) -> Mapping[str, Any]:
        import jax

        return {"axis_name": "batch", "key": jax.random.PRNGKey(0)}

    def _program(self, wanted: Wanted) -> Program:
        import jax

        # What the user's module comes from is there; we depend on neither this nor Haiku.
        eqx: Any = sys.modules["equinox"]

        if self._recipe is None:
            module = self._module(wanted)
            state = eqx.nn.State(module)
        else:
            module, state = eqx.nn.make_with_state(self._recipe.make)(wanted)
        arrays, rest = eqx.partition(module, eqx.is_array)

        def apply(tree: Tree, x: Any, training: bool | None) -> tuple[Any, Tree]:
            module = eqx.combine(tree["module"], rest)
            if self._mode is None and training is not None:
                module = eqx.nn.inference_mode(module, not training)

            def one(x: Any, state: Any) -> Any:
                return module(x, state, **self._said(training))

            batch = jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            y, moved = batch(x, tree["state"])
            return y, {"module": tree["module"], "state": moved}

        return Program(lambda x: {"module": arrays, "state": state}, apply)


class Haiku(PureForm):
    """Haiku modules, transformed with their state, or what was transformed already."""

    library = "Haiku"

    def _program(self, wanted: Wanted) -> Program:
        hk: Any = sys.modules["haiku"]

        def call(x: Any, training: bool | None) -> Any:
            return self._module(wanted)(x, **self._said(training))

        transformed = hk.transform_with_state(call)

        def start(x: Any) -> Tree:
            return dict(zip(("params", "state"), transformed.init(None, x, True), strict=True))

        def apply(tree: Tree, x: Any, training: bool | None) -> tuple[Any, Tree]:
            y, state = transformed.apply(tree["params"], tree["state"], None, x, training)
            return y, {"params": tree["params"], "state": state}

        return Program(start, apply)


class HaikuTransformed(PureForm):
    """What `hk.transform_with_state` gives: `init` and `apply`, and all settings within."""

    library = "Haiku"
    _mode = None  # pyright: ignore[reportAssignmentType]
    own_mode = False  # pyright: ignore[reportAssignmentType]
    _switch = "its second argument"

    def _program(self, wanted: Wanted) -> Program:
        import jax

        key = jax.random.PRNGKey(0)

        def start(x: Any) -> Tree:
            told = self._thing.init(key, x, True)
            return dict(zip(("params", "state"), told, strict=True))

        def apply(tree: Tree, x: Any, training: bool | None) -> tuple[Any, Tree]:
            y, state = self._thing.apply(tree["params"], tree["state"], key, x, bool(training))
            return y, {"params": tree["params"], "state": state}

        return Program(start, apply)

    @property
    def options(self) -> Mapping[Role, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """None: they are within."""
        return {}


def form_of(thing: Any, modules: set[str]) -> PureForm | None:
    """Return the form of a thing that comes from these modules, None if it is none of these.

    Args:
        thing: a class, an object, or a partial of a class.
        modules: the names of the modules of its classes.
    """
    if (
        hasattr(thing, "init")
        and hasattr(thing, "apply")
        and any(name.startswith("haiku.") for name in modules)
    ):
        return HaikuTransformed(thing)
    forms = (("flax.linen", Linen), ("flax.nnx", Nnx), ("equinox", Equinox), ("haiku", Haiku))
    for prefix, form in forms:
        if any(f"{name}.".startswith(f"{prefix}.") for name in modules):
            if form is Haiku and not isinstance(thing, type | partial):
                why = "a Haiku module outside of `hk.transform_with_state`"
                raise UntoldError(why, wrappable=False)
            return form(thing)
    return None


def _name_of(key: Any) -> str:
    """Return how a step of a path in a tree is called."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
