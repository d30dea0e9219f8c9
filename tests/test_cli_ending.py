"""How a command ends: signals, also where a library loses them, and faults of ours."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from commands import bnm_here

from batchnorm_mechanics.cli.ending import exit_code, insisting, stopping_in_order


@pytest.fixture(autouse=True)
def heeded():
    """A shell starts background jobs with SIGINT ignored, and so would be these tests in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signal_me(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_is_what_ctrl_c_is_and_has_its_code(number):
    before = signal.getsignal(number)
    with stopping_in_order():
        with pytest.raises(KeyboardInterrupt):
            signal_me(number)
        assert exit_code() == 128 + number
    assert signal.getsignal(number) is before
    with stopping_in_order():
        assert exit_code() is None


def test_the_code_is_that_of_the_first_signal():
    with stopping_in_order():
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(KeyboardInterrupt):
                signal_me(number)
        assert exit_code() == 143


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_in_order():
            signal_me(signal.SIGHUP)
            assert exit_code() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def lose_one_and(do):
    """Work as a library that loses an exception, and goes on to do something else."""
    with insisting():
        try:
            signal_me(signal.SIGINT)
        except KeyboardInterrupt:
            do()


def test_work_that_loses_an_interruption_is_interrupted_again():
    began = time.monotonic()
    with stopping_in_order(), pytest.raises(KeyboardInterrupt):
        lose_one_and(lambda: time.sleep(30))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("what", [lambda: None, lambda: int("what a library made of it")])
def test_an_interruption_that_was_lost_is_known_when_the_work_ends(what):
    with stopping_in_order(), pytest.raises(KeyboardInterrupt):
        lose_one_and(what)


def test_nothing_is_interrupted_that_was_not_and_no_alarm_is_left():
    before = signal.getsignal(signal.SIGALRM)
    with stopping_in_order():
        with insisting():
            pass
        with pytest.raises(ZeroDivisionError), insisting():
            divmod(1, 0)
        with pytest.raises(KeyboardInterrupt), insisting():
            signal_me(signal.SIGINT)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        # One that came before is not that of this work.
        with insisting():
            pass
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_command_that_was_told_to_ignore_ctrl_c_goes_on():
    code = (
        "import os, signal, sys; from batchnorm_mechanics.cli import main\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.argv = ['bnm', 'doctor', '--rules']; os.kill(os.getpid(), signal.SIGINT)\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("BN101")


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    """`bnm trace` with a fault in it; what it keeps goes to a folder."""
    from batchnorm_mechanics.tracing import command

    def fault(options):
        raise ZeroDivisionError("in\nthe \x1b[31mmiddle " + "x" * 1000)

    monkeypatch.setattr(command, "trace_with", fault)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_fault_of_ours_is_one_line_and_its_traceback_is_kept(faulty):
    ended = bnm_here("trace", cwd=faulty)
    (kept,) = faulty.glob("bnm-*.txt")
    assert (ended.code, ended.out) == (70, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(
        "bnm: a fault of ours, not of what you gave: ZeroDivisionError: in the \\x1b[31mmiddle xxx"
    )
    assert f"The traceback is in {kept}; please report it" in line
    assert len(line) < 500
    assert "in fault" in kept.read_text()


def test_debug_shows_the_traceback(faulty):
    with pytest.raises(ZeroDivisionError):
        bnm_here("--debug", "trace", cwd=faulty)
    assert [*faulty.glob("bnm-*.txt")] == []
    assert bnm_here("trace", cwd=faulty).code == 70


def test_a_fault_on_a_full_disk_is_told_all_the_same(faulty, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(faulty / "nowhere"))
    ended = bnm_here("trace", cwd=faulty)
    assert ended.code == 70
    assert "There is no room to keep the traceback; please report it" in ended.err
