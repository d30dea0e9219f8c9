"""How often the doctor is wrong about models that are drawn at random.

    python benchmarks/doctor_generated.py --models 200 [--first 0] [--no-repair]

Prints each model of which it is wrong, with the number that draws it, and the counts.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import keras
from generated_models import drawn, judged


def main():
    """Draw models, ask the doctor, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--no-repair", action="store_true")
    chosen = parser.parse_args()
    wrong, right, begun = Counter(), Counter(), time.perf_counter()
    for seed in range(chosen.first, chosen.first + chosen.models):
        keras.backend.clear_session()
        made, settings = drawn(seed)
        found = judged(made, repairs=not chosen.no_repair)
        wrong.update(found.wrong)
        if found.right_first is not None:
            right[found.right_first] += 1
        if any(found.wrong.values()) or found.right_first is False:
            print(f"{seed}: {found.wrong} {settings} {found.about}", flush=True)
    for name, count in wrong.items():
        print(f"{name}: {count} of {chosen.models}")
    print(f"right layer first: {right[True]} of {right.total()}")
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
