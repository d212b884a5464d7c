"""``videonorm bench all``: what tells most of a GPU, in the minutes that there are, and a summary of it.

For whoever has a new GPU and wants to know whether videonorm keeps its promises there, and for a report of
what went wrong. The stages below run one after the other, each in a process of its own: a benchmark, the
tests, a sanitizer. Each has its share of the time that is left, by its weight among those still to come, and
is ended with all that it has started when that is over; what it wrote until then stays and counts. A stage
that cannot run here is skipped, one that fails costs only itself; the summary says why.

In the folder are then summary.json, all stages and goals and what they were made on, and for each stage
NAME.log, what it printed, and NAME.csv, its results, or NAME.csv.partial where it was ended. The same command
again keeps the stages that are done and begins the others again; one that was ended at its limit only if it
has a quarter more time now.

On a CPU the stages that need a GPU are skipped, and the others run with tiny shapes: for a try.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videonorm.bench import here
from videonorm.bench.goals import GOALS
from videonorm.bench.options import add_device
from videonorm.bench.runner import Runner
from videonorm.bench.stages import new_stages
from videonorm.bench.summary import Summary
from videonorm.errors import UserError
from videonorm.files import NO_LOCKS, hold
from videonorm.interruption import stops
from videonorm.messages import counted, of_file
from videonorm.options import Parser, positive_number

RESERVED_SECONDS = 3.0  # for the end of the last stage, and for the summary


def parser() -> Parser:
    summary, _, details = (__doc__ or "").replace("``", "`").partition("\n\n")
    stages = new_stages(Path("DIR"), "cuda")
    width = max(len(stage.name) for stage in stages)
    lines = "\n".join(f"    {stage.name:{width}}  {stage.about}" for stage in stages)
    goals = "\n".join(f"    {goal.name}: {goal.asked} {goal.bound:g}" for goal in GOALS)
    epilog = f"{details}\nStages, in the order of their worth:\n\n{lines}\n\nGoals:\n\n{goals}"
    options = Parser(prog="videonorm bench all", description=summary, epilog=epilog)
    text = "that it takes at most, with the summary (default: %(default)g)"
    options.add_argument("--minutes", type=positive_number, default=10.0, metavar="M", help=text)
    folder = Path("runs") / "bench" / "all"
    text = "a folder of its own for the results (default: %(default)s)"
    options.add_argument("--out", type=Path, default=folder, metavar="DIR", help=text)
    add_device(options)
    names = [stage.name for stage in stages]
    text = "only these stages (default: all)"
    options.add_argument("--stage", nargs="+", choices=names, default=names, metavar="NAME", help=text)
    return options


def run(options: argparse.Namespace) -> None:
    """Run the stages and sum them up.

    Raises:
        UserError: the device is not there, or the folder is another run's.
        Stopped: by Ctrl-C or SIGTERM.
        SystemExit: with exit code 1, a stage has failed.
    """
    begin, seconds = time.monotonic(), 60 * options.minutes - RESERVED_SECONDS
    with _holding(options.out) as keep_open:
        with stops("nothing was measured"):
            print(f"looking at the device ({options.device})", flush=True)
            device, environment, made_on = here.ask(options.device, max(1.0, seconds))
        stages = new_stages(options.out, device)
        asked = [stage for stage in stages if stage.name in options.stage]
        summary = Summary(options.out, made_on, stages, device == "cuda")
        runner = Runner(summary, begin, seconds, environment, keep_open)
        with stops(f"{summary.path} has what there is, and the same command goes on"):
            summary.write()
            what = f"{counted(len(asked), 'stage')} in {options.minutes:g} minutes on {made_on['device']}"
            tiny = ", without a GPU: tiny shapes, for a try" if device == "cpu" else ""
            print(f"{what}{tiny}; results in {options.out}\n")
            runner.tell_plan(asked)
            try:
                runner.run(asked)
            finally:
                summary.show()
    if any(summary.outcomes[stage.name].status == "failed" for stage in asked):
        sys.exit(1)


@contextmanager
def _holding(out: Path) -> Iterator[Sequence[int]]:
    """Be the only one to work in a folder, with the processes that keep open what this gives."""
    try:
        lock = hold(out / ".lock")
    except BlockingIOError as error:
        raise UserError(f"--out ({out}) {error.strerror}: wait for it, or give another folder") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            what = of_file(error)
            raise UserError(f"--out ({out}) must be a folder that can be written: {what}") from error
        yield ()
        return
    with lock:
        yield (lock.fileno(),)
