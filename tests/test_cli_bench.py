"""`bnm bench` as a user meets it: real processes, a real signal, real exit codes."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from processes import start

from batchnorm_mechanics.bench.peers import missing_peers

BENCH = [sys.executable, "-m", "batchnorm_mechanics", "bench"]


def bench(*arguments):
    return subprocess.run(
        [*BENCH, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["layers"],
            "bnm bench: `part` must be one of layer, model, study, import. Received: "
            "part='layers'. Leave it out for all of them.\n",
        ),
        (
            ["--repeats", "0"],
            "bnm bench: `repeats` must be 1 or more. Received: repeats=0. "
            "A median needs a sample; 9 give a spread too.\n",
        ),
        (
            ["--write", "/no/such/folder/README.md"],
            "bnm bench: `write` must be a file in a folder that exists. Received: "
            "write='/no/such/folder/README.md'. Make the folder first.\n",
        ),
    ],
)
def test_bad_usage_is_refused_in_one_line_with_code_2(arguments, expected):
    done = bench(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_the_layer_is_measured_as_json_and_as_a_page(tmp_path):
    page = tmp_path / "README.md"
    done = bench("layer", "--quick", "--json", "--repeats", "2", "--write", page)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["finished"] is True
    assert document["machine"]["threads"] == 2
    assert document["not_installed"] == missing_peers()
    measures = [(one["case"], one["measure"]) for one in document["comparisons"]]
    assert measures == [
        (shape, measure)
        for shape in ("(60, 100)", "(8, 14, 14, 32)")
        for measure in ("forward + backward", "forward", "backward")
    ] + [("(32, 28, 28, 64)", "peak memory")]
    for comparison in document["comparisons"]:
        assert comparison["refused"] == {}
        assert {"ours", "Keras"} <= set(comparison["contestants"])
    memory = document["comparisons"][-1]["contestants"]["ours"]
    # At least y and dx, at most what a leak or another unit would be.
    assert 2 <= memory["median"] / (4 * 32 * 28 * 28 * 64) < 50
    assert "(8, 14, 14, 32)" in page.read_text()
    assert "timing, 2 repeats" in done.stderr
    assert "retracing" not in done.stderr


def test_ctrl_c_prints_what_was_measured_so_far():
    process = start(
        [*BENCH, "import", "--repeats", "3", "--json"],
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    lines = iter(process.stderr.readline, "")
    # The first measure is done when the second begins.
    assert any("import, command" in line for line in lines)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate()
    watchdog.cancel()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Interrupted; this is what was measured so far." in stderr
    document = json.loads(stdout)
    assert document["finished"] is False
    assert [one["case"] for one in document["comparisons"]] == ["import"]
