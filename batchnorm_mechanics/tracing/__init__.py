"""See every step of one batch-norm computation, and why its output is what it is."""

from batchnorm_mechanics.tracing import show
from batchnorm_mechanics.tracing.record import Step, Trace
from batchnorm_mechanics.tracing.tracer import trace

__all__ = ["Step", "Trace", "trace"]

Trace.view = show
