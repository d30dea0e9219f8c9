"""Find and repair what batch norm does wrong in a model."""

from batchnorm_mechanics.doctor import showing
from batchnorm_mechanics.doctor.findings import Result

Result.view = showing
