"""`BatchNormalization`, which can stand in for Keras's layer and takes a statistics policy."""

from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics import core
from batchnorm_mechanics._keras import own_variables
from batchnorm_mechanics._tensorflow import is_recomputing
from batchnorm_mechanics.core.axes import normalize_axes
from batchnorm_mechanics.core.transform import check_epsilon
from batchnorm_mechanics.distribute.replicas import normalize_batch
from batchnorm_mechanics.statistics import ExponentialMovingAverage, Policy, Statistics

PACKAGE = "batchnorm_mechanics"
# Those of this package; a user's are for the user to register, under a name of their own.
for _policy in Policy.__subclasses__():
    if _policy.__module__.startswith(f"{PACKAGE}."):
        keras.saving.register_keras_serializable(PACKAGE)(_policy)

_DEFAULT_MOMENTUM = 0.99

# The settings that Keras serializes, each with the module that does it.
_SERIALIZED = {
    "beta_initializer": keras.initializers,
    "gamma_initializer": keras.initializers,
    "moving_mean_initializer": keras.initializers,
    "moving_variance_initializer": keras.initializers,
    "beta_regularizer": keras.regularizers,
    "gamma_regularizer": keras.regularizers,
    "beta_constraint": keras.constraints,
    "gamma_constraint": keras.constraints,
}

# Settings of Keras's layer that ours does not have.
_ONLY_KERAS = {"renorm", "renorm_clipping", "renorm_momentum"}


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.Layer):
    """Normalize each channel by batch statistics in training and running ones in inference.

    Implements: Alg. 1 in training, Alg. 2, l. 11 in inference.

    It can stand in for `keras.layers.BatchNormalization`: the arguments below that Keras has mean
    what they mean there, with the same defaults, and the weights (gamma, beta, moving mean, moving
    variance) come in the same order, so that `set_weights` and saved weights go from one to the
    other. What it adds is `statistics`, the policy by which batches become running statistics;
    what it leaves out is `renorm`, which is the policy `Renormalization`.

    Under a strategy of tf.distribute the running statistics are those of the whole batch, however
    it was divided, and the same on all replicas; Keras's layer keeps each replica's own and saves
    the first's. `synchronized` decides by which of the two a batch is normalized.

    Args:
        axis: integer, the axis that is *kept*, usually the features.
        momentum: weight of the old value in the default policy,
            `ExponentialMovingAverage(decay=momentum)`; in [0, 1]. PyTorch's is its complement.
        epsilon: positive number added to the variance inside the square root.
        center: whether to add beta.
        scale: whether to multiply by gamma.
        beta_initializer, gamma_initializer: initializers of the two parameters.
        moving_mean_initializer, moving_variance_initializer: what the running statistics are
            before the first update, and again after `reset_statistics`.
        beta_regularizer, gamma_regularizer: optional regularizers.
        beta_constraint, gamma_constraint: optional constraints.
        statistics: a `Policy`; by default the moving average above, whose variance is the biased
            one, as in Keras. A policy whose state is more than mean and variance keeps the rest in
            further weights after the four.
        synchronized: whether a strategy's replicas normalize by the statistics of the whole batch,
            as one that had it all would; by default each by those of its part.
        **kwargs: those of every Keras layer, such as `name`, `dtype` and `trainable`; and
            `renorm`, which must be False.

    Call arguments:
        inputs: tensor of rank 2 or more; integers are taken as float32.
        training: True normalizes by the batch and updates the running statistics; False, the
            default, normalizes by the running statistics. A frozen layer (`trainable=False`) always
            does the latter.
        mask: boolean tensor over the leading axes of `inputs`, True where a sample counts in the
            statistics. A channel for which no sample counts keeps its running statistics.

    Raises:
        ValueError: an argument is out of range, the axis is not one of the input's, or a training
            batch is empty; or a synchronized layer runs in a loop or a condition within a replica.

    Numerics:
        Statistics are float32 at least, also under `float16` and mixed precision. The output's
        error does not grow with the mean of the input; see `batchnorm_mechanics.forward`.

    Example:
        >>> layer = BatchNormalization(epsilon=0.001)
        >>> x = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> layer(x, training=True).numpy()[0].round(4).tolist()
        [-0.9998000264167786, -0.9998000264167786, -0.9998000264167786]
        >>> layer.moving_mean.numpy().round(4).tolist()
        [0.02500000037252903, 0.03500000014901161, 0.04500000178813934]
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of the layer that it stands in for
        self,
        axis: int = -1,
        momentum: float = _DEFAULT_MOMENTUM,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        statistics: Policy | None = None,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        """Check and keep the settings; see the class."""
        if kwargs.get("renorm"):
            raise ValueError(
                "BatchNormalization: `renorm` must be False. Received: renorm="
                f"{kwargs['renorm']!r}. Pass statistics=Renormalization(), or use from_keras."
            )
        super().__init__(
            **{name: value for name, value in kwargs.items() if name not in _ONLY_KERAS}
        )
        if isinstance(axis, bool) or not hasattr(axis, "__index__"):
            raise TypeError(
                f"BatchNormalization: `axis` must be an integer. Received: axis={axis!r}. "
                "Name the one axis to keep; all others are reduced over."
            )
        if not (isinstance(momentum, Real) and 0 <= momentum <= 1):
            raise ValueError(
                f"BatchNormalization: `momentum` must lie in [0, 1]. Received: "
                f"momentum={momentum!r}. It is the weight of the old value, 1 minus PyTorch's."
            )
        if statistics is not None and not isinstance(statistics, Policy):
            raise TypeError(
                "BatchNormalization: `statistics` must be a statistics policy. Received: "
                f"statistics={statistics!r}. Pass for instance AverageOfBatches()."
            )
        if statistics is not None and momentum != _DEFAULT_MOMENTUM:
            raise ValueError(
                "BatchNormalization: `momentum` must be left out where `statistics` is given. "
                f"Received: momentum={momentum!r}, statistics={statistics!r}. "
                "Give the policy its own decay."
            )
        self.axis = int(axis)
        self.momentum = float(momentum)
        self.epsilon = check_epsilon(epsilon, caller="BatchNormalization")
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.statistics = statistics
        self.synchronized = bool(synchronized)
        self.supports_masking = True
        self.gamma = self.beta = self.moving_mean = self.moving_variance = None

    # Chosen by `core.choose_kernel`; tests and benchmarks force one.
    _kernel: core.Kernel | None = None

    @property
    def policy(self) -> Policy:
        """The statistics policy in force: `statistics`, or the moving average of `momentum`."""
        if self.statistics is not None:
            return self.statistics.of_layer(self.epsilon)
        return ExponentialMovingAverage(decay=self.momentum)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create gamma, beta, the running statistics and the rest of the policy's state."""
        rank = len(input_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"BatchNormalization: `axis` must lie in [{-rank}, {rank}) for an input of rank "
                f"{rank}. Received: axis={self.axis}, input_shape={tuple(input_shape)}. "
                "Name the axis to keep, usually -1, or 1 for channels first."
            )
        channels = input_shape[self.axis]
        if channels is None:
            raise ValueError(
                "BatchNormalization: `axis` must name an axis of known size. Received: "
                f"axis={self.axis}, input_shape={tuple(input_shape)}. "
                "Give the model's input that size; each channel has its own weights."
            )
        self._axes = normalize_axes(
            [axis for axis in range(rank) if axis != self.axis % rank],
            rank,
            caller="BatchNormalization",
        )
        self.input_spec = keras.layers.InputSpec(ndim=rank, axes={self.axis % rank: channels})
        if self.scale:
            self.gamma = self.add_weight(
                shape=(channels,),
                name="gamma",
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
                autocast=False,
            )
        if self.center:
            self.beta = self.add_weight(
                shape=(channels,),
                name="beta",
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
                autocast=False,
            )
        # Each field of the policy's state is a weight: the mean and the variance are Keras's two
        # moving statistics, and what else a policy needs comes after them.
        start = self._start_of_statistics(channels)
        self._state_type = type(start)
        self._state_weights = [
            self.add_weight(
                shape=value.shape,
                dtype=value.dtype.name,
                name={"mean": "moving_mean", "variance": "moving_variance"}.get(field, field),
                initializer=lambda shape, dtype, value=value: value,
                trainable=False,
                autocast=False,
            )
            for field, value in start._asdict().items()
        ]
        self.moving_mean, self.moving_variance = self._state_weights[:2]

    def _start_of_statistics(self, channels: int) -> Any:
        """Return the policy's state before any batch, begun by the layer's own initializers."""
        # float16 cannot hold a moving average: at decay 0.99 its changes are below its resolution.
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        with tf.init_scope():
            return self.policy.begun_at(
                self.policy.init((channels,), tf.as_dtype(dtype)),
                self.moving_mean_initializer((channels,), dtype=dtype),
                self.moving_variance_initializer((channels,), dtype=dtype),
            )

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalize `inputs`; see the class."""
        inputs = as_floating_inputs(inputs, self.compute_dtype)
        if not (training and self.trainable):
            outputs = core.normalize_with(
                inputs,
                self.moving_mean,
                self.moving_variance,
                self.gamma,
                self.beta,
                axes=self._axes,
                epsilon=self.epsilon,
            )
        else:
            again = is_recomputing()
            outputs, batch = normalize_batch(
                inputs,
                self.gamma,
                self.beta,
                axes=self._axes,
                epsilon=self.epsilon,
                mask=mask,
                kernel=self._kernel,
                synchronized=self.synchronized,
                moments_are_wanted=not again,
                correction=self.correction if self.policy.renormalizes else None,
            )
            if not again:
                self._update_statistics(batch)
        return tf.cast(outputs, self.compute_dtype)

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what `keras.RematScope` makes of the layer's `call`.

        Keras hands `training` on as a keyword, which TensorFlow's `recompute_grad` refuses in a
        graph, so that a compiled model with it fails to train: it is bound here before.
        """
        del args, kwargs

        def call(inputs: Any, *rest: Any, **options: Any) -> Any:
            def bound(inputs: Any) -> Any:
                return layer_call(inputs, *rest, **options)

            return super(BatchNormalization, self).rematerialized_call(bound, inputs)(inputs)

        return call

    def _state(self) -> Any:
        return self._state_type(*(tf.convert_to_tensor(weight) for weight in self._state_weights))

    def correction(self, mean: tf.Tensor, variance: tf.Tensor) -> tuple[Any, Any]:
        """Return the r and d of `Policy.correction` for a batch, by what was seen before it."""
        return self.policy.correction(self._state(), mean, variance)

    def _update_statistics(self, batch: core.Moments) -> None:
        self._assign_statistics(self.policy.update(self._state(), *batch))

    def _assign_statistics(self, state: Any) -> None:
        for weight, value in zip(self._state_weights, state, strict=True):
            weight.assign(value)

    def reset_statistics(self) -> None:
        """Put the running statistics back to what they were before the first update.

        `ResetStatistics` does this at the start of each epoch, as Algorithm 2 needs: otherwise the
        statistics of old weights stay in the average.

        Raises:
            ValueError: the layer has no weights yet.
        """
        if not self.built:
            raise ValueError(
                "BatchNormalization.reset_statistics: the layer must have weights. Received: "
                f"built={self.built}. Call the layer or its model on data first."
            )
        self._assign_statistics(self._start_of_statistics(self._state_weights[0].shape[0]))

    def load_own_variables(self, store: Any) -> None:
        """Load saved weights: this layer's, or the four of a Keras layer.

        A file of Keras's layer has nothing of what a policy counts besides mean and variance. Those
        two are taken, and the counts start anew.
        """
        weights = own_variables(self)
        extra = self._state_weights[2:] if self.built else []
        given = len(store.keys())
        if len(weights) - len(extra) <= given < len(weights):
            self.reset_statistics()
            for key, weight in enumerate(weights[:given]):
                weight.assign(store[str(key)])
            if given == len(weights) - len(extra) and self.policy.renormalizes:
                self.take_statistics(self._state()[:2])
        else:
            super().load_own_variables(store)

    def take_statistics(self, statistics: tuple[Any, Any]) -> None:
        """Infer by a mean and a variance, tensors of the statistics' shape; training goes on."""
        self._assign_statistics(self.policy.settled(Statistics(*statistics), count=1))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input, which is the shape of the output."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the settings, as Keras serialization wants them."""
        config = {
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "statistics": keras.saving.serialize_keras_object(self.statistics),
            "synchronized": self.synchronized,
        }
        for kind, module in _SERIALIZED.items():
            config[kind] = module.serialize(getattr(self, kind))
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BatchNormalization":
        """Return a layer with these settings, ours or those of Keras's layer.

        Args:
            config: from `get_config` of either layer.

        Raises:
            ValueError: the settings ask for `renorm`, which is not in ours.
        """
        if isinstance(config.get("statistics"), dict):
            statistics = keras.saving.deserialize_keras_object(config["statistics"])
            config = {**config, "statistics": statistics}
        return cls(**config)


def as_floating_inputs(inputs: Any, compute_dtype: str) -> tf.Tensor:
    """Return what a batch norm layer computes with, as Keras's layer has it.

    Args:
        inputs: of a call. Keras casts floating ones before, but for a layer without `autocast` or
            a call past `__call__`.
        compute_dtype: the layer's.

    Returns:
        Integers and booleans as float32; floating ones in the wider of both types, for in the
        narrower one they would lose digits on the way to the output.
    """
    inputs = tf.convert_to_tensor(inputs)
    if not inputs.dtype.is_floating:
        return tf.cast(inputs, tf.float32)
    return tf.cast(inputs, keras.backend.result_type(inputs.dtype.name, compute_dtype))
