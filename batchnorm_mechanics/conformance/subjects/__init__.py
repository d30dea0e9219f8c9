"""The built-in subjects by their names, and a user's own; each is imported when it is asked for."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._tensorflow import import_tensorflow_quietly
from batchnorm_mechanics._user_code import find
from batchnorm_mechanics.conformance.subject import Subject

_INSTALL_PEERS = "pip install 'batchnorm-mechanics[peers]'"


@dataclass(frozen=True)
class _BuiltIn:
    """A subject that comes with the package.

    Attributes:
        module, factory: where its factory is; it takes nothing.
        library: what the page of conventions calls it, in Markdown; None for ours.
        needs: packages to be installed besides ours.
        default: whether it is judged where nobody is named: with one replica, and with several.
    """

    module: str
    factory: str
    library: str | None = None
    needs: tuple[str, ...] = ()
    default: tuple[bool, bool] = (True, False)

    def missing(self) -> list[str]:
        """Return which of the packages are not installed; none is imported."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def make(self) -> Subject:
        if not self.needs:
            import_tensorflow_quietly()
        return getattr(importlib.import_module(f"{__name__}.{self.module}"), self.factory)()


_BUILT_IN = {
    "bnm.functions": _BuiltIn("tensor_functions", "functions"),
    "bnm.functions-autodiff": _BuiltIn("tensor_functions", "functions_with_autodiff"),
    "bnm.layer": _BuiltIn("keras_layer", "our_layer", default=(True, True)),
    "bnm.layer-synchronized": _BuiltIn(
        "keras_layer", "our_synchronized_layer", default=(False, True)
    ),
    "bnm.layer-fused": _BuiltIn("keras_layer", "our_layer_fused"),
    "bnm.layer-autodiff": _BuiltIn("keras_layer", "our_layer_differentiated"),
    "bnm.layer-graph": _BuiltIn("keras_layer", "our_layer_in_a_graph"),
    "bnm.layer-compiled": _BuiltIn("keras_layer", "our_layer_compiled"),
    "keras": _BuiltIn("keras_layer", "keras_layer", "Keras 3", default=(True, True)),
    "keras-synchronized": _BuiltIn(
        "keras_layer", "keras_synchronized_layer", default=(False, True)
    ),
    "tf.nn": _BuiltIn("tensor_functions", "TfNn", "`tf.nn`"),
    "tf.fused": _BuiltIn("tensor_functions", "TfFused", "`FusedBatchNormV3`"),
    "torch": _BuiltIn("torch_peer", "TorchBatchNorm", "PyTorch", needs=("torch",)),
    "flax": _BuiltIn("flax_peer", "FlaxBatchNorm", "flax", needs=("jax", "flax")),
    "onnxruntime": _BuiltIn(
        "onnx_peer", "OnnxRuntime", "ONNX Runtime", needs=("onnx", "onnxruntime")
    ),
}


def default_names(replicas: int = 1) -> list[str]:
    """Return the names of those who are judged where nobody is named; nothing is imported.

    Args:
        replicas: how many share a batch. A single one cannot tell whether a layer is synchronized,
            and several are for Keras layers.

    Returns:
        Their names, less those of peers that are not installed.

    Example:
        >>> default_names()[:2]
        ['bnm.functions', 'bnm.functions-autodiff']
    """
    several = replicas > 1
    return [
        name
        for name, built_in in _BUILT_IN.items()
        if built_in.default[several] and not built_in.missing()
    ]


def names_here() -> list[str]:
    """Return the names of all built-in subjects that can run here; nothing is imported.

    Example:
        >>> "keras-synchronized" in names_here()
        True
    """
    return [name for name, built_in in _BUILT_IN.items() if not built_in.missing()]


def all_names() -> list[str]:
    """Return the names of all built-in subjects.

    Example:
        >>> "torch" in all_names()
        True
    """
    return list(_BUILT_IN)


def libraries() -> dict[str, str]:
    """Return what the page of conventions calls each subject that is not ours, by its name.

    Example:
        >>> libraries()["tf.nn"]
        '`tf.nn`'
    """
    return {name: each.library for name, each in _BUILT_IN.items() if each.library is not None}


def resolve(spec: str) -> Subject:
    """Return the subject that a command line names.

    The same spec gives an equal subject in every process.

    Args:
        spec: the name of a built-in subject, `path/to/file.py:Name` or `package.module:Name`; a
            forward pass may be named together with its backward pass, as `forward,backward`.

    Returns:
        The subject, with `spec` for its name.

    Raises:
        InputError: there is no such subject, it cannot be imported, or it is nothing that can be
            judged; the message says which.

    Example:
        >>> resolve("keras").name
        'keras'
    """
    if spec in _BUILT_IN:
        missing = _BUILT_IN[spec].missing()
        if missing:
            raise InputError(
                f"conform: `subject` must be installed. Received: subject={spec!r}, which needs "
                f"{' and '.join(missing)}. Install the peers: {_INSTALL_PEERS}."
            )
        return _BUILT_IN[spec].make()
    where, colon, names = spec.rpartition(":")
    if colon or spec.endswith(".py"):
        if _needs_tensorflow(where):
            # Before the user's file imports it, and prints a dozen lines.
            import_tensorflow_quietly()
        first, comma, second = names.partition(",")
        found = find(f"{where}{colon}{first}", caller="conform", argument="subject")
        backward = (
            find(f"{where}:{second}", caller="conform", argument="subject") if comma else None
        )
        return _as_subject(found, spec, source=where, backward=backward)
    missing = [name for name in all_names() if name not in names_here()]
    hint = f" Those that need the peers, {_INSTALL_PEERS}: {', '.join(missing)}." if missing else ""
    raise InputError(
        f"conform: `subject` must be one of {', '.join(names_here())}, or a layer or function "
        "of your own as path/to/file.py:Name or package.module:Name. "
        f"Received: subject={spec!r}. Choose one of these.{hint}"
    )


def as_subject(thing: Any, name: str | None = None) -> Subject:
    """Return an object of Python as a subject.

    Args:
        thing: a layer or module of Keras, PyTorch, flax, Haiku, Sonnet or Equinox, or a class that
            normalizes when it is called, or an instance of one (copies of it are judged, without
            its weights); a function, by whatever names and in whatever order it takes x, gamma,
            beta, statistics, epsilon, momentum and its mode, perhaps with its backward pass beside
            it; a `Subject` is returned as it is.
        name: what tables call it; by default its own name.

    Returns:
        The subject.

    Raises:
        InputError: `thing` is none of these, or it needs what cannot be told from its names; the
            message shows a function to wrap it in.

    Example:
        >>> import keras
        >>> as_subject(keras.layers.BatchNormalization).name
        'BatchNormalization'
    """
    if isinstance(thing, Subject):
        return thing
    own = getattr(thing, "__name__", None) or type(thing).__name__
    return _as_subject(thing, own if name is None else name, source=None)


def shared_by(replicas: int, make: Callable[[], Subject]) -> Subject:
    """Return a subject whose batches are shared by replicas.

    Args:
        replicas: how many; with 1 it is the subject itself, and nothing is imported for it.
        make: returns the subject. It is called when there is a device for each replica, for what
            a user's module computes as it is imported is too late for that.

    Raises:
        InputError: what `make` raises; or it is no Keras layer, or there are too few devices.
    """
    if replicas == 1:
        return make()
    import_tensorflow_quietly()
    from batchnorm_mechanics.conformance.subjects.replicated import replicated
    from batchnorm_mechanics.distribute.local import make_logical_processors

    make_logical_processors(replicas)
    return replicated(make(), replicas)


def wrap(spec: str) -> str:
    """Return a file with a function to be completed, around what a command line names.

    Args:
        spec: `path/to/file.py:Name` or `package.module:Name`.

    Raises:
        InputError: there is no such thing.

    Example:
        >>> wrap("fractions:Fraction").splitlines()[0]
        'from fractions import Fraction'
    """
    import_tensorflow_quietly()
    from batchnorm_mechanics.conformance.subjects.recognize import wrapped

    where, _, name = spec.rpartition(":")
    thing = find(spec, caller="conform", argument="wrap")
    return wrapped(thing, name, Path(where).stem if where.endswith(".py") else where)


def names_pair(names: str) -> bool:
    """Return whether what stands after a spec's colon names one thing, or two.

    Example:
        >>> names_pair("forward,backward"), names_pair("a,b,c"), names_pair("not a name")
        (True, False, False)
    """
    parts = names.split(",")
    return len(parts) <= 2 and all(part.isidentifier() for part in parts)


def _needs_tensorflow(where: str) -> bool:
    """Return whether what a user names may import TensorFlow, which takes seconds: a file says."""
    try:
        text = Path(where).read_text(encoding="utf-8", errors="replace")
    except OSError:
        # A module; or no file, which is said later on.
        return not where.endswith(".py")
    return any(name in text for name in ("tensorflow", "keras", "sonnet"))


def _as_subject(
    thing: Any, name: str, source: str | None, backward: Callable[..., Any] | None = None
) -> Subject:
    from batchnorm_mechanics.conformance.subjects.recognize import recognize

    return recognize(thing, name, source=source, backward=backward)
