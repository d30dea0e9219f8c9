"""What the README says was measured is what the records say."""

import copy
import json
import re

import pytest
import readme
import worlds
import worlds_record

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
    names = [name for pair in readme._STATISTICS.values() for name in pair if name is not None]
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
    text = readme.studies(results())
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
    assert readme.accuracy(ACCURACY).splitlines()[2:] == [
        "| 0 | 6.8e-07 | 2.0e-06 |",
        "| 10,000 | 1.0 | 5.4 |",
    ]


@pytest.fixture
def folder(tmp_path):
    for world in worlds_record.WORLDS:
        worlds_record.write(tmp_path, world, {"world": world, **copy.deepcopy(WORLD)})
    (tmp_path / readme.STUDIES).write_text(json.dumps(results()))
    (tmp_path / readme.ACCURACY).write_text(json.dumps(ACCURACY))
    return tmp_path


def test_the_readme_is_changed_between_its_marks_alone(folder, monkeypatch):
    file = folder / "README.md"
    monkeypatch.setattr(worlds, "README", file)
    found = readme.texts(folder)
    assert set(found) == {"speed", "studies", "accuracy"}

    def page(texts):
        return "".join(
            f"before {name}\n<!-- {name} -->\n{text}\n<!-- /{name} -->\nafter\n"
            for name, text in texts.items()
        )

    file.write_text(page(dict.fromkeys(found, "old")))
    assert worlds.main(["readme", "--write", "--records", str(folder)]) == 0
    assert file.read_text() == page(found)
    file.write_text("no marks\n")
    with pytest.raises(SystemExit, match=re.escape("<!-- speed -->")):
        worlds.main(["readme", "--write", "--records", str(folder)])
    assert file.read_text() == "no marks\n"


def test_without_a_record_the_readme_is_not_written(folder):
    (folder / readme.STUDIES).unlink()
    with pytest.raises(SystemExit, match=r"^worlds: no .*studies\.json\. `readme\.py` says what"):
        worlds.main(["readme", "--records", str(folder)])


def test_the_readme_says_what_the_records_say():
    text = worlds.README.read_text(encoding="utf-8")
    assert readme.put(text, readme.texts(worlds_record.FOLDER)) == text


def test_the_readme_s_picture_shows_the_accuracies_of_the_record():
    picture = (worlds.README.parent / "docs" / "reproduce.svg").read_text(encoding="utf-8")
    record = json.loads((worlds_record.FOLDER / readme.STUDIES).read_text(encoding="utf-8"))
    shown = [study for study in record["studies"] if not study["settings"]["track_inputs"]]
    assert len(shown) == 11
    expected = {
        f"study: {study['name']}; batches: {study['steps']}; seed: {run['seed']}; "
        f"accuracy: {run['test']:.2f}"
        for study in shown
        for run in study["runs"]
    }
    found = set(re.findall(r"study: \S+; batches: \d+; seed: \d+; accuracy: [\d.]+", picture))
    assert found == expected


def test_the_readme_has_no_other_table_of_measured_figures():
    text = worlds.README.read_text(encoding="utf-8")
    for name in readme.texts(worlds_record.FOLDER):
        first, last = readme.marks(name)
        before, _, rest = text.partition(first)
        text = before + rest.partition(last)[2]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row for row in rows if re.search(r"\d\.\d", row)] == []
