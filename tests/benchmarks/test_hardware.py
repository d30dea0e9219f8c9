import subprocess
import sys
from pathlib import Path

import hardware
import pytest

from batchnorm_mechanics._tensorflow import one_dnn_is_on

SAYS = """
from hardware import describe, limit_process
limit_process()
found = describe()
print(found["onednn"], found["onednn_set_by"])
"""


def test_instruction_sets_are_named_in_one_order_and_only_those_that_matter():
    information = "processor\t: 0\nflags\t\t: fpu amx_tile avx512_vnni avx2 sse4_2 avx512_vnni2\n"
    assert hardware.flags(information) == ["sse4_2", "avx2", "avx512_vnni", "amx_tile"]


@pytest.mark.parametrize("information", ["", "model name\t: one that tells nothing\n"])
def test_where_the_system_tells_no_instruction_sets_there_are_none(information):
    assert hardware.flags(information) == []


@pytest.mark.thorough
def test_the_machine_says_whether_onednn_is_on_and_what_decided_it(monkeypatch):
    # In this process it is decided, and one process is enough to see the other decision.
    on, setting = (False, "0") if one_dnn_is_on() else (True, "1")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", setting)
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        cwd=Path(hardware.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == (f"{on} TF_ENABLE_ONEDNN_OPTS={setting}\n", "")
    assert hardware.describe()["onednn"] is not on


def test_without_a_setting_the_processor_decides(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    assert hardware.describe()["onednn_set_by"] == "the processor"


def test_the_machine_has_a_line_of_its_kernels():
    described = {
        "processor": "Made-up 9000",
        "flags": ["avx2", "avx512_vnni"],
        "cores": 2,
        "threads": 2,
        "memory_gb": 16.0,
        "system": "Linux 6",
        "python": "3.11.0",
        "versions": {"tensorflow": "2.21.0"},
        "onednn": True,
        "onednn_set_by": "the processor",
    }
    expected = (
        "Instruction sets: avx2 avx512_vnni; TensorFlow runs with oneDNN, decided by the processor"
    )
    assert hardware.facts(described)[1] == expected
    described |= {"flags": [], "onednn": False, "onednn_set_by": "TF_ENABLE_ONEDNN_OPTS=0"}
    assert hardware.facts(described)[1] == (
        "Instruction sets: not known; TensorFlow runs without oneDNN, decided by "
        "TF_ENABLE_ONEDNN_OPTS=0"
    )
