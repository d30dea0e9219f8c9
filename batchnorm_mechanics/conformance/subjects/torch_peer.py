"""PyTorch's `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d`; torch is imported on opening."""

# A peer need not be installed.
# pyright: reportMissingImports=false

import importlib.metadata
import io
from typing import Any, Self

import ml_dtypes
import numpy as np

from batchnorm_mechanics.conformance.subject import (
    SECOND,
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

_CLASSES = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}


class TorchBatchNorm(Subject):
    """The module of the input's rank, on the CPU.

    Weights and statistics are float32 beside half-precision inputs, as under `torch.autocast`.
    """

    keeps = SECOND

    def __init__(self) -> None:
        version = importlib.metadata.version("torch")
        self.name = "torch"
        self.description = f"torch.nn.BatchNorm1d, 2d and 3d of PyTorch {version}"
        self.abilities = frozenset(Ability) - {Ability.MASK}
        self.declared_momentum = "new"

    def refusal(self, setting: Setting) -> str | None:
        """Refuse all but ranks 2 to 5 too; see `Subject.refusal`."""
        if len(setting.shape) not in _CLASSES:
            return "it takes rank 2 to 5"
        return super().refusal(setting)

    def open(self, setting: Setting) -> "TorchSession":
        """Return a new module with the setting's values copied in."""
        import torch

        module = _module(setting)
        values = given(
            weight=setting.gamma,
            bias=setting.beta,
            running_mean=setting.moving_mean,
            running_var=setting.moving_variance,
        )
        with torch.no_grad():
            for name, value in values.items():
                getattr(module, name).copy_(torch.from_numpy(np.array(value)))
        return TorchSession(module, setting)


class TorchSession(Session):
    """A module set up for one setting."""

    def __init__(self, module: Any, setting: Setting) -> None:
        self._module = module
        self._setting = setting
        self._own_mode: bool = module.training

    def output(self, x: Array, mask: Mask = None, *, training: bool | None) -> Array:
        """Call the module in a mode; told none, in the one in which it is constructed."""
        mode = self._own_mode if training is None else training
        return _array(self._module.train(mode)(_tensor(x)))

    def gradients(self, x: Array, dy: Array, mask: Mask = None) -> Slopes:
        """Return autograd's gradients."""
        import torch

        inputs = _tensor(x).requires_grad_()
        y = self._module.train()(inputs)
        sources = [inputs, self._module.weight, self._module.bias]
        return Slopes(*map(_array, torch.autograd.grad(y, sources, _tensor(dy).to(y.dtype))))

    def statistics(self) -> Statistics:
        """Return the module's running statistics."""
        return Statistics(_array(self._module.running_mean), _array(self._module.running_var))

    def reload(self) -> Self:
        """Save the state_dict, and load it into a new module with the same arguments."""
        import torch

        file = io.BytesIO()
        torch.save(self._module.state_dict(), file)
        file.seek(0)
        module = _module(self._setting)
        module.load_state_dict(torch.load(file, weights_only=True))
        return type(self)(module, self._setting)


def _module(setting: Setting) -> Any:
    import torch

    options = given(eps=setting.epsilon, momentum=setting.momentum)
    options["dtype"] = getattr(torch, wide(setting.dtype))
    return getattr(torch.nn, _CLASSES[len(setting.shape)])(setting.shape[1], **options)


def _tensor(array: np.ndarray) -> Any:
    """Return a copy as a tensor; neither library knows the other's bfloat16, so bits are passed."""
    import torch

    array = np.array(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().clone()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
