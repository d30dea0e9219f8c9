"""What all tests share: a quiet TensorFlow, seeded random numbers, and the way to oracle_cases."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wrapt

# Before anything imports TensorFlow: its start-up messages would bury the tests' own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# At the end, where it hides nothing: the folders here are named like modules of Python's own.
sys.path.append(str(Path(__file__).parent))

# Here and nowhere below: each conftest that had them would start a browser of its own, and one
# process cannot run two.
from browser import chromium, open_page  # noqa: F401 - fixtures


def _with_two_processors(tensorflow):
    """Have TensorFlow take the processor for two devices, so that a strategy has two replicas.

    What names no device runs on the first, as it does without. It can be told only before
    TensorFlow's first operation, and so is as soon as whatever comes first imports it.
    """
    one = tensorflow.config.list_physical_devices("CPU")[0]
    tensorflow.config.set_logical_device_configuration(
        one, [tensorflow.config.LogicalDeviceConfiguration()] * 2
    )


wrapt.register_post_import_hook(_with_two_processors, "tensorflow")


def pytest_configure(config):
    """Have whole files handed out in their order: what a file makes once is made in one process.

    By default those with the most tests come first, and those that take long last, one by one.
    """
    config.option.loadscopereorder = False


def pytest_report_header():
    """Say which of TensorFlow's kernels this run is about."""
    from batchnorm_mechanics._tensorflow import import_tensorflow_quietly, one_dnn_is_on

    import_tensorflow_quietly()
    return f"oneDNN: {'on' if one_dnn_is_on() else 'off'}"


def pytest_terminal_summary(terminalreporter):
    """Print the table of tests/kills, where it ran."""
    rows = [
        dict(report.user_properties)["kills"]
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call" and "kills" in dict(report.user_properties)
    ]
    if rows:
        terminalreporter.write_sep("=", "kills")
        terminalreporter.write_line(
            "| command | kills | killed while | then |\n| --- | --- | --- | --- |"
        )
    for command, times, moments, then in sorted(rows, key=lambda row: row[:2]):
        met = ", ".join(f"{what} {count}" for what, count in sorted(moments.items()))
        terminalreporter.write_line(f"| {command} | {times} | {met} | {then} |")


def pytest_runtest_setup(item):
    if item.get_closest_marker("channels_first") is not None:
        from machine import why_no_channels_first

        if (reason := why_no_channels_first()) is not None:
            pytest.skip(reason)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def disk_of(tmp_path):
    """Return a function that makes a real file system of so many kB, to be overfilled."""
    disk = tmp_path / "disk"

    def make(kilobytes):
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
        if (
            shutil.which("mount") is None
            or subprocess.run(mount, check=False, capture_output=True).returncode
        ):
            pytest.skip("mounting a small file system needs root")
        return disk

    yield make
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
