import io

from bench.made_up_comparisons import layer, results
from rich.console import Console

from batchnorm_mechanics.bench.markdown import page
from batchnorm_mechanics.bench.tables import print_results
from batchnorm_mechanics.bench.wording import best_of


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


def test_a_busy_machine_is_named():
    found = results(layer())
    assert "busy" not in page(found)
    found.machine["load"] = 2.0
    assert "The machine was busy at the start (load 2.0)" in page(found)
