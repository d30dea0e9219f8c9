"""Draw the README's picture from results: python docs/picture.py results/results.json."""

import json
import sys
from pathlib import Path

import vl_convert

from batchnorm_mechanics._io.charts import theme
from batchnorm_mechanics._io.files import write_atomically
from batchnorm_mechanics.studies.charts import accuracies

PICTURE = Path(__file__).with_name("reproduce.svg")


def main(results: Path) -> None:
    """Write the chart of test accuracies, ours beside the published ones."""
    studies = [
        study
        for study in json.loads(results.read_text())["studies"]
        if not study["settings"]["track_inputs"]
    ]
    spec = accuracies(studies, "test").spec
    spec["width"] = 560
    spec["padding"] = 12
    spec["title"] = "Test accuracy of each seed; diamonds were published"
    look = theme(ink="black", soft="#555", line="#ddd")["config"]
    # White also where a dark page shows the picture; a font that the drawing machine has.
    spec["config"] = {**look, "background": "white", "font": "sans-serif"}
    # Which one that is, is the reader's: a wider one must not run into what stands beside it.
    spec["config"]["legend"] = {**look["legend"], "titleOrient": "top"}
    write_atomically(PICTURE, vl_convert.vegalite_to_svg(spec))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
