"""What must hold before a model is trained in a compiled loop, said before it begins."""

from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics.training.rows import RowBatches


def check_model(model: Any, *, caller: str) -> None:
    """Refuse what cannot be trained.

    Raises:
        TypeError: it is no Keras model.
        ValueError: it is not compiled, runs eagerly, or is spread over several replicas.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{caller}: `model` must be a Keras model. Received: model={model!r}. "
            "Wrap layers in keras.Sequential or keras.Model."
        )
    if not model.compiled:
        raise ValueError(
            f"{caller}: `model` must be compiled. Received: model={model!r}. "
            "Call model.compile with an optimizer and a loss first."
        )
    if model.run_eagerly:
        raise ValueError(
            f"{caller}: `model` must not run eagerly. Received: model={model!r} with "
            "run_eagerly=True. Compile it without run_eagerly, or use model.fit."
        )
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise ValueError(
            f"{caller}: `model` must be on one device. Received: model={model!r} with {replicas} "
            "replicas. Use model.fit, or build the model outside the strategy's scope."
        )


def check_count(value: Any, name: str, *, caller: str) -> None:
    """Refuse what is not a whole number of 1 or more.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{caller}: `{name}` must be an integer of 1 or more. Received: {name}={value!r}. "
            "Leave it out for the default."
        )


def check_dataset(
    dataset: Any, name: str, *, model: keras.Model, endless: bool, caller: str
) -> None:
    """Refuse data that has no batches, or that the model is not made for.

    Args:
        dataset: what came.
        name: the argument's name.
        model: whose inputs the batches must fit.
        endless: whether a dataset without end is fine.
        caller: the function to name.

    Raises:
        TypeError: it is neither a dataset of dense tensors nor `RowBatches`.
        ValueError: it is not batched, its ranks are unknown, or its inputs have another shape than
            the model's.
    """
    if isinstance(dataset, RowBatches):
        dataset = dataset.as_dataset()
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            f"{caller}: `{name}` must be a tf.data.Dataset of batches or RowBatches. Received: "
            f"{name}={dataset!r}. Make one, as by "
            "tf.data.Dataset.from_tensor_slices((x, y)).batch(32)."
        )
    spec = dataset.element_spec
    received = f"Received: {name}={dataset!r}"
    for part in tf.nest.flatten(spec):
        if part is None or isinstance(part, tf.NoneTensorSpec):
            continue
        if not isinstance(part, tf.TensorSpec):
            raise TypeError(
                f"{caller}: `{name}` must hold dense tensors. {received}. "
                "Make them dense in the dataset's map."
            )
        if part.shape.rank is None:
            raise ValueError(
                f"{caller}: `{name}` must have tensors of known rank. {received}. "
                "Give them their shapes by tf.ensure_shape in the dataset's map."
            )
        if part.shape.rank == 0:
            raise ValueError(f"{caller}: `{name}` must be batched. {received}. Add .batch(32).")
    if not endless and int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"{caller}: `{name}` must end where the steps of an epoch are not given. {received}. "
            "Take a part of it by .take"
            + (", or pass steps_per_epoch." if name == "dataset" else ".")
        )
    _check_inputs(spec, name, model=model, received=received, caller=caller)


def _check_inputs(spec: Any, name: str, *, model: keras.Model, received: str, caller: str) -> None:
    """Compare the shapes with the model's own inputs, where it has any."""
    inputs = spec[0] if isinstance(spec, tuple) else spec
    # A subclassed model says nothing of its inputs, and Keras matches a dict by its names.
    if not model.built or not getattr(model, "inputs", None) or isinstance(inputs, dict):
        return
    found = [part.shape for part in tf.nest.flatten(inputs)]
    wanted = [tf.TensorShape(tensor.shape) for tensor in model.inputs]
    if len(found) == len(wanted) and all(
        a.is_compatible_with(b) for a, b in zip(found, wanted, strict=True)
    ):
        return
    if all(a.rank + 1 == b.rank for a, b in zip(found, wanted, strict=False)):
        raise ValueError(f"{caller}: `{name}` must be batched. {received}. Add .batch(32).")
    shapes = ", ".join(str(shape) for shape in wanted)
    raise ValueError(
        f"{caller}: `{name}` must have the shapes that the model was built for, {shapes}. "
        f"{received}. Reshape the data, or build the model for it."
    )


def check_not_empty(batches: int, name: str, *, caller: str) -> None:
    """Refuse a dataset that gave no batch.

    Raises:
        ValueError: naming the argument.
    """
    if not batches:
        raise ValueError(
            f"{caller}: `{name}` must have at least one batch. Received: {name} without any. "
            "Fewer rows than a batch, with drop_remainder=True, give none."
        )
