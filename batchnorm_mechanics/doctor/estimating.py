"""One pass of data through a model, here or in shards elsewhere, that estimates statistics."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.distribute.executors import Workers
from batchnorm_mechanics.doctor.calls import Runner
from batchnorm_mechanics.doctor.changes import weights_of
from batchnorm_mechanics.doctor.pools import Pools, pools_of
from batchnorm_mechanics.doctor.shards import ModelHost, shards_of
from batchnorm_mechanics.models.data import Data, without_a_last_single
from batchnorm_mechanics.models.fitting import Fitting
from batchnorm_mechanics.models.norms import Norm, Vector

Method = Literal["pooled", "average"]
METHODS: tuple[Method, ...] = ("pooled", "average")


@dataclass(frozen=True)
class How:
    """How statistics are estimated, and for whom.

    Attributes:
        caller: the function to name in an error.
        method, sequential, blend: as in `recalibrate`.
        without_odd: whether batches are left out that make most of a layer's variance.
    """

    caller: str
    method: Method = "pooled"
    sequential: bool = False
    blend: float | None = None
    without_odd: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.method not in METHODS:
            raise InputError(
                f"{self.caller}: `method` must be 'pooled' or 'average'. "
                f"Received: method={self.method!r}. Leave it out for 'pooled'."
            )
        blend: Any = self.blend
        is_number = isinstance(blend, int | float) and not isinstance(blend, bool)
        if blend is not None and not (is_number and 0 < blend <= 1):
            raise InputError(
                f"{self.caller}: `blend` must lie in (0, 1]. Received: blend={blend!r}. "
                "It is the weight of the new statistics; leave it out to replace the old ones."
            )

    @property
    def replaces(self) -> bool:
        """Whether nothing of the old statistics is left in the new ones."""
        return self.blend is None or self.blend == 1

    def __str__(self) -> str:
        words = {
            "pooled": "moments of all samples pooled",
            "average": "moments of batches averaged",
        }
        return (
            words[self.method]
            + (", layer by layer" if self.sequential else "")
            + ("" if self.blend is None else f", blended in by {self.blend:g}")
        )


class Estimates(NamedTuple):
    """What a pass found.

    Attributes:
        by_name: moments of the inputs of the layers that were called, in the order of their first
            calls.
        left: the others, and why nothing is known of them.
        samples: samples of data.
    """

    by_name: Mapping[str, Pools]
    left: Mapping[str, str]
    samples: int


class Passed(NamedTuple):
    """What a pass over data, or over a shard of them, says.

    Attributes:
        pools: of the layers' inputs, by name, not settled yet.
        order: names of the layers that were called, in the order of their first calls.
        unheard: of the others, why nothing is known of them.
        samples: of data.
    """

    pools: dict[str, Pools]
    order: tuple[str, ...]
    unheard: dict[str, str]
    samples: int


class _Shard(NamedTuple):
    """What a worker needs for a pass over a shard, whatever it did before.

    Attributes:
        data: of the shard.
        names: of the layers to estimate.
        how: to do it.
        weights: of the batch norm layers, as they are now, by layer and name.
    """

    data: Data
    names: tuple[str, ...]
    how: How
    weights: dict[str, dict[str, Vector]]


def estimate(
    model: Any,
    norms: Sequence[Norm],
    names: Collection[str],
    data: Data,
    how: How,
    workers: Workers | None = None,
) -> Estimates:
    """Run the data through the model in inference mode, and estimate statistics of some layers.

    These layers normalize by the batch, as in training; all others, and everything else such as
    dropout, run as in inference. No weight is changed. What comes after the last of them is not
    computed.

    Args:
        model: with weights.
        norms: all its batch norm layers.
        names: of those to estimate.
        data: whose labels are not looked at.
        how: to do it.
        workers: with `ModelHost`s, which take shards of the data; None for this process.

    Raises:
        InputError: the data do not fit the model, or give a statistic that is not finite.
    """
    if workers is None:
        whole = _passed(model, norms, names, data, how)
    else:
        weights = {
            norm.name: {name: np.asarray(weight) for name, weight in weights_of(norm.layer).items()}
            for norm in norms
        }
        tasks = (
            _Shard(shard, tuple(names), how, weights)
            for shard in shards_of(data, caller=how.caller)
        )
        done = workers.map(_pass_over, tasks)
        whole = _joined((one.result for one in done), norms)
    found = {name: whole.pools[name].settle(with_odd=not how.without_odd) for name in whole.order}
    return Estimates(
        found,
        {name: whole.unheard[name] for name in names if name not in found},
        whole.samples,
    )


def _pass_over(host: ModelHost, shard: _Shard) -> Passed:
    """Make a pass over a shard, in a worker."""
    for norm in host.norms:
        of_layer = weights_of(norm.layer)
        for name, value in shard.weights[norm.name].items():
            of_layer[name].assign(value)
    return _passed(host.model, host.norms, shard.names, shard.data, shard.how)


def _passed(
    model: Any, norms: Sequence[Norm], names: Collection[str], data: Data, how: How
) -> Passed:
    run = Runner(model, tuple(norms), heard=names, by_batch=names, outputs=False, call=data.call)
    fitting = Fitting(model, how.caller, is_called_otherwise=data.call is not None)
    pools = pools_of(norms)
    for number, (_, _, ran) in enumerate(run.over(without_a_last_single(data), fitting)):
        for (name, _), said in ran.calls.items():
            finite = np.isfinite(said.mean) & np.isfinite(said.variance)
            if not finite.all():
                raise InputError(
                    f"{how.caller}: `data` must give finite statistics. "
                    f"Received: {(~finite).sum()} of {len(finite)} channels not finite at the "
                    f"input of {name}, in batch {data.before + number + 1}, whose samples are "
                    "finite. A layer before it makes NaN or overflows: `bnm doctor` says which."
                )
        for name, calls in ran.by_layer.items():
            pools[name].add(calls)
    # What one batch showed, another may have hidden in a loop.
    order = tuple(name for name in run.dtypes if name not in run.in_loops)
    unheard = {name: run.reason_unheard(name) for name in names if name not in order}
    return Passed(pools, order, unheard, fitting.samples)


def _joined(parts: Iterable[Passed], norms: Sequence[Norm]) -> Passed:
    """Return what passes over all shards say, one after another."""
    # What comes from another process may be memory that can only be read.
    pools, order, unheard = pools_of(norms), dict[str, None](), dict[str, str]()
    samples = 0
    for part in parts:
        for name, of_layer in part.pools.items():
            pools[name].join(of_layer)
        order |= dict.fromkeys(part.order)
        # A layer that one shard has not heard, as in a loop, is not heard.
        unheard |= part.unheard
        samples += part.samples
    return Passed(pools, tuple(name for name in order if name not in unheard), unheard, samples)
