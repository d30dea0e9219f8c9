"""pyperf's runner as every `bench_*.py` uses it."""

import os
import sys

import pyperf
from hardware import ONE_DNN, limit_process, versions

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly


class Runner:
    """Time functions and commands, each in processes of its own, on the same two cores.

    A benchmark whose process fails, as one does that refuses its contestant, is left out. The
    others are timed all the same, and `finish` ends with exit code 1.

    Args:
        options: of `pyperf.Runner`; the command line has precedence.
    """

    def __init__(self, **options):
        limit_process()
        installed = {name: version for name, version in versions().items() if version is not None}
        settings = {"onednn_set_by": os.environ.get(ONE_DNN, "the processor")}
        # One loop: what is timed here takes long enough, and calibration would be a process more.
        self._runner = pyperf.Runner(loops=1, metadata={**installed, **settings}, **options)
        # What TensorFlow is set to must reach the processes that are timed.
        self._runner.argparser.set_defaults(copy_env=True)
        self._failed = False

    def time(self, name, function, *arguments, **options):
        """Time a function.

        Args:
            name: as tables show it.
            function: called with a number of loops and the arguments; returns seconds.
            arguments: for it.
            options: of `pyperf.Runner.bench_time_func`.
        """

        def quietly(loops):
            import_tensorflow_quietly()
            return function(loops, *arguments)

        self._run(self._runner.bench_time_func, name, quietly, **options)

    def command(self, name, *arguments):
        """Time this Python with arguments, from the start of its process to the end."""
        self._run(self._runner.bench_command, name, [sys.executable, *arguments])

    def _run(self, bench, name, *arguments, **options):
        try:
            bench(name, *arguments, **options)
        except RuntimeError as error:
            if self._runner.args.worker:
                raise
            # The process has said on standard error what was wrong.
            print(f"\n{name}: left out: {error}", file=sys.stderr)
            self._failed = True
            # pyperf counts only what succeeded, and its processes would begin with this one again.
            # It has no public way to leave a benchmark out, and no public name for its count.
            self._runner._worker_task += 1

    def finish(self):
        """End the process: with exit code 1 if anything was left out."""
        sys.exit(self._failed)
