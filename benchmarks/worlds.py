"""Our layer beside Keras's and torch's at 40 shapes and in whole networks, with oneDNN and without.

python benchmarks/worlds.py run       measure both worlds and write benchmarks/records/
python benchmarks/worlds.py page      write benchmarks/worlds.md from the records
python benchmarks/worlds.py figures   print the measured figures of docs/how from all records
"""

import argparse
import ast
import logging
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import figures
import worlds_record as records

from batchnorm_mechanics._io.files import write_atomically

PAGE = Path(__file__).parent / "worlds.md"
FIGURES = Path(__file__).parents[1] / "docs" / "how"


def main(arguments=None):
    """Run a sub-command; the exit code is 1 if a contestant was refused or a world failed."""
    options = parser().parse_args(arguments)
    return options.command(options)


def parser():
    """Return what reads the command line."""
    summary, _, commands = __doc__.partition("\n\n")
    top = argparse.ArgumentParser(
        description=summary, epilog=commands, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subs = top.add_subparsers(required=True, metavar="run|page|figures")
    run = subs.add_parser("run", help="measure")
    run.add_argument("--world", choices=(*records.WORLDS, "both"), default="both")
    measure = subs.add_parser("measure", help="measure in this process; `run` starts it")
    measure.add_argument("--world", choices=records.WORLDS, required=True)
    for one, command in ((run, run_worlds), (measure, measure_world)):
        one.add_argument("--part", choices=(*records.PARTS, "all"), default="all")
        one.add_argument("--quick", action="store_true", help="little of it, to see it work")
        one.add_argument(
            "--shapes", nargs="+", type=_shape, metavar="N,C", help="such as 60,100 (layers alone)"
        )
        one.add_argument(
            "--networks", nargs="+", metavar="NAME", help="some networks, by parts of their names"
        )
        one.add_argument(
            "--records",
            type=Path,
            help="folder to write to; benchmarks/records, or a temporary one where only some of it "
            "is measured",
        )
        one.set_defaults(command=command)
    page = subs.add_parser("page", help="write the page")
    shown = subs.add_parser("figures", help="print the measured figures of docs/how")
    shown.add_argument("--write", action="store_true", help="put them between their marks there")
    page.add_argument("--to", type=Path, default=PAGE)
    for one, command in ((page, write_page), (shown, write_figures)):
        one.add_argument("--records", type=Path, default=records.FOLDER)
        one.set_defaults(command=command)
    return top


def _shape(text):
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        found = None
    if not isinstance(found, tuple) or not all(isinstance(one, int) and one > 0 for one in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write it like 60,100")
    return found


def run_worlds(options):
    """Measure each world in a process of its own: TensorFlow decides once, when it is imported."""
    worlds = list(records.WORLDS) if options.world == "both" else [options.world]
    partial = bool(options.quick or options.shapes or options.networks)
    # Some of the shapes must not take the place of all in the records.
    folder = options.records or (
        Path(tempfile.gettempdir()) / "worlds-records" if partial else records.FOLDER
    )
    command = [sys.executable, __file__, "measure", "--part", options.part]
    command += ["--records", str(folder), *(["--quick"] if options.quick else [])]
    if options.shapes:
        command += ["--shapes", *(",".join(map(str, shape)) for shape in options.shapes)]
    if options.networks:
        command += ["--networks", *options.networks]
    failed = False
    for world in worlds:
        done = subprocess.run(
            [*command, "--world", world], env=environment(world), check=False, stdout=sys.stderr
        )
        failed |= done.returncode != 0
    from worlds_page import summary

    for world in worlds:
        print(f"oneDNN {world}: {records.path(folder, world)}")
        print("\n".join(summary(records.read(folder, world))))
    return int(failed)


def environment(world):
    """Return the variables that a world's process starts with."""
    return {
        **os.environ,
        "TF_ENABLE_ONEDNN_OPTS": records.WORLDS[world],
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # torch's and oneDNN's idle threads would spin into the next contestant's turn.
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }


def measure_world(options):
    """Measure the parts asked for, and write the record after every case."""
    from hardware import describe, limit_process

    # Before TensorFlow, which counts the cores at its start.
    limit_process()
    machine = describe()
    if machine["onednn"] != (options.world == "on"):
        raise SystemExit(
            f"worlds: TensorFlow did not take TF_ENABLE_ONEDNN_OPTS for {options.world}"
        )
    parts = records.PARTS if options.part == "all" else (options.part,)
    # TensorFlow advises to trace less often, but here each shape is traced on purpose.
    logging.getLogger("tensorflow").addFilter(
        lambda record: "triggered tf.function retracing" not in record.getMessage()
    )
    return int(sum(_measure_part(part, options, machine) for part in parts) > 0)


def _measure_part(part, options, machine):
    start = time.perf_counter()

    def report(message):
        seconds = time.perf_counter() - start
        print(f"[oneDNN {options.world}, {seconds:5.0f} s] {message}", file=sys.stderr, flush=True)

    record = records.read(options.records, options.world)
    found = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine,
        "finished": False,
        "seconds": 0,
        "cases": [],
    }
    record[part] = found
    for case in _cases(part, options, report):
        found["cases"].append(case)
        found["seconds"] = round(time.perf_counter() - start)
        records.write(options.records, options.world, record)
        for name, reason in case["refused"].items():
            report(f"refused {name}: {reason}")
    found["finished"] = True
    records.write(options.records, options.world, record)
    return sum(len(case["refused"]) for case in found["cases"])


def _cases(part, options, report):
    if part == records.LAYERS:
        import worlds_layers as layers

        shapes = options.shapes or (layers.QUICK_SHAPES if options.quick else layers.SHAPES)
        return layers.measure(shapes, layers.QUICK_PLAN if options.quick else layers.PLAN, report)
    import networks

    chosen = networks.named(options.networks or (["dense"] if options.quick else [""]))
    plan = networks.QUICK_PLAN if options.quick else networks.PLAN
    return networks.measure(chosen, plan, report)


def write_page(options):
    """Write the page from the records."""
    from worlds_page import page

    write_atomically(options.to, page(_all(options.records)))
    return 0


def write_figures(options):
    """Print the measured figures of docs/how, or put them between their marks."""
    found = figures.texts(options.records)
    if options.write:
        for page, text in figures.put(FIGURES, found).items():
            write_atomically(page, text)
    else:
        print("\n\n".join(found.values()))
    return 0


def _all(folder):
    missing = [
        str(file)
        for file in (records.path(folder, one) for one in records.WORLDS)
        if not file.exists()
    ]
    if missing:
        raise SystemExit(f"worlds: no {' and no '.join(missing)}. Run `worlds.py run` first.")
    return {world: records.read(folder, world) for world in records.WORLDS}


if __name__ == "__main__":
    sys.exit(main())
