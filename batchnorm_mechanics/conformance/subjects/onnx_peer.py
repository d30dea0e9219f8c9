"""ONNX Runtime's `BatchNormalization`; onnx and onnxruntime are imported on opening."""

# A peer need not be installed.
# pyright: reportMissingImports=false

import importlib.metadata
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from batchnorm_mechanics.conformance.subject import (
    SECOND,
    Ability,
    Array,
    Mask,
    Session,
    Setting,
    Statistics,
    Subject,
    given,
    wide,
)

# Since this version the node has its present form; later ones take more types.
_OPSET = 15
# What a model file says of itself; newer numbers than a runtime knows, it refuses.
_IR_VERSION = 8
_STATISTICS = ("mean", "var")
_INPUTS = ("scale", "bias", *_STATISTICS)


class OnnxRuntime(Subject):
    """A model of one `BatchNormalization` node, on the CPU.

    Parameters and statistics lie in the model, in float32 beside half-precision inputs. In training
    mode the node gives new statistics out, and they go into a new model.
    """

    keeps = SECOND

    def __init__(self) -> None:
        version = importlib.metadata.version("onnxruntime")
        self.name = "onnxruntime"
        self.description = f"BatchNormalization-{_OPSET} in ONNX Runtime {version}"
        self.declared_momentum = "old"
        self.needs = frozenset({"statistics"})

    @cached_property
    def abilities(self) -> frozenset[Ability]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Inference, and training where this build of ONNX Runtime has it."""
        abilities = {Ability.INFER, Ability.CALL, Ability.STATISTICS, Ability.RELOAD}
        try:
            self.open(Setting((2, 3))).train(np.ones((2, 3), np.float32))
        except Exception as error:
            # Its exceptions have no class of their own; builds without training name it.
            if "training" not in str(error).lower():
                raise
        else:
            abilities.add(Ability.TRAIN)
        return frozenset(abilities)

    def refusal(self, setting: Setting) -> str | None:
        """Refuse bfloat16, and some float64, too; see `Subject.refusal`."""
        if setting.dtype == "bfloat16":
            return "it has no bfloat16 kernel"
        if setting.dtype == "float64" and not all(map(_is_float32, _options(setting).values())):
            return "its epsilon and momentum are float32, so that these would be others"
        return super().refusal(setting)

    def open(self, setting: Setting) -> "OnnxSession":
        """Return a session with a model that holds the setting's values."""
        values = zip(_INPUTS, setting.keeping(1).parameters, strict=True)
        dtype = wide(setting.dtype)
        return OnnxSession(setting, {name: np.asarray(value, dtype) for name, value in values})


class OnnxSession(Session):
    """What the node is given besides x, and a runtime for each mode."""

    def __init__(self, setting: Setting, values: dict[str, np.ndarray]) -> None:
        self._setting = setting
        self._values = values
        self._runtimes: dict[bool | None, Any] = {}

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Run the node with its `training_mode`, and keep the statistics that it gives out."""
        if training not in self._runtimes:
            self._runtimes[training] = _runtime(self._model(training=training))
        y, *statistics = self._runtimes[training].run(None, {"x": x})
        if statistics:
            self._values.update(zip(_STATISTICS, statistics, strict=True))
            # They hold the old statistics.
            self._runtimes.clear()
        return y

    def _model(self, *, training: bool | None) -> Any:
        """Return a model that holds the values as they are now."""
        from onnx import checker, helper, numpy_helper

        setting = self._setting
        shape = [None, setting.shape[1], *(None for _ in setting.shape[2:])]
        mode = None if training is None else int(training)
        statistics = [f"new_{name}" for name in _STATISTICS] if training else []

        def tensor(name: str, dtype: str, sizes: list[int | None]) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, kind, sizes)

        def statistic(name: str) -> Any:
            return tensor(name, wide(setting.dtype), [setting.shape[1]])

        node = helper.make_node(
            "BatchNormalization",
            ["x", *self._values],
            ["y", *statistics],
            **_options(setting),
            **given(training_mode=mode),
        )
        graph = helper.make_graph(
            [node],
            "batch_normalization",
            [tensor("x", setting.dtype, shape)],
            [tensor("y", setting.dtype, shape), *map(statistic, statistics)],
            [numpy_helper.from_array(value, name) for name, value in self._values.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        checker.check_model(model)
        return model

    def statistics(self) -> Statistics:
        """Return the statistics that the next model gets."""
        return Statistics(*(self._values[name].copy() for name in _STATISTICS))

    def reload(self) -> Self:
        """Write the model for inference to a file, and read parameters and statistics from it."""
        import onnx
        from onnx import numpy_helper

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(self._model(training=False), path)
            loaded = onnx.load(path)
        # A copy: what the library hands out may lie in the loaded file, and read-only.
        values = {
            each.name: numpy_helper.to_array(each).copy() for each in loaded.graph.initializer
        }
        session = type(self)(self._setting, values)
        # The file's own model goes on, with its epsilon, not a new one of the same settings.
        session._runtimes[False] = _runtime(loaded)
        return session


def _options(setting: Setting) -> dict[str, float]:
    return given(epsilon=setting.epsilon, momentum=setting.momentum)


def _is_float32(value: float) -> bool:
    return float(np.float32(value)) == value


def _runtime(model: Any) -> Any:
    from onnxruntime import InferenceSession

    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
