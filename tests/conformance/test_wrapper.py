"""What cannot be recognized: the function that is shown for it, completed, is judged."""

import importlib.util
import sys

import pytest
from commands import bnm_here

from batchnorm_mechanics.conformance import conform
from batchnorm_mechanics.conformance.cases import select
from batchnorm_mechanics.conformance.subjects import resolve, wrap

MINE = """
import numpy as np


def odd(x, gamma, beta, moving_mean, moving_var, flavour, epsilon=1e-3, training=True):
    mean, var = (x.mean(0), x.var(0)) if training else (moving_mean, moving_var)
    return (x - mean) / np.sqrt(var + epsilon) * gamma + beta + flavour


class Odd:
    def __init__(self, width, flavour, eps):
        self.gamma, self.beta = np.ones(width), np.zeros(width)
        self.running_mean, self.running_var = np.zeros(width), np.ones(width)
        self.eps, self.training = eps, True

    def __call__(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean(0), x.var(0)
        return (x - mean) / np.sqrt(var + self.eps) * self.gamma + self.beta
"""
FUNCTION = """\
from mine import odd

def wrapped_odd(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    # Put what is right where there is `...`, and take what moves from what it returns.
    y = odd(x=x, gamma=gamma, beta=beta, moving_mean=moving_mean, moving_var=moving_variance, \
flavour=..., epsilon=epsilon, training=training)
    return y, moving_mean, moving_variance
"""
CLASS = """\
from mine import Odd

def wrapped_Odd(
    x, gamma, beta, moving_mean, moving_variance, *, axis, momentum, epsilon, training
):
    # Put what is right where there is `...`, and take what moves from what it returns.
    layer = Odd(width=..., flavour=..., eps=epsilon)
    layer.gamma, layer.beta, layer.running_mean, layer.running_var = \
gamma, beta, moving_mean, moving_variance
    layer.training = training  # or as it is told
    return layer(x), layer.running_mean, layer.running_var
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(("name", "text"), [("odd", FUNCTION), ("Odd", CLASS)])
def test_a_wrapper_has_the_names_that_were_found_in_ten_lines_at_most(name, text, folder):
    assert wrap(f"mine.py:{name}") == text
    assert len(text.splitlines()) <= 10


@pytest.mark.parametrize(
    ("name", "put"), [("odd", {"flavour=...": "flavour=0.0"}), ("Odd", {"=...": "=len(gamma)"})]
)
def test_a_wrapper_is_judged_when_it_is_completed(name, put, folder):
    done = bnm_here("conform", "--wrap", f"mine.py:{name}", "--out", "wrapped.py", cwd=folder)
    assert (done.code, done.out) == (0, "")
    text = (folder / "wrapped.py").read_text()
    for hole, value in put.items():
        text = text.replace(hole, value)
    (folder / "wrapped.py").write_text(text)
    found = conform(f"wrapped.py:wrapped_{name}", cases=select("batch of 60 rank 2"))
    wrong = {check.what for case in found.cases for check in case.checks if not check.passed}
    # It was never made to move its statistics.
    assert wrong == {"moving mean", "moving variance"}


def test_a_wrapper_is_printed_and_a_file_that_is_there_stays(folder):
    assert bnm_here("conform", "--wrap", "mine.py:odd", cwd=folder).out == FUNCTION
    done = bnm_here("conform", "--wrap", "mine.py:odd", "--out", "mine.py", cwd=folder)
    assert done.code == 2
    assert done.err == (
        "bnm conform: `out` must be a file that does not exist. Received: out='mine.py'. "
        "Choose another name.\n"
    )
    assert (folder / "mine.py").read_text() == MINE


def test_a_forward_and_a_backward_pass_are_named_together(folder):
    tutorials = importlib.util.find_spec("conformance.tutorials").origin
    pair = resolve(f"{tutorials}:normalize_forward,its_gradients")
    assert pair.taken_as == "function of NumPy, training alone, gradients by `its_gradients`"
