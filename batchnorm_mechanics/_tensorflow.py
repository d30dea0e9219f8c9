"""Import TensorFlow when it is first needed, and without its start-up messages.

Importing TensorFlow takes seconds and prints a dozen lines straight to file descriptor 2, some of
them before any of its own log settings is read.
"""

import contextlib
import functools
import importlib
import inspect
import os
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

import wrapt

from batchnorm_mechanics._exceptions import InputError

# TensorFlow's own kernels for the CPU take images in channels_last alone, and each says it in words
# of its own: "currently only supports the NHWC tensor format", "only supports NHWC".
_WITHOUT_KERNEL = {
    r"only supports (the )?NHWC": "data_format='channels_first'",
    # And no transposed convolution with gaps.
    "do not yet support dilation rates": "a dilated transposed convolution",
}


def import_tensorflow_quietly() -> None:
    """Import TensorFlow and keep its start-up messages away.

    Nothing is hidden from someone who imported TensorFlow before, who sets TF_CPP_MIN_LOG_LEVEL=0,
    or whose import fails.
    """
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _stderr_held_back():
        tensorflow = importlib.import_module("tensorflow")
        # The look for accelerators complains once, at the first operation; let it do so here.
        tensorflow.config.list_physical_devices()


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Hold file descriptor 2 back, and release what it got only if the block fails."""
    try:
        stderr = os.dup(2)
    except OSError:  # There is no standard error to be quiet on.
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # An interruption is no failure: what was held would bury its one line.
            os.dup2(stderr, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def import_with_keras(module: str) -> None:
    """Import a module as soon as Keras is imported, whichever import comes first.

    `keras.saving.load_model` finds a class of ours only if the class was registered before, and
    our lazy imports would leave that to chance.

    Args:
        module: name of the module whose import registers classes with Keras.
    """

    def register(keras: ModuleType) -> None:
        # With another backend our layers cannot be used at all; importing them would fail.
        if keras.config.backend() == "tensorflow":
            importlib.import_module(module)

    wrapt.register_post_import_hook(register, "keras")


def one_dnn_is_on() -> bool:
    """Return whether this process runs on oneDNN's kernels.

    TensorFlow decides once, when it is imported: by `TF_ENABLE_ONEDNN_OPTS` if that is set, and
    else by the processor, which must have AVX-512 with VNNI or newer. It says so in a line of its
    log, and to no public function.
    """
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()


def one_dnn_is_left_off() -> bool:
    """Return whether oneDNN is off only because nobody chose, and the user would gain by it."""
    return not (
        "TF_ENABLE_ONEDNN_OPTS" in os.environ
        or one_dnn_is_on()
        or has_gpu()
        # TensorFlow has it for these alone.
        or sys.platform == "darwin"
        or platform.machine().lower() not in {"x86_64", "amd64"}
    )


@functools.cache
def has_avx512() -> bool:
    """Return whether oneDNN's kernels for AVX-512 can run here."""
    import numpy as np

    extensions: Any = np.show_config(mode="dicts")
    names = {*extensions["SIMD Extensions"]["baseline"], *extensions["SIMD Extensions"]["found"]}
    # NumPy 2.4 calls by its level what earlier ones called AVX512_SKX.
    return "X86_V4" in names or "AVX512_SKX" in names


@functools.cache
def has_gpu() -> bool:
    """Return whether TensorFlow has found a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def compiled_by_xla() -> bool:
    """Return whether XLA compiles the graph that is being built, which nothing public tells."""
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def inside_a_graph_of_the_replica() -> bool:
    """Return whether a replica is building a graph of its own, in which it cannot meet the others.

    Such are the bodies of loops and conditions, and functions called by what `strategy.run` runs.
    TensorFlow raises an error there when replicas are to exchange something, and tells nobody
    before: this is the question that it asks itself.
    """
    import tensorflow as tf

    graph = getattr(threading.current_thread(), "graph", None)
    return graph is not None and tf.compat.v1.get_default_graph() is not graph


def is_recomputing() -> bool:
    """Return whether the code that runs was run before, for the same step.

    `tf.recompute_grad`, and with it `keras.remat` and `keras.RematScope`, runs a function again in
    the backward pass in place of keeping what it computed. What the function changes, it would
    change twice. TensorFlow tells it to nobody: who is on the stack does.
    """
    frame = sys._getframe()
    again = _code_that_recomputes()
    while frame is not None:
        if frame.f_code is again:
            return True
        frame = frame.f_back
    return False


@functools.cache
def _code_that_recomputes() -> CodeType:
    """Return the code of the function within `tf.recompute_grad` that runs another one again."""
    import tensorflow as tf

    def within(code: CodeType) -> Iterator[CodeType]:
        for one in code.co_consts:
            if isinstance(one, CodeType):
                yield one
                yield from within(one)

    plain = inspect.unwrap(tf.recompute_grad)
    return next(code for code in within(plain.__code__) if code.co_name == "inner_recompute_grad")


def missing_kernel(error: Exception, caller: str) -> InputError | None:
    """Return what to say of an error that is the machine's fault, and not that of the data.

    Args:
        error: raised where a model ran.
        caller: the function to name.

    Returns:
        None where the error is another.

    Example:
        >>> missing_kernel(ValueError("shapes do not fit"), "diagnose") is None
        True
    """
    words = str(error)
    has = next((has for pattern, has in _WITHOUT_KERNEL.items() if re.search(pattern, words)), None)
    if has is None:
        return None
    way_out = (
        "Use a GPU, or build the model in channels_last."
        if one_dnn_is_on()
        else "Set TF_ENABLE_ONEDNN_OPTS=1 before Python starts: oneDNN's kernels compute it. "
        "Or use a GPU."
    )
    return InputError(
        f"{caller}: `model` must be one that this machine can run. Received: a model with {has}, "
        "which the kernels that TensorFlow has chosen for this processor do not compute. "
        f"{way_out}"
    )
