"""Statistics of the inputs of batch norm layers, in one pass over data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.doctor.data import Data
from batchnorm_mechanics.doctor.probing.fitting import Fitting
from batchnorm_mechanics.doctor.probing.pooling import Pool
from batchnorm_mechanics.doctor.probing.running import Runner, Said
from batchnorm_mechanics.doctor.structure.norms import Norm


class Estimates(NamedTuple):
    """What a pass found.

    Attributes:
        by_name: moments of the inputs of the layers that were called, in the order of their first
            calls.
        left: the others, and why nothing is known of them.
        samples: samples of data.
    """

    by_name: Mapping[str, Pool]
    left: Mapping[str, str]
    samples: int


def estimate(
    model: Any, wanted: Sequence[Norm], others: Sequence[Norm], data: Data, *, caller: str
) -> Estimates:
    """Run the data through the model in inference mode, and estimate the wanted layers' statistics.

    The wanted layers normalize by the batch, as in training; all others, and everything else such
    as dropout, run as in inference. No weight is changed. What comes after the last wanted layer
    is not computed.

    Args:
        model: with weights.
        wanted: layers to estimate.
        others: all other batch norm layers of the model.
        data: whose labels are not looked at.
        caller: the function to name in an error.

    Raises:
        InputError: the data do not fit the model, or give a statistic that is not finite.
    """
    names = [norm.name for norm in wanted]
    run = Runner(model, (*wanted, *others), heard=names, by_batch=names, outputs=False)
    fitting = Fitting(model, caller)
    channels = {norm.name: norm.channels for norm in wanted}
    found: dict[str, Pool] = {}
    for number, given in enumerate(_without_a_last_single(data)):
        inputs = fitting.checked(given)
        if fitting.bad:
            continue
        with fitting.explained(inputs):
            ran = run(inputs)
        for said in ran.calls:
            if not (np.isfinite(said.mean).all() and np.isfinite(said.variance).all()):
                raise InputError(_not_finite(said, number, caller))
            pool = found.setdefault(said.name, Pool(channels[said.name]))
            pool.add(said.count, said.mean, said.variance, said.non_finite)
    fitting.finish()
    # What one batch showed, another may have hidden in a loop.
    found = {name: found[name] for name in found if name not in run.in_loops}
    left = {name: run.reason_unheard(name) for name in names if name not in found}
    return Estimates(found, left, fitting.samples)


def _not_finite(said: Said, number: int, caller: str) -> str:
    bad = int((~(np.isfinite(said.mean) & np.isfinite(said.variance))).sum())
    return (
        f"{caller}: `data` must give finite statistics. Received: {bad} of {len(said.mean)} "
        f"channels not finite at the input of {said.name}, in batch {number + 1}, whose samples "
        "are finite. A layer before it makes NaN or overflows: `bnm doctor` says which."
    )


def _without_a_last_single(data: Data) -> Iterator[Any]:
    """Yield inputs, a last single row together with the batch before.

    Normalized by itself, one row of a dense layer is all zeros, whatever it holds.
    """
    held, held_rows = None, 0
    for inputs, _ in data:
        rows = int(tf.nest.flatten(inputs)[0].shape[0])
        if rows == 1 and held_rows > 1:
            yield tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), held, inputs)
            held, held_rows = None, 0
            continue
        if held is not None:
            yield held
        held, held_rows = inputs, rows
    if held is not None:
        yield held
