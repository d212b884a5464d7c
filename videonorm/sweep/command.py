"""``videonorm sweep``: train norm x clip length x batch size x seed, and say what was found."""

import argparse
from pathlib import Path

from videonorm.errors import UserError

DESCRIPTION = """\
Train every cell of norm x clip length x batch size x seed that a sweep file asks for, each in a process of
its own, and write results.csv, plots and report.html. Run again, finished cells are kept and the others go on
from their last checkpoint.
"""
EXAMPLES = """\
examples:
  videonorm sweep -c configs/sweep/quickstart.yaml
  videonorm sweep -c configs/sweep/quickstart.yaml --seeds 3 --output runs/three_seeds
  videonorm sweep -c configs/sweep/kinetics_t_b.yaml --dry-run
  videonorm sweep --report runs/quickstart
"""


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="videonorm sweep",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", "--config", type=Path, metavar="FILE", help="the sweep file")
    what.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="run nothing: draw plots and report again from DIR/results.csv",
    )
    options.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the sweep (default: runs/NAME)"
    )
    options.add_argument(
        "--seeds", type=int, metavar="N", help="seeds 0 to N-1, in place of the sweep file's"
    )
    options.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="cells at a time (default: the sweep file's; auto is one a GPU, or one a core without GPUs)",
    )
    options.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run the cells as Ray tasks on the cluster at ADDRESS, or on one started here (extra [ray])",
    )
    options.add_argument("--dry-run", action="store_true", help="run nothing: list the cells")
    return options


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an option, the sweep file or the output folder cannot be used.
        SystemExit: 1 if a cell failed.
    """
    options = parser().parse_args(argv)
    if options.report and any((options.output, options.seeds, options.jobs, options.ray, options.dry_run)):
        raise UserError("--report must stand alone")
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs ({options.jobs}) must be at least 1")

    from videonorm.sweep.plan import read_plan
    from videonorm.sweep.run import run_sweep
    from videonorm.sweep.terminal import new_console, plan_table

    if options.report:
        _show(options.report)
        return
    console = new_console()
    plan = read_plan(options.config, options.seeds)
    if options.dry_run:
        console.print(plan_table(plan))
        return
    output = options.output or Path("runs") / plan.name
    try:
        results = run_sweep(plan, output, console, jobs=options.jobs, ray=options.ray)
    except KeyboardInterrupt:
        console.print("\nStopped. The same command goes on from here.")
        raise
    _show(output)
    if not all(result.done for result in results):
        raise SystemExit(1)


def _show(output: Path) -> None:
    """Write the report; print the table, the answer and where the files are."""
    from rich.text import Text

    from videonorm.sweep.report import write_report
    from videonorm.sweep.results import read_results, summarize
    from videonorm.sweep.terminal import new_console, results_table

    found = write_report(output)
    results = read_results(output / "results.csv")
    console = new_console()
    if results:
        console.print(results_table(summarize(results)))
    for result in results:
        if not result.done:
            console.print(Text(f"{result.run} failed: {result.error}", "red"), soft_wrap=True)
    console.print(Text(f"\n{found.headline}", "bold"))
    for sentence in found.details:
        console.print(Text(f"- {sentence}"))
    console.print()
    for file in ("report.html", "results.csv", "summary.png"):
        if (output / file).exists():
            console.print(Text(str(output / file)), soft_wrap=True)
