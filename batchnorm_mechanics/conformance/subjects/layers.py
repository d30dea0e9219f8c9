"""The built-in layers: ours, run in each way, and Keras's."""

import keras

from batchnorm_mechanics.conformance.subject import Ability, Setting
from batchnorm_mechanics.conformance.subjects.keras_layer import KerasLayer
from batchnorm_mechanics.layers import BatchNormalization


def our_layer() -> KerasLayer:
    """Return our layer, called eagerly."""
    return KerasLayer("bnm.layer", BatchNormalization, description="our layer, eager")


def our_layer_in_a_graph() -> KerasLayer:
    """Return our layer in a `tf.function`."""
    return KerasLayer(
        "bnm.layer-graph", BatchNormalization, "graph", description="our layer in a tf.function"
    )


def our_layer_compiled() -> KerasLayer:
    """Return our layer compiled by XLA."""
    return KerasLayer(
        "bnm.layer-compiled",
        BatchNormalization,
        "compiled",
        description="our layer in a tf.function compiled by XLA",
    )


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
        if setting.kept not in (None, (len(setting.shape) - 1,)):
            return "the fused kernel keeps the last axis"
        return super().refusal(setting)


def our_layer_fused() -> KerasLayer:
    """Return our layer with the fused kernel for inputs of any size."""
    return _FusedSubject("bnm.layer-fused", _Fused, description="our layer, fused kernel")


def our_layer_differentiated() -> KerasLayer:
    """Return our layer with autodiff's gradient."""
    return KerasLayer(
        "bnm.layer-autodiff", _Differentiated, description="our layer, autodiff's gradient"
    )


def keras_layer() -> KerasLayer:
    """Return Keras's layer, called eagerly."""
    return KerasLayer(
        "keras",
        keras.layers.BatchNormalization,
        description=f"keras.layers.BatchNormalization of Keras {keras.__version__}",
    )
