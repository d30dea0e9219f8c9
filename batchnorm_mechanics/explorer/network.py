"""The run of the notebooks' network that is stored with the page."""

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "network.json"


def stored_run() -> dict[str, Any]:
    """Return what `python -m batchnorm_mechanics.explorer.recorded` measured and wrote.

    Returns:
        A dictionary: "steps", the training steps at which was looked; "training", by "with" and
        "without" batch norm, what was seen at each; "failures", what was broken, what the doctor
        said of it, and what came of the repair.

    Example:
        >>> run = stored_run()
        >>> run["steps"][:3], sorted(run["training"])
        ([0, 1, 2], ['with', 'without'])
    """
    return json.loads(PATH.read_text(encoding="utf-8"))
