"""What the configuration in a model's file may ask for, decided before Keras reads it.

A configuration names classes and functions, and Keras calls what it names with arguments from the
file. Its own safe mode refuses some names; here everything is refused but what is admitted: Keras's
layers and what they are made of, operations on tensors, and elementwise functions. `admitted.json`
has their names; a test holds each name that Keras exports against it.
"""

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ADMITTED = Path(__file__).with_name("admitted.json")
# Values, and tensors of the graph.
_VALUES = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)
_CODE = "__lambda__"
# Before Keras 3 a class had no module: its name was looked up among those of its kind.
_WITHOUT_MODULE = (
    "keras",
    "keras.layers",
    "keras.src.models.functional",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.optimizers.schedules",
)
_OLD_NAMES = frozenset({"Policy"})
_BUILTINS = ("keras.activations", "keras.losses", "keras.metrics")
# An argument that may be a list of words, or the path of a file with them.
_WORDS = frozenset({"vocabulary", "idf_weights"})
_DEEPEST = 100
# Of classes and functions: ResNet-152 has some 4,000, and each takes a millisecond or more to make.
_MOST = 50_000
_LONGEST = 200
_LARGEST = 2**64

# Keys and numbers, from the outermost on: as text they would be written anew for each part.
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Refused(Exception):  # noqa: N818 - it is caught, and becomes an error of its own
    """Why a configuration is refused.

    Attributes:
        place: where in it, such as `config.layers[2].config.activation`, shortened.
        what: stands there, and what would be expected.
        unknown: its name, where a user's own code may have it; None where no code can help.
        is_code: whether it is Python code.
    """

    place: str
    what: str
    unknown: str | None = None
    is_code: bool = False


@functools.cache
def admitted() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Return the names of the classes and functions that are admitted, by kind and module."""
    found = json.loads(_ADMITTED.read_text(encoding="utf-8"))
    return {
        kind: {module: frozenset(names) for module, names in modules.items()}
        for kind, modules in found.items()
    }


def check_config(config: Any, *, custom: Collection[str] = ()) -> None:
    """Refuse a configuration that asks for anything that is not admitted.

    Args:
        config: of a model, a layer or anything else, as JSON gives it.
        custom: names of classes and functions, registered ones as Package>Name, that are at hand.

    Raises:
        Refused: with the first such place.

    Example:
        >>> dense = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 2}}
        >>> check_config(dense)
        >>> try:
        ...     check_config({"layers": [dense, {**dense, "class_name": "TFSMLayer"}]})
        ... except Refused as refused:
        ...     print(refused.place, refused.what)
        layers[1] the class 'keras.layers.TFSMLayer'
    """
    _Reader(frozenset(custom)).value(config, ())


def _refused(place: Place, what: str, **more: Any) -> Refused:
    text = "".join(map(_step, place)).removeprefix(".")
    # The keys of a file can be of any length.
    return Refused(text if len(text) <= _LONGEST else f"...{text[-_LONGEST:]}", what, **more)


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"[{_shown(key)}]"


@dataclass
class _Reader:
    custom: frozenset[str]
    things: int = 0

    def value(self, value: Any, place: Place) -> None:
        """Look at a value and all that is in it."""
        if len(place) > _DEEPEST:
            raise _refused(place, f"a value nested more than {_DEEPEST} deep")
        if isinstance(value, dict):
            if "class_name" in value:
                self.thing(value, place)
            for key, part in value.items():
                if key in _WORDS and not isinstance(part, list | None):
                    raise _refused((*place, key), f"{_shown(part)}; a list is due, and no file")
                self.value(part, (*place, key))
        elif isinstance(value, list):
            for number, part in enumerate(value):
                self.value(part, (*place, number))
        elif isinstance(value, int) and abs(value) >= _LARGEST:
            raise _refused(place, "an integer of more than 64 bits")

    def thing(self, value: Mapping[str, Any], place: Place) -> None:
        """Look at what is to be made of a class, or is a function."""
        self.things += 1
        if self.things > _MOST:
            raise _refused(place, f"the first of more than {_MOST:,} classes and functions")
        name, module = value["class_name"], value.get("module")
        if not isinstance(name, str) or not isinstance(module, str | None):
            raise _refused(place, f"{_shown(name)} of {_shown(module)}; two names are due")
        registered = value.get("registered_name")
        if not isinstance(registered, str | None):
            raise _refused((*place, "registered_name"), f"{_shown(registered)}; a name is due")
        if name in _VALUES:
            return
        if name == _CODE:
            raise _refused(place, "Python code", is_code=True)
        if name == "function":
            self.function(value, module, place)
            return
        if {name, registered} & self.custom:
            return
        if not _is_admitted("classes", module, name):
            raise _refusal("class", module, name, place)
        if name == "Lambda":
            self.of_lambda(value.get("config"), place)
        self.calls(value.get("inbound_nodes", []), (*place, "inbound_nodes"))

    def function(self, value: Mapping[str, Any], module: str | None, place: Place) -> None:
        name = value.get("config")
        if not isinstance(name, str):
            raise _refused(place, f"the function {_shown(name)}; a name is due")
        if {name, value.get("registered_name")} & self.custom:
            return
        if not _is_admitted("functions", module, name):
            raise _refusal("function", module, name, place)

    def of_lambda(self, config: Any, place: Place) -> None:
        """See that what a Lambda calls is told by its name."""
        for key in ("function", "output_shape", "mask"):
            part = config.get(key) if isinstance(config, Mapping) else None
            # Keras 2 had the code itself: a list of text, default values and closure.
            if isinstance(part, list) and any(isinstance(one, str) for one in part):
                raise _refused((*place, "config", key), "Python code", is_code=True)

    def calls(self, nodes: Any, place: Place) -> None:
        """See that each call in a graph takes a tensor: other arguments would be worked on now."""
        for number, node in enumerate(nodes if isinstance(nodes, list) else [nodes]):
            # Before Keras 3: lists of [layer, node, tensor, keywords], which can be tensors alone.
            if not (node if isinstance(node, list) else _has_tensor(node)):
                raise _refused((*place, number), "a call without a tensor of the graph")


def _is_admitted(kind: str, module: str | None, name: str) -> bool:
    known = admitted()[kind]
    if module == "builtins" and kind == "functions":
        return any(name in known[one] for one in _BUILTINS)
    if module is None:
        return name in _OLD_NAMES or any(name in known.get(one, ()) for one in _WITHOUT_MODULE)
    return name in known.get(module, ())


def _refusal(kind: str, module: str | None, name: str, place: Place) -> Refused:
    if module is not None and module.partition(".")[0] == "keras":
        return _refused(place, f"the {kind} {_shown(f'{module}.{name}')}")
    # A registered name is Package>Name; only the last part can be imported.
    name = name.rpartition(">")[2]
    return _refused(place, f"the {kind} {_shown(name)}", unknown=name)


def _has_tensor(node: Any) -> bool:
    # No call for each part: how deep they are is looked at later.
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("class_name") == "__keras_tensor__":
                return True
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
