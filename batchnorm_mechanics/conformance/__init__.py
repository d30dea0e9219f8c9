"""Whether an implementation of batch normalization is right, and which conventions it follows."""

from batchnorm_mechanics.conformance import show
from batchnorm_mechanics.conformance.cases import Case
from batchnorm_mechanics.conformance.judge import conform
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions, Report

__all__ = ["Case", "CaseResult", "Check", "Conventions", "Report", "conform"]

Report.view = show
