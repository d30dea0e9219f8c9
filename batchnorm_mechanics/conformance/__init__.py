"""Whether an implementation of batch normalization is right, and which conventions it follows."""

from batchnorm_mechanics.conformance import show
from batchnorm_mechanics.conformance.cases import Case
from batchnorm_mechanics.conformance.judge import conform
from batchnorm_mechanics.conformance.limits import Limit
from batchnorm_mechanics.conformance.record import CaseResult, Check, Conventions
from batchnorm_mechanics.conformance.report import Report
from batchnorm_mechanics.conformance.testing import conform_cases
from batchnorm_mechanics.conformance.verdict import Cause, Verdict

__all__ = [
    "Case",
    "CaseResult",
    "Cause",
    "Check",
    "Conventions",
    "Limit",
    "Report",
    "Verdict",
    "conform",
    "conform_cases",
]

Report.view = show
