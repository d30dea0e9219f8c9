"""Two real commands and one folder: the second is told who has it, and a dead one has nothing."""

import json
import os
import signal
import time

import pytest
from commands import BNM, bnm
from processes import group_is_alive, start

REPRODUCE = ["reproduce", "reversed-100-short", "--quick", "--out", "out"]


@pytest.fixture
def begun(tmp_path):
    """Return a function that starts the command, and waits until it has the folder."""
    processes = []

    def begin():
        process = start([*BNM, *REPRODUCE], cwd=tmp_path)
        processes.append(process)
        while holder(tmp_path) != process.pid:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    yield begin
    for process in processes:
        if group_is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def holder(folder):
    file = folder / "out" / ".lock.json"
    return json.loads(file.read_text())["process"] if file.exists() else None


def test_a_second_run_is_refused_with_the_process_that_has_the_folder(begun, tmp_path):
    first = begun()
    # It would be done before the second has begun, on a machine that has much to do.
    os.killpg(first.pid, signal.SIGSTOP)
    second = bnm(*REPRODUCE, cwd=tmp_path)
    assert (second.code, second.out) == (2, "")
    (line,) = second.err.splitlines()
    today = time.strftime("%Y-%m-")
    assert line.startswith(
        "bnm reproduce: `out` must be a folder in which nothing else runs. Received: out='out', in "
        f"which a run is under way (process {first.pid} on "
    )
    assert f", since {today}" in line
    assert line.endswith("). Wait for its end, or name another with --out.")
    assert holder(tmp_path) == first.pid
    # One that is killed leaves its name behind, and does not hold the folder any more.
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert holder(tmp_path) == first.pid
    third = begun()
    os.kill(third.pid, signal.SIGINT)
    third.communicate(timeout=240)
    assert third.returncode == 130
    assert holder(tmp_path) is None
