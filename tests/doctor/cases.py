"""What some rules find in a model, with the roots that these findings give one another."""

from batchnorm_mechanics.doctor.causes import ordered
from batchnorm_mechanics.doctor.diagnose import by_effect
from batchnorm_mechanics.doctor.measuring import measure
from batchnorm_mechanics.doctor.rule import Case
from batchnorm_mechanics.doctor.rules import RULES, chosen
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.norms import norms_in


def case_of(model, x=None, *, batch_size=32):
    """Return what rules look at; without data where `x` is None."""
    norms = norms_in(model)
    measured = None if x is None else measure(model, norms, Data(x, None, batch_size))
    return Case(model, norms, measured)


def found_by(codes, case):
    """Return what the rules with these codes, or beginnings of codes, find in a case."""
    wanted = sorted(chosen(codes))
    found = [by_effect(one, case) for code in wanted for one in RULES[code].check(case)]
    return list(ordered(found, list(case.gaps) or [norm.name for norm in case.norms]))
