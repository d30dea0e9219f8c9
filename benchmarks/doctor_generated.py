"""How often the doctor is wrong about models that are drawn at random.

    python benchmarks/doctor_generated.py --models 200 [--first 0] [--no-repair]

Prints each model of which it is wrong, with the number that draws it, and the counts.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import keras
from generated_models import BATCH, LARGE, NOTHING, distance, drawn

import batchnorm_mechanics as bnm


def judged(seed, *, repairs):
    """Return by name what came of one model: None where it was not asked."""
    made, settings = drawn(seed)
    apart, chance = distance(made.model, made.x)
    diagnosis = bnm.diagnose(made.model, made.x, batch_size=BATCH)
    found = diagnosis.findings
    loud = [one for one in found if one.severity != "note"]
    # A wandering flag and dropout parts modes otherwise than by statistics.
    parts = [one for one in loud if one.code not in ("BN107", "BN202")]
    results = {
        "missed": apart > LARGE * 1.2 and not loud,
        "false alarm": apart < NOTHING and bool(parts),
    }
    if made.spoilt and apart > LARGE and not made.unlike and not made.drops:
        results["right first"] = bool(parts) and parts[0].layer.rpartition("/")[2] == made.spoilt
    if repairs:
        done = bnm.repair(made.model, made.x, batch_size=BATCH)
        after, _ = distance(done.model, made.x)
        results["made worse"] = after > 1.02 * apart + 0.02
        results["left"] = after > LARGE * 1.2 and not [
            one for one in done.after.findings if one.severity != "note"
        ]
        settings["after"] = round(after, 3)
    told = ", ".join(f"{one.code} {one.layer}" for one in loud)
    measured = {name: round(value, 3) for name, value in diagnosis.measures.items()}
    settings |= {"apart": round(apart, 3), "chance": round(chance, 3), "found": told} | measured
    return results, settings | {"spoilt": made.spoilt}


def main():
    """Draw models, ask the doctor, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--no-repair", action="store_true")
    chosen = parser.parse_args()
    counts, asked, begun = {}, {}, time.perf_counter()
    for seed in range(chosen.first, chosen.first + chosen.models):
        keras.backend.clear_session()
        results, about = judged(seed, repairs=not chosen.no_repair)
        for name, is_so in results.items():
            asked[name] = asked.get(name, 0) + 1
            counts[name] = counts.get(name, 0) + is_so
            if is_so != (name == "right first"):
                print(f"{seed}: {name}: {about}", flush=True)
    for name, of in asked.items():
        print(f"{name}: {counts[name]} of {of}")
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
