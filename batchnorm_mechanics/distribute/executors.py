"""Where work is done that can be parted: in this process, or by actors of Ray.

A host is what takes long to make and serves many tasks: a model that was loaded, data that were
prepared. Each worker makes one, and gives it to a function with one task after another.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from batchnorm_mechanics._exceptions import FailureError, InputError
from batchnorm_mechanics._workers import cores

# How often a worker that dies is replaced, and a task of one that died is done again.
_RETRIES = 3


class Done(NamedTuple):
    """What came of a task: its number, and what the function returned."""

    number: int
    result: Any


class Workers(Protocol):
    """Hosts, ready to work."""

    def map(
        self, function: Callable[[Any, Any], Any], tasks: Iterable[Any], *, in_order: bool = True
    ) -> Iterator[Done]:
        """Yield what `function(host, task)` returns for each task.

        Args:
            function: found by its module and name, as `pickle` does.
            tasks: taken one by one, a few ahead of the workers: they may be many.
            in_order: of the tasks, however long each takes; else as they are done.
        """
        ...


@dataclass(frozen=True)
class RayExecutor:
    """Work done by actors of Ray, on this machine or on a cluster.

    Results do not depend on how many workers there are, on the order in which they are done, or on
    workers that die: a task whose worker died is done again by a new one, three times at most. The
    package must be installed on each machine, in the version that this process has.

    Args:
        address: as `ray.init` takes it: "auto", "ray://host:10001"; None joins the cluster that
            this process is connected to, or starts one on this machine that ends with the work and
            listens to this machine alone.
        workers: how many actors; by default as many as the cluster has processors.
        options: of each actor, as `ray.remote` takes them, such as `{"num_gpus": 1}`.

    Raises:
        InputError: Ray is not installed, or does not answer.

    Example:
        >>> RayExecutor(workers=2)
        RayExecutor(address=None, workers=2, options={})
    """

    address: str | None = None
    workers: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no number of workers."""
        count: Any = self.workers
        if count is not None and (not isinstance(count, int) or count < 1):
            raise InputError(
                f"RayExecutor: `workers` must be an integer of 1 or more. "
                f"Received: workers={count!r}. Leave it out for one on each processor."
            )

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """Give Ray, connected to the cluster; until the block ends, all work is done by that one.

        Raises:
            InputError: Ray is not installed, or no cluster answers at the address.
        """
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "ray: is not installed. Install it with: pip install 'batchnorm-mechanics[ray]'."
            ) from error
        if ray.is_initialized():
            yield ray
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None and "RAY_ADDRESS" not in os.environ:
            # Ray tells its makers of each cluster otherwise, and lets other machines in.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            quiet |= {
                "num_cpus": max(self.workers or 0, cores()),
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            }
        try:
            ray.init(self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                "ray: a cluster must answer. Received: "
                f"address={self.address!r}: {' '.join(str(error).split())[:300]}. "
                "`ray start --head` starts one."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()

    @contextlib.contextmanager
    def hosting(self, make_host: Callable[[], Any]) -> Iterator[Workers]:
        """Give workers, each with a host of its own, until the block ends."""
        with self.connected() as ray:
            count = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            settings = {"num_cpus": 1, **self.options}
            actor = ray.remote(_Actor).options(
                max_restarts=_RETRIES, max_task_retries=_RETRIES, **settings
            )
            actors = [actor.remote(make_host) for _ in range(count)]
            try:
                yield _RayWorkers(ray, actors)
            finally:
                for one in actors:
                    ray.kill(one)


def executor_of(where: Any, *, caller: str) -> RayExecutor | None:
    """Return the executor that an argument names; None is this process.

    Args:
        where: None or "local"; "ray"; an address, "ray://host:port"; or an executor.
        caller: the function to name in an error.

    Raises:
        InputError: it is none of these.

    Example:
        >>> executor_of("ray://head:10001", caller="recalibrate").address
        'ray://head:10001'
    """
    if where is None or where == "local":
        return None
    if where == "ray":
        return RayExecutor()
    if isinstance(where, str) and where.startswith("ray://"):
        return RayExecutor(where)
    if isinstance(where, RayExecutor):
        return where
    raise InputError(
        f"{caller}: `executor` (of commands, --on) must be 'local', 'ray', an address as "
        f"'ray://host:10001', or a bnm.RayExecutor. Received: executor={where!r}. Leave it out for "
        "this process."
    )


class _Actor:
    """A worker of Ray: a host, and the calls that it gets."""

    def __init__(self, make_host: Callable[[], Any]) -> None:
        self._host = make_host()

    def call(self, function: Callable[[Any, Any], Any], task: Any) -> Any:
        return function(self._host, task)


@dataclass(frozen=True)
class _RayWorkers:
    ray: Any
    actors: list[Any]

    def map(
        self, function: Callable[[Any, Any], Any], tasks: Iterable[Any], *, in_order: bool = True
    ) -> Iterator[Done]:
        idle, busy, waiting = list(self.actors), dict[Any, tuple[int, Any]](), dict[int, Any]()
        # A result whose turn has not come is kept here, so not many tasks are begun before it.
        most_ahead = 2 * len(idle) if in_order else None
        numbered, turn, begun, is_more = enumerate(tasks), 0, 0, True
        while True:
            while idle and is_more and (most_ahead is None or begun - turn < most_ahead):
                number, task = next(numbered, (None, None))
                if number is None:
                    is_more = False
                    break
                actor = idle.pop()
                busy[actor.call.remote(function, task)] = (number, actor)
                begun += 1
            if not busy:
                return
            (reference, *_), _ = self.ray.wait(list(busy))
            number, actor = busy.pop(reference)
            idle.append(actor)
            result = self._result(reference)
            if not in_order:
                yield Done(number, result)
                continue
            waiting[number] = result
            while turn in waiting:
                yield Done(turn, waiting.pop(turn))
                turn += 1

    def _result(self, reference: Any) -> Any:
        from ray.exceptions import RayActorError, RaySystemError, RayTaskError

        try:
            return self.ray.get(reference)
        except RayTaskError as error:
            # What the function raised there, as if it had been raised here.
            cause = error.cause
            if isinstance(cause, RaySystemError):
                raise InputError(
                    "ray: functions and classes that go to its workers must be found there by "
                    f"their modules. Received: {' '.join(str(cause).split())[:200]}. Install "
                    "the module there, or have them in the script that is run."
                ) from None
            raise cause if isinstance(cause, InputError | FailureError) else error from None
        except RayActorError as error:
            raise FailureError(
                f"ray: a worker died, and so did {_RETRIES} that took its place, as when memory "
                f"runs out. {' '.join(str(error).split())[:300]}"
            ) from error
