import io

import pytest
from bench.made_up_comparisons import layer, results
from rich.console import Console

from batchnorm_mechanics.bench.markdown import page
from batchnorm_mechanics.bench.tables import print_results
from batchnorm_mechanics.bench.wording import best_of, notes


def printed(found):
    out = io.StringIO()
    print_results(found, Console(file=out, width=80))
    return out.getvalue()


def test_the_tables_fit_80_columns_with_the_ratios_in_front():
    samples = {
        name: [123.456e-3, 120e-3, 130e-3]
        for name in (
            *("ours", "ours, XLA", "Keras", "Keras, XLA", "tf_keras"),
            *("torch, channels last", "torch, channels first", "flax"),
        )
    }
    text = printed(results(layer(samples=samples, case="(64, 112, 112, 64)")))
    assert max(len(line) for line in text.splitlines()) <= 80
    row = next(line for line in text.splitlines() if "(64, 112, 112, 64)" in line)
    assert row.split()[0] == "1.00x"


def test_torch_has_its_faster_layout_and_a_star_says_which():
    assert best_of(layer(), "torch") == "torch, channels first"
    text = printed(results(layer()))
    row = next(line for line in text.splitlines() if "(64, 56, 56, 64)" in line)
    assert row.split()[:2] == ["5.0x", "2.0x*"]
    assert row.split()[-3:] == ["30", "ms", "0.70"]


def test_a_refused_contestant_and_its_reason_are_shown():
    refused = layer(samples={"Keras": [0.1]}, refused={"ours": "y is off by 1"})
    for text in (printed(results(refused)), page(results(refused))):
        assert "ours at (64, 56, 56, 64), forward + backward: y is off by 1" in text


def test_the_page_names_machine_versions_date_command_and_spread():
    text = page(results(layer()))
    for expected in (
        "Made-up 9000",
        "tensorflow 2.21.0",
        "2026-01-02 03:04 UTC",
        "`bnm bench layer --repeats 3 --write benchmarks/README.md`",
        "30 ms (29 ms to 31 ms)",
        "Not installed: torch",
    ):
        assert expected in text
    assert "Interrupted" not in text
    assert "Interrupted" in page(results(layer(), finished=False))


def test_the_limit_is_shown_by_its_name_with_its_own_time():
    found = results(layer(), layer(case="(60, 100)", floor=None))
    text = printed(found)
    (line,) = [line for line in text.splitlines() if "limit: two passes over memory" in line]
    assert line.split("memory")[1].strip() == "21 ms (20.5 ms to 21.5 ms)"
    rows = [line for line in page(found).splitlines() if line.startswith("|")]
    (header,) = [row for row in rows if "limit: two passes over memory" in row]
    column = header.split(" | ").index("limit: two passes over memory")
    medians = rows[rows.index(header) + 2 :]
    assert [row.split(" | ")[column] for row in medians] == ["21 ms (20.5 ms to 21.5 ms)", "-"]


def test_a_table_without_a_limit_does_not_mention_one():
    found = results(layer(floor=None))
    assert "two passes over memory" not in printed(found).split("Training mode")[0]
    assert "limit: two passes" not in page(found)


@pytest.mark.parametrize("part", ["layer", "model", "study"])
def test_each_part_says_what_its_limit_is(part):
    assert any(note.startswith("of limit: the time of") for note in notes(part))
    text = printed(results(layer(part=part)))
    assert "of limit: the time of" in text


def test_the_part_of_the_study_fits_80_columns():
    def study(case, measure, **changes):
        samples = {
            name: [1.23456, 1.2, 1.3] for name in ("compiled", "fit", "fit, 128 steps at once")
        }
        return layer(
            part="study", case=case, measure=measure, ours="compiled", samples=samples, **changes
        )

    text = printed(
        results(
            study("keras-916, 916 steps", "later epoch", limit="matrix products"),
            study("batch of 10,000", "step", limit="matrix products"),
            study("4 seeds", "runs", floor=None),
        )
    )
    assert max(len(line) for line in text.splitlines()) <= 80
    assert any("batch of 10,000" in line and "1.23 s" in line for line in text.splitlines())


def test_a_busy_machine_is_named():
    found = results(layer())
    assert "busy" not in page(found)
    found.machine["load"] = 2.0
    assert "The machine was busy at the start (load 2.0)" in page(found)
