"""What the pages say was measured is what the records say."""

import copy
import json
import re
import shutil

import figures
import pytest
import worlds
import worlds_record

README = worlds.FIGURES.parents[1] / "README.md"

ACCURACY = {
    "errors": [
        {"mean": 0, "ours": 6.84e-7, "theirs": 2e-6},
        {"mean": 10_000, "ours": 1.0, "theirs": 5.44},
    ]
}
WORLD = {"layers": {"cases": []}, "networks": {"cases": []}}


def study(name, mean, published=None, within=None):
    test = {"mean": mean, "std": 0.256, "published": published, "within": within}
    train = {**test, "published": None, "within": None}
    return {"name": name, "runs": [{}, {}, {}], "summary": {"train": train, "test": test}}


def effect(start, end, difference, factor="statistics"):
    return {
        "factor": factor,
        "from": start,
        "to": end,
        "difference": difference,
        "low": difference - 0.25,
        "high": difference + 0.25,
    }


def results():
    names = [name for pair in figures._STATISTICS.values() for name in pair if name is not None]
    studies = {name: study(name, 90 + number / 100) for number, name in enumerate(names)}
    studies["keras-916-baked"] = study("keras-916-baked", 96.952, published=97.11, within=True)
    studies["algorithm2-100"] = study("algorithm2-100", 94.616, published=94.59, within=False)
    return {
        "environment": {"tensorflow": "2.0", "keras": "3.0", "processor": "Made-up 9000"},
        "studies": list(studies.values()),
        "effects": [
            effect("keras-100", "keras-916", 2.61, "batches an epoch"),
            effect("average-100", "average-916", 2.52, "batches an epoch"),
            effect("average-100", "algorithm2-100", -0.02),
            effect("average-916", "algorithm2-916", 0.04),
            effect("average-100", "reversed-100", -0.43),
            effect("average-916", "reversed-916", -0.33),
        ],
    }


def test_the_studies_have_a_table_and_what_follows_from_their_effects():
    text = figures.studies(results())
    for expected in (
        "mean and standard deviation over 3 seeds (TensorFlow 2.0, Keras 3.0, Made-up 9000):",
        "| Keras's layer | 90.00 ± 0.26 | 90.01 ± 0.26 |",
        "| Algorithm 2 of the paper | 94.62 ± 0.26 (published 94.59) | 90.05 ± 0.26 |",
        "| Keras's layer, two called with `training=True` |  | 96.95 ± 0.26 (published 97.11) |",
        "That alone costs 2.5 to 2.6 points, with 95% intervals from 2.3 to 2.9 over paired",
        "(`keras-916-baked`) are 2.5 apart.",
        "Algorithm 2 in place of the moving average changes 0.02 to 0.04 points",
        "the reversed momentum costs 0.3 to 0.4.",
        "1 of the 2 published accuracies lie within",
    ):
        assert expected in text


def test_the_errors_have_two_digits():
    assert figures.accuracy(ACCURACY).splitlines()[2:] == [
        "| 0 | 6.8e-07 | 2.0e-06 |",
        "| 10,000 | 1.0 | 5.4 |",
    ]


@pytest.fixture
def folder(tmp_path):
    for world in worlds_record.WORLDS:
        worlds_record.write(tmp_path, world, {"world": world, **copy.deepcopy(WORLD)})
    (tmp_path / figures.STUDIES).write_text(json.dumps(results()))
    (tmp_path / figures.ACCURACY).write_text(json.dumps(ACCURACY))
    shutil.copy(worlds_record.FOLDER / figures.SCALE, tmp_path)
    return tmp_path


def test_the_pages_are_changed_between_their_marks_alone(folder, monkeypatch):
    monkeypatch.setattr(worlds, "FIGURES", folder)
    found = figures.texts(folder)
    assert set(found) == set(figures.PAGES) == {"speed", "studies", "accuracy", "scale"}

    def page(name, text):
        return f"before {name}\n<!-- {name} -->\n{text}<!-- /{name} -->\nafter\n"

    for name, file in figures.PAGES.items():
        (folder / file).write_text(page(name, "old\n"))
    assert worlds.main(["figures", "--write", "--records", str(folder)]) == 0
    for name, file in figures.PAGES.items():
        assert (folder / file).read_text() == page(name, f"\n{found[name]}\n\n")
    (folder / "speed.md").write_text("no marks\n")
    with pytest.raises(SystemExit, match=re.escape("speed.md must have <!-- speed -->")):
        worlds.main(["figures", "--write", "--records", str(folder)])
    assert (folder / "speed.md").read_text() == "no marks\n"


def test_without_a_record_no_page_is_written(folder):
    (folder / figures.STUDIES).unlink()
    with pytest.raises(SystemExit, match=r"^worlds: no .*studies\.json\. `figures\.py` says what"):
        worlds.main(["figures", "--records", str(folder)])


def test_the_pages_say_what_the_records_say():
    for page, text in figures.put(worlds.FIGURES, figures.texts(worlds_record.FOLDER)).items():
        assert page.read_text(encoding="utf-8") == text


def test_the_readme_s_picture_shows_the_accuracies_of_the_record():
    picture = (README.parent / "docs" / "reproduce.svg").read_text(encoding="utf-8")
    record = json.loads((worlds_record.FOLDER / figures.STUDIES).read_text(encoding="utf-8"))
    shown = [study for study in record["studies"] if not study["settings"]["track_inputs"]]
    assert len(shown) == 11
    expected = {
        f"batches: {study['steps']}; study: {study['name']}; seed: {run['seed']}; "
        f"accuracy: {run['test']:.2f}"
        for study in shown
        for run in study["runs"]
    }
    found = set(re.findall(r"batches: \d+; study: \S+; seed: \d+; accuracy: [\d.]+", picture))
    assert found == expected


def test_neither_the_readme_nor_these_pages_have_another_table_of_measured_figures():
    for page in (README, *sorted(worlds.FIGURES.glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for name, file in figures.PAGES.items():
            if file == page.name:
                first, last = figures.marks(name)
                before, _, rest = text.partition(first)
                text = before + rest.partition(last)[2]
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert [row for row in rows if re.search(r"\d\.\d\d", row)] == [], page.name
