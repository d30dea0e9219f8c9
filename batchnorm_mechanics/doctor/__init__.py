"""Find and repair what batch norm does wrong in a model."""

from typing import Any

from batchnorm_mechanics.doctor import showing
from batchnorm_mechanics.doctor.findings import Result

_view: Any = showing
Result.view = _view
