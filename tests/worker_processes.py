"""Processes that train together on one machine, as TF_CONFIG tells them to, and end in time."""

import json
import multiprocessing
import os
import socket
import time
import traceback
from multiprocessing.connection import wait

# Of a machine that does much else; what they do takes a tenth of it.
SECONDS = 400


def free_ports(count):
    """Return ports of this machine that nobody has: all at once, so that they are different."""
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()


def train_together(count, function, *arguments, folder):
    """Run a function in so many processes, each a worker, until one has died or all are done.

    Args:
        count: how many processes.
        function: of a module, called with the arguments by each.
        *arguments: for each the same.
        folder: for what they print.

    Returns:
        What each returned, and what they printed in all; None for one that did not return.
    """
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    configs = [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        for index in range(count)
    ]
    environments = [{"TF_CONFIG": json.dumps(config)} for config in configs]
    return run_in(environments, function, *arguments, folder=folder)


def run_in(environments, function, *arguments, folder):
    """Run a function in a process for each of some environments; as `train_together`.

    They are forked from a process that has imported TensorFlow and has begun nothing with it: an
    import takes longer than most of what is tried.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "keras"])
    processes, ends, results = [], [], [None] * len(environments)
    end = time.monotonic() + SECONDS
    try:
        for index, environment in enumerate(environments):
            here, there = context.Pipe()
            work = (environment, there, folder / f"{index}.log", function, arguments)
            processes.append(context.Process(target=_work, args=work))
            processes[-1].start()
            there.close()
            ends.append(here)
        while any(one is None for one in results):
            waited = [one for one, result in zip(ends, results, strict=True) if result is None]
            ready = wait(waited, max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"the workers did not end\n{_printed(folder)}")
            try:
                for one in ready:
                    results[ends.index(one)] = one.recv()
            except EOFError:
                break  # It has died, and the others would wait for it.
    finally:
        for process in processes:
            process.kill()
            process.join()
    return results, _printed(folder)


def _work(environment, pipe, log, function, arguments):
    os.environ.update(environment)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        result = function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    pipe.send(result)
    # Until it is killed: the first worker coordinates, and the others fail if it ends before them.
    pipe.recv()


def _printed(folder):
    logs = sorted(folder.glob("*.log"))
    return "\n".join(f"{log.name}:\n{log.read_text(encoding='utf-8')[-4000:]}" for log in logs)
