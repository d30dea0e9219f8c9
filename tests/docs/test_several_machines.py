"""The page on several machines: its program trains in the processes that its commands start."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import worker_cases
from docs.followed_pages import FENCE, agrees
from worker_processes import free_ports, run_in

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "several_machines.md").read_text("utf-8")
BLOCKS = dict(FENCE.findall(PAGE))
PROGRAM = BLOCKS["{code-block} python"].partition("\n\n")[2]


def configurations():
    """Return what TF_CONFIG is for each program that the commands start."""
    asked = 'python() { echo "$* $TF_CONFIG"; }\n' + BLOCKS["bash"] + "\nwait\n"
    shell = ["bash", "-eu", "-c", asked]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert {program for program, _ in lines} == {"train.py"}
    return sorted((json.loads(config) for _, config in lines), key=lambda one: one["task"]["index"])


def test_the_commands_start_one_program_for_each_worker_of_one_cluster():
    first, second = configurations()
    assert first["cluster"] == second["cluster"]
    assert len(first["cluster"]["worker"]) == 2
    tasks = [one["task"] for one in (first, second)]
    assert tasks == [{"type": "worker", "index": index} for index in range(2)]


@pytest.mark.thorough
def test_the_program_trains_in_these_processes_and_prints_what_is_shown(tmp_path):
    ports = iter(free_ports(2))
    theirs = {host: f"127.0.0.1:{next(ports)}" for host in configurations()[0]["cluster"]["worker"]}
    environments = [
        {"TF_CONFIG": re.sub("|".join(theirs), lambda host: theirs[host[0]], json.dumps(config))}
        for config in configurations()
    ]
    run = worker_cases.run_program
    (printed, of_second), said = run_in(environments, run, PROGRAM, tmp_path, folder=tmp_path)
    assert printed is not None, said
    assert agrees(BLOCKS["text"], printed), printed
    assert of_second == ""
    # What BackupAndRestore kept goes when training has ended, and one has written the model.
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".log"}
    assert names == {"model.keras"}
