"""The pages' measured figures, each between marks, from the records that they were measured in.

| mark | page | record |
| --- | --- | --- |
| speed | `docs/how/speed.md` | `onednn-off.json`, `onednn-on.json`: `worlds.py run` writes both |
| studies | `docs/how/studies.md` | `studies.json`, which is `results.json` of `bnm reproduce` |
| accuracy | `docs/how/digits.md` | `accuracy.json`, which `accuracy.py` writes |
| scale | `docs/how/scale.md` | `scale.json`, which `scale.py` writes |
"""

import json

import scale
import worlds_page
import worlds_record

STUDIES, ACCURACY, SCALE = "studies.json", "accuracy.json", scale.RECORD.name
# Where each stands, beside the folder of the records' own.
PAGES = {"speed": "speed.md", "studies": "studies.md", "accuracy": "digits.md", "scale": "scale.md"}
# By what the page calls them: the study of 100 batches an epoch, and the one of all 916.
_STATISTICS = {
    "Keras's layer": ("keras-100", "keras-916"),
    "our layer, the same moving average": ("average-100", "average-916"),
    "Algorithm 2 of the paper": ("algorithm2-100", "algorithm2-916"),
    "reversed momentum": ("reversed-100", "reversed-916"),
    "Keras's layer, two called with `training=True`": (None, "keras-916-baked"),
}


def texts(folder):
    """Return what stands in the pages, by mark.

    Args:
        folder: of the records.

    Returns:
        For each mark its text in Markdown, without a line break at the end.

    Raises:
        SystemExit: a record is missing.
    """
    files = [worlds_record.path(folder, world) for world in worlds_record.WORLDS]
    others = [folder / name for name in (STUDIES, ACCURACY, SCALE)]
    missing = [file for file in (*files, *others) if not file.exists()]
    if missing:
        raise SystemExit(
            f"worlds: no {' and no '.join(map(str, missing))}. `figures.py` says what writes it."
        )
    worlds = {world: worlds_record.read(folder, world) for world in worlds_record.WORLDS}
    return {
        "speed": worlds_page.speed(worlds),
        "studies": studies(_json(folder / STUDIES)),
        "accuracy": accuracy(_json(folder / ACCURACY)),
        "scale": scale.page(_json(folder / SCALE)),
    }


def _json(file):
    return json.loads(file.read_text(encoding="utf-8"))


def marks(name):
    """Return the two lines that a text stands between."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def put(folder, found):
    """Return each page with its text between its marks.

    Args:
        folder: of the pages as they are.
        found: texts by mark.

    Returns:
        The new text of each page, by its path.

    Raises:
        SystemExit: a mark is not there exactly once.
    """
    pages = {}
    for name, text in found.items():
        page = folder / PAGES[name]
        whole = page.read_text(encoding="utf-8")
        first, last = marks(name)
        if whole.count(first) != 1 or whole.count(last) != 1:
            raise SystemExit(f"worlds: {page.name} must have {first} and {last} once each.")
        before, _, rest = whole.partition(first)
        pages[page] = f"{before}{first}\n\n{text}\n\n{last}{rest.partition(last)[2]}"
    return pages


def studies(results):
    """Return what the studies gave: a table, and what follows from it.

    Args:
        results: as `bnm reproduce` writes them.
    """
    by_name = {study["name"]: study for study in results["studies"]}
    rows = [
        [name, *("" if one is None else _accuracy(by_name[one]) for one in pair)]
        for name, pair in _STATISTICS.items()
    ]
    header = ["statistics of inference", "100 of 916 batches an epoch", "all 916"]
    effects = results["effects"]
    batches = [one for one in effects if one["factor"] == "batches an epoch"]
    least, most = _range(one["difference"] for one in batches)
    low, high = min(one["low"] for one in batches), max(one["high"] for one in batches)
    published = {name: study["summary"]["test"]["published"] for name, study in by_name.items()}
    gap = published["keras-916-baked"] - published["algorithm2-100"]
    averages = [one for one in effects if one["from"].startswith("average-")]
    algorithm = _range(abs(one["difference"]) for one in averages if "algorithm2" in one["to"])
    reverse = _range(-one["difference"] for one in averages if "reversed" in one["to"])
    within = [
        metric["within"]
        for study in results["studies"]
        for metric in study["summary"].values()
        if metric["within"] is not None
    ]
    environment, seeds = results["environment"], len(results["studies"][0]["runs"])
    return "\n".join(
        [
            f"Test accuracy in percent, mean and standard deviation over {seeds} seeds "
            f"(TensorFlow {environment['tensorflow']}, Keras {environment['keras']}, "
            f"{environment['processor']}):",
            "",
            *worlds_page.grid(header, rows),
            "",
            "The notebooks' custom runs saw only `take(100)` of an epoch's 916 batches. That alone "
            f"costs {least:.1f} to {most:.1f} points, with 95% intervals from {low:.1f} to "
            f"{high:.1f} over paired seeds; the published runs with Algorithm 2 (`algorithm2-100`) "
            f"and with Keras (`keras-916-baked`) are {gap:.1f} apart. Algorithm 2 in place of the "
            f"moving average changes {algorithm[0]:.2f} to {algorithm[1]:.2f} points, and the "
            f"reversed momentum costs {reverse[0]:.1f} to {reverse[1]:.1f}. {sum(within)} of the "
            f"{len(within)} published accuracies lie within our seeds' range widened by half a "
            "point; the report says of the rest what our runs show.",
        ]
    )


def _accuracy(study):
    test = study["summary"]["test"]
    published = "" if test["published"] is None else f" (published {test['published']:.2f})"
    return f"{test['mean']:.2f} ± {test['std']:.2f}{published}"


def _range(values):
    values = sorted(values)
    return values[0], values[-1]


def accuracy(record):
    """Return the largest errors as a table.

    Args:
        record: as `accuracy.py` writes it.
    """
    names = [name for name in record["errors"][0] if name != "mean"]
    rows = [
        [f"{one['mean']:,}", *(_error(one[name]) for name in names)] for one in record["errors"]
    ]
    return "\n".join(worlds_page.grid(["mean of the input", *names], rows))


def _error(value):
    return f"{value:.1e}" if value < 0.1 else f"{value:.1f}"
