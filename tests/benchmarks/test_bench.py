"""The benchmarks as a user runs them: real processes, and files that pyperf reads."""

import subprocess
import sys
from pathlib import Path

import bench_commands
import bench_compare
import bench_doctor
import bench_memory
import pyperf
import pytest
from hardware import ONE_DNN, missing_peers

FOLDER = Path(bench_memory.__file__).parent


def bench(*arguments, folder=FOLDER, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        **options,
    )


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from runner import Runner

def seconds(loops, name):
    import os
    print(name, os.environ.get("TF_ENABLE_ONEDNN_OPTS"), file=sys.stderr)
    if name == "wrong":
        raise SystemExit("refused wrong at (1, 2): y is off by 1")
    return 0.5 * loops

runner = Runner(processes=1, values=2)
for name in ("right", "wrong", "right too"):
    runner.time(name, seconds, name, inner_loops=5)
runner.finish()
"""


@pytest.mark.thorough
def test_what_is_refused_is_left_out_and_the_rest_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv(ONE_DNN, "0")
    script = tmp_path / "bench_made_up.py"
    script.write_text(SCRIPT.format(folder=str(FOLDER)))
    done = bench(script, "-o", tmp_path / "found.json")
    assert done.returncode == 1
    assert "refused wrong at (1, 2): y is off by 1\n" in done.stderr
    assert "\nwrong: left out: " in done.stderr
    # The processes have the settings of TensorFlow.
    assert "right 0\n" in done.stderr
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "found.json"))
    assert suite.get_benchmark_names() == ["right", "right too"]
    found = suite.get_benchmark("right")
    assert found.get_values() == (0.1, 0.1)
    assert found.get_metadata()["onednn_set_by"] == "0"
    assert found.get_metadata()["keras"].startswith("3.")


@pytest.mark.thorough
def test_the_parts_run_in_turn_into_one_file(tmp_path):
    output = tmp_path / "new" / "found.json"
    output.parent.mkdir()
    output.write_text("of another time")
    done = bench(FOLDER, "memory", "-o", output, "--debug-single-value")
    assert done.returncode == 0, done.stderr
    suite = pyperf.BenchmarkSuite.load(str(output))
    names = [f"memory {bench_memory.SHAPE}: {name}" for name in ("ours", "Keras")]
    assert suite.get_benchmark_names() == names
    ours, theirs = (suite.get_benchmark(name).mean() for name in names)
    size = 4 * 64 * 56 * 56 * 64
    # At least y and dx, at most what a leak or another unit would be.
    assert 2 * size <= ours < theirs < 50 * size
    assert suite.get_benchmark(names[0]).get_unit() == "byte"


def test_an_unknown_part_is_refused_before_a_file_is_replaced(tmp_path):
    output = tmp_path / "found.json"
    output.write_text("of another time")
    done = bench(FOLDER, "layers", "-o", output)
    assert done.returncode == 2
    parts = "commands, compare, doctor, explorer, layer, memory, training"
    assert done.stderr.endswith(f"there is no part 'layers', only {parts}\n")
    assert output.read_text() == "of another time"


@pytest.mark.parametrize("part", ["commands", "compare", "doctor", "layer", "training"])
def test_every_part_has_its_benchmarks(part, tmp_path, monkeypatch):
    script = tmp_path / "names.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        f"import runner, bench_{part} as part\n"
        "class Names:\n"
        "    def __init__(self, **options): pass\n"
        "    def time(self, name, *arguments, **options): print(name)\n"
        "    command = time\n"
        "    def finish(self): pass\n"
        "part.Runner = Names\n"
        "part.main()\n"
    )
    done = bench(script)
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()
    assert len(set(names)) == len(names)
    assert all(name.startswith(part.removesuffix("s")) for name in names)
    if part == "layer":
        for peer in {"torch", "flax"} - set(missing_peers()):
            assert f"layer (60, 100), training: {peer}" in names
        assert "layer (64, 56, 56, 64), training: limit" in names
        assert "layer (60, 100), training: limit" not in names


def test_runs_side_by_side_are_timed_and_a_failed_one_is_named(monkeypatch):
    asked = []

    def run(command, **options):
        asked.append(command)
        folder = Path(command[command.index("--out") + 1])
        assert folder.is_dir()
        return subprocess.CompletedProcess(command, len(asked) // 3, "", "no space left")

    monkeypatch.setattr(bench_commands.subprocess, "run", run)
    assert bench_commands.reproduce(2) > 0
    folders = {command[command.index("--out") + 1] for command in asked}
    assert len(folders) == 2
    assert not any(Path(folder).exists() for folder in folders)
    with pytest.raises(SystemExit, match=r"^no space left$"):
        bench_commands.reproduce(1)


@pytest.mark.parametrize("call", [*bench_doctor.CALLS, bench_doctor.FOLDED])
def test_a_call_of_the_doctor_is_timed(call, monkeypatch):
    monkeypatch.setattr(bench_doctor, "_digits", lambda rows, real=bench_doctor._digits: real(256))
    bench_doctor._set_up.cache_clear()
    assert bench_doctor.calls(1, bench_doctor.DIGITS, call) > 0
    bench_doctor._set_up.cache_clear()


@pytest.mark.parametrize("call", bench_doctor.CALLS[:2])
def test_the_first_call_of_a_deep_model_is_timed(call):
    assert bench_doctor.first_calls(1, call) > 0


@pytest.mark.parametrize("call", bench_compare.CALLS)
def test_a_comparison_is_timed(call):
    # The least that the network takes.
    assert bench_compare.calls(1, 32, call) > 0
