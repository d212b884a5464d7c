"""``videonorm sweep``: train arm x clip length x batch size x seed, and say what was found."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videonorm.errors import UserError
from videonorm.messages import of_file
from videonorm.options import Parser, positive_integer
from videonorm.sweep.shards import WHOLE, Shard, shard

DESCRIPTION = """\
Train every arm (what `norms:` names in a sweep file) in every shape (clip length and batch size) from every
seed, each run in a process of its own, and write results.csv, plots and report.html. Called again, finished
runs are kept and the others go on from their last checkpoint.
"""
EXAMPLES = """\
examples:
  videonorm sweep -c configs/sweep/quickstart.yaml
  videonorm sweep -c configs/sweep/quickstart.yaml --seeds 3 --output runs/three_seeds
  videonorm sweep -c configs/sweep/kinetics_t_b.yaml --dry_run
  videonorm sweep --report runs/quickstart

beyond one machine:
  videonorm sweep -c FILE --ray HEAD:6379      on a Ray cluster
  videonorm sweep -c FILE --shard 0/2          half of the runs; the other machine gets --shard 1/2
  sbatch --array=0-7 --gpus=1 --wrap 'videonorm sweep -c FILE --shard $SLURM_ARRAY_TASK_ID/8'
  videonorm sweep --report runs/NAME           joins the shards, done or not

All work in one folder, on storage that they share. The same line again goes on with what is missing.
Each takes all cores and GPUs that it sees: of two on one machine --jobs and OMP_NUM_THREADS limit each.

exit codes:
  0  every run is done
  1  runs have failed: they are named, and the report is of the others
  2  an option, the sweep file or the output folder cannot be used, or a file cannot be written
  130, 143, 129  stopped by Ctrl-C, SIGTERM, SIGHUP; the same command goes on
"""


def parser() -> argparse.ArgumentParser:
    options = Parser(prog="videonorm sweep", description=DESCRIPTION, epilog=EXAMPLES)
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", "--config", type=Path, metavar="FILE", help="the sweep file")
    report = "train nothing: gather what DIR's runs have come to, and draw plots and report again"
    what.add_argument("--report", type=Path, metavar="DIR", help=report)
    output = "folder of the sweep (default: runs/NAME)"
    options.add_argument("--output", type=Path, metavar="DIR", help=output)
    add_seeds_and_jobs(options, "sweep file")
    ray = "train as Ray tasks on the cluster at ADDRESS, or on one started here (extra [ray])"
    options.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help=ray)
    part = "train part I of N, counted from 0; all may run at a time, on machines that share the folder"
    options.add_argument("--shard", type=shard, default=WHOLE, metavar="I/N", help=part)
    options.add_argument("--dry_run", action="store_true", help="train nothing: list the runs")
    return options


def add_seeds_and_jobs(options: argparse.ArgumentParser, of: str) -> None:
    """Args:
    of: what says them without these options.
    """
    seeds = f"seeds 0 to N-1, in place of the {of}'s"
    options.add_argument("--seeds", type=positive_integer, metavar="N", help=seeds)
    jobs = f"runs at a time (default: the {of}'s; auto is one a GPU, or one a core without GPUs)"
    options.add_argument("--jobs", type=positive_integer, metavar="N", help=jobs)


@contextmanager
def results_kept() -> Iterator[None]:
    """A file that cannot be written is a UserError, which says that what was trained is not lost."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{of_file(error)}; the results so far are kept, and the same command goes on"
        ) from error


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an option, the sweep file or the output folder cannot be used, or a file cannot be written.
        SystemExit: 1 if a run failed; 128 + the signal's number if the sweep was stopped by one.
    """
    options = parser().parse_args(argv)
    with results_kept():
        _run(options)


def _run(options: argparse.Namespace) -> None:
    if options.report:
        own = (options.output, options.seeds, options.jobs, options.ray, options.dry_run)
        if any(own) or options.shard != WHOLE:
            raise UserError("--report must stand alone")
        _show(options.report)
        return

    from videonorm.look import new_console
    from videonorm.sweep.plan import read_plan
    from videonorm.sweep.stages import run_stages
    from videonorm.sweep.terminal import plan_table

    console = new_console()
    part: Shard = options.shard
    plan = read_plan(options.config, options.seeds)
    if options.dry_run:
        for before, what in (
            (plan.search, "the best trial of each arm settles it in"),
            (plan.pretrain, "the last checkpoint of each is where these start"),
        ):
            if before:
                console.print(plan_table(part.runs(before.runs)), what)
        console.print(plan_table(part.runs(plan.runs)))
        return
    output = options.output or Path("runs") / plan.name
    results = run_stages(plan, output, console, _show, shard=part, jobs=options.jobs, ray=options.ray)
    _show(output)
    if part != WHOLE:
        done = f"{sum(row.done for row in results)} of the sweep's {len(plan.runs)} runs are done"
        console.print(f"{part} has ended; {done}; videonorm sweep --report {output} joins what others add")
    own_runs = {run.name for run in part.runs(plan.runs)}
    if not all(row.done for row in results if row.run in own_runs):
        raise SystemExit(1)


def _show(output: Path) -> None:
    """Print the table and the answer; write the report, and say where it is."""
    from videonorm.look import new_console
    from videonorm.sweep.folder import gather_again
    from videonorm.sweep.locks import REPORT, SECONDS_TO_WAIT, holding
    from videonorm.sweep.report import read_sweep, write_report
    from videonorm.sweep.tables import as_rich

    gather_again(output)
    sweep = read_sweep(output)
    console = new_console()
    if sweep.cells:
        console.print(as_rich(sweep.cells))
    for result in sweep.results:
        if not result.done:
            console.print(f"{result.run} failed: {result.error}", style="red", soft_wrap=True)
    console.print(f"\n{sweep.answer.headline}", style="bold")
    for sentence in sweep.answer.details:
        console.print(f"- {sentence}")
    with holding(output / REPORT, SECONDS_TO_WAIT):  # of shards that end together, the last draws all
        write_report(output)  # after the answer is out, should the disk be full
    beside = [name for name in ("results.csv", "results.md", "summary.png") if (output / name).exists()]
    console.print(f"\nreport: {output / 'report.html'}, beside it {', '.join(beside)}", soft_wrap=True)
