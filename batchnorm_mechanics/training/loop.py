"""A model's training and evaluation steps, compiled as loops over blocks of batches."""

from typing import Any

import keras
import tensorflow as tf

from batchnorm_mechanics.training.blocks import Block, even_length
from batchnorm_mechanics.training.rows import gather

# More returns to Python in an epoch than this are not worth a compilation saved.
_MOST_BLOCKS = 16

# Where a model keeps its loops. Set past Keras's tracking: they are no part of its state.
_ATTRIBUTE = "_batchnorm_mechanics_loops"


class CompiledLoop:
    """One of a model's steps, run over the batches of a block inside one compiled function."""

    def __init__(self, model: keras.Model, step_name: str, *, jit_compile: bool) -> None:
        """Compile nothing yet: that happens with the first block of each shape.

        Args:
            model: compiled by Keras.
            step_name: `train_step` or `test_step`.
            jit_compile: whether XLA compiles the loop.
        """
        self._model = model
        self._step = getattr(model, step_name)
        # Keras's own steps return the metrics' results, which can be read after the loop. Those of
        # a step that somebody wrote are known only to it, and must be carried through the loop.
        self._carries_logs = any(
            getattr(type(model), name) is not getattr(keras.Model, name)
            for name in (step_name, "compute_metrics")
        )
        self._jit_compile = jit_compile
        self._lengths: dict[Any, int] = {}
        self._log_shapes: dict[Any, Any] = {}
        self._run = tf.function(self._loop, autograph=False, jit_compile=jit_compile)
        # XLA takes a second for what a rest of an evaluation needs a millisecond for. Training is
        # compiled in whole, as in `fit`: its random numbers could be others without XLA.
        self._run_rest = (
            tf.function(self._loop, autograph=False) if step_name == "test_step" else self._run
        )

    @property
    def traces(self) -> int:
        """How often the loop was traced: once for each shape of block."""
        return self._run.experimental_get_tracing_count()

    def run(self, block: Block) -> dict[str, tf.Tensor]:
        """Run the step on the block's batches in turn and return the last one's logs.

        Raises:
            ValueError: XLA cannot compile the model.
        """
        if self._carries_logs:
            self._learn_log_shapes(block.batches, block.rows)
        try:
            # Tensors, not numbers, which would be compiled in.
            run = self._run_rest if block.is_rest else self._run
            return run(block.batches, block.rows, tf.constant(block.start), tf.constant(block.stop))
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if not self._jit_compile or not _is_of_compilation(error):
                raise
            raise ValueError(
                "fit_compiled: `jit_compile` must be False for a model that XLA cannot compile. "
                f"Received: jit_compile=True, and XLA says: {_first_line(error)} "
                "Pass jit_compile=False."
            ) from error

    def length(self, batch: Any, steps: int | None) -> int:
        """Return how many batches a block has; as before, if that serves, to compile nothing new.

        Args:
            batch: structure of specs or tensors of one batch.
            steps: batches of an epoch, or None if unknown.
        """
        key = _signature(batch)
        kept = self._lengths.get(key)
        if kept is None or (steps is not None and steps > _MOST_BLOCKS * kept):
            kept = self._lengths[key] = even_length(batch, steps)
        return kept

    def _loop(self, batches: Any, rows: Any, start: tf.Tensor, stop: tf.Tensor) -> Any:
        def body(index: tf.Tensor, _: Any) -> Any:
            batch = tf.nest.map_structure(
                lambda tensor: None if tensor is None else tensor[index], batches
            )
            logs = self._step(batch if rows is None else gather(rows, batch))
            return index + 1, logs if self._carries_logs else ()

        first = (
            tf.nest.map_structure(
                lambda spec: tf.zeros(spec.shape, spec.dtype),
                self._log_shapes[_signature((batches, rows))],
            )
            if self._carries_logs
            else ()
        )
        _, logs = tf.while_loop(
            lambda index, _: index < stop, body, (start, first), parallel_iterations=1
        )
        return logs if self._carries_logs else self._model.get_metrics_result()

    def _learn_log_shapes(self, batches: Any, rows: Any) -> None:
        """Trace the step alone once, since a loop must know the shapes of what it carries."""
        key = _signature((batches, rows))
        if key in self._log_shapes:
            return
        batch = tf.nest.map_structure(
            lambda tensor: (
                None if tensor is None else tf.TensorSpec(tensor.shape[1:], tensor.dtype)
            ),
            batches,
        )
        step = self._step if rows is None else lambda numbers: self._step(gather(rows, numbers))
        traced = tf.function(step, autograph=False).get_concrete_function(batch)
        self._log_shapes[key] = tf.nest.map_structure(
            lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), traced.structured_outputs
        )


class Loops:
    """The loops of one model as it is compiled now."""

    def __init__(self, model: keras.Model, *, jit_compile: bool) -> None:
        """Prepare both loops; see `CompiledLoop`."""
        self.compilation = _compilation(model)
        self.jit_compile = jit_compile
        self.train = CompiledLoop(model, "train_step", jit_compile=jit_compile)
        self.test = CompiledLoop(model, "test_step", jit_compile=jit_compile)


def loops_of(model: keras.Model, *, jit_compile: bool) -> Loops:
    """Return the model's loops, those of an earlier call unless the model was compiled anew."""
    loops = model.__dict__.get(_ATTRIBUTE)
    if (
        loops is None
        or loops.jit_compile != jit_compile
        or loops.compilation is not _compilation(model)
    ):
        loops = Loops(model, jit_compile=jit_compile)
        object.__setattr__(model, _ATTRIBUTE, loops)
    return loops


def _compilation(model: keras.Model) -> object:
    """Return what `compile` makes anew each time it is called."""
    return model._compile_config


def _signature(structure: Any) -> tuple[Any, ...]:
    return tuple(
        None if part is None else (tuple(part.shape), part.dtype)
        for part in tf.nest.flatten(structure)
    )


def _is_of_compilation(error: tf.errors.OpError) -> bool:
    """Tell whether XLA refused the graph; a wrong label or the like raises the same types."""
    message = str(error)
    return any(sign in message for sign in ("unsupported operations", "XLA", "compil"))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
