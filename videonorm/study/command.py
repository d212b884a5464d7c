"""``videonorm study``: test claims about normalization, each of which ends in a verdict."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videonorm.errors import UserError
from videonorm.messages import did_you_mean, of_file
from videonorm.options import Parser
from videonorm.sweep.command import add_seeds_and_jobs, results_kept

if TYPE_CHECKING:  # heavy: imported where they are used, so that --help answers at once
    from videonorm.study.result import StudyResult

STUDIES = Path("configs/study")
DESCRIPTION = """\
Test what is claimed of normalization. A study (configs/study/NAME.yaml) is a sweep, what its runs record, and
claims about them, each with the statistic that decides it: supported, refuted, equivalent or not decided, and
then how many seeds or videos would. Called again, a study goes on, and ends with the same verdicts.
"""
EXAMPLES = """\
examples:
  videonorm study list
  videonorm study run explosion
  videonorm study run learning_rate --seeds 3 --output runs/learning_rate
  videonorm study run all --quick
  videonorm study report runs/study

a study's folder holds, beside what a sweep's does:
  verdicts.csv   a row for each claim
  measures.csv   the number that each run was reduced to for it
  study.yaml     the study as it was run
  study.html     its page; of all together, it and verdicts.csv stand in the folder above

exit codes:
  0  every claim has its verdict, not decided among them
  1  a study has ended early, or runs have failed by other than divergence, which studies may be about
  2  an option, a study or the output folder cannot be used, or a file cannot be written
  130, 143, 129  stopped by Ctrl-C, SIGTERM, SIGHUP; the same command goes on
"""


def parser() -> argparse.ArgumentParser:
    options = Parser(prog="videonorm study", description=DESCRIPTION, epilog=EXAMPLES)
    commands = options.add_subparsers(dest="command", required=True, metavar="list | run | report")
    commands.add_parser("list", help=f"list the studies of {STUDIES}, and what each costs")
    run = commands.add_parser("run", help="train what a study needs, and decide its claims")
    run.add_argument("study", metavar="NAME|all|FILE", help=f"a study of {STUDIES}, all of them, or a file")
    quick = "with the keys under `quick:` in the sweep's place, and without the runs that no claim is about"
    run.add_argument("--quick", action="store_true", help=quick)
    output = "folder of the study, or of all (default: runs/study/NAME, of --quick runs/study_quick/NAME)"
    run.add_argument("--output", type=Path, metavar="DIR", help=output)
    add_seeds_and_jobs(run, "study")
    report = commands.add_parser("report", help="train nothing: decide and draw again what DIR has come to")
    report.add_argument("folder", type=Path, metavar="DIR", help="of a study, or of several")
    return options


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an option, a study or the output folder cannot be used, or a file cannot be written.
        SystemExit: 1 if a study or a run failed; 128 + the signal's number if it was stopped by one.
    """
    options = parser().parse_args(argv)
    with results_kept():
        if options.command == "list":
            _list()
        elif options.command == "run":
            _run(options)
        else:
            _report(options.folder)


def _list() -> None:
    from videonorm.look import new_console
    from videonorm.study.contrasts import claimed
    from videonorm.study.study_file import read_study, study_plan
    from videonorm.study.terminal import study_table

    studies = [(read_study(file), read_study(file, quick=True)) for file in _files("all")]
    plans = [(study, study_plan(study), claimed(quick, study_plan(quick))) for study, quick in studies]
    new_console().print(study_table(plans))


def _run(options: argparse.Namespace) -> None:
    from videonorm.look import new_console
    from videonorm.study.check import check
    from videonorm.study.contrasts import claimed
    from videonorm.study.run import run_study
    from videonorm.study.study_file import read_study, study_plan

    folder = Path("runs") / ("study_quick" if options.quick else "study")
    studies = [
        read_study(file, quick=options.quick, num_seeds=options.seeds) for file in _files(options.study)
    ]
    if twice := [name for name, count in Counter(study.name for study in studies).items() if count > 1]:
        raise UserError(f"name ({twice[0]}) must be that of one study of {STUDIES}")
    plans = [study_plan(study) for study in studies]
    for study, plan in zip(studies, plans, strict=True):  # all, before any is run
        check(study, plan)
    if options.quick:
        plans = list(map(claimed, studies, plans))
    console, is_all = new_console(), options.study == "all"
    outputs = [
        (options.output or folder) / study.name if is_all else options.output or folder / study.name
        for study in studies
    ]
    done: list[StudyResult] = []
    failed = False
    for study, plan, output in zip(studies, plans, outputs, strict=True):
        if is_all:
            console.print(f"\n{study.name}", style="bold")
        try:
            done.append(run_study(study, plan, output, console, jobs=options.jobs))
        except (UserError, OSError) as error:
            if not is_all:
                raise
            failed = True  # the others may do
            said = of_file(error) if isinstance(error, OSError) else str(error)
            console.print(f"{study.name} has ended early: {said}", style="red", soft_wrap=True)
    if done:
        _show(done, (options.output or folder) if is_all else outputs[0])
    if failed or any(study.failed for study in done):
        raise SystemExit(1)


def _report(folder: Path) -> None:
    from videonorm.study.run import STUDY, conclude

    folders = [folder] if (folder / STUDY).exists() else [path.parent for path in folder.glob(f"*/{STUDY}")]
    if not folders:
        raise UserError(f"DIR ({folder}) must be the folder of a study, or of several")
    _show([conclude(of) for of in sorted(folders)], folder)


def _files(which: str) -> list[Path]:
    """The study files that a name stands for."""
    files = sorted(STUDIES.glob("*.yaml"))
    if which != "all" and (Path(which).suffix or "/" in which):
        return [Path(which)]
    if not files:
        raise UserError(f"{STUDIES} must hold study files; run from a folder that has it, or name a file")
    if which == "all":
        return files
    if which not in (names := [file.stem for file in files]):
        hint = did_you_mean(which, names)
        raise UserError(f"study ({which}) must be all, a file, or one of {', '.join(names)}{hint}")
    return [STUDIES / f"{which}.yaml"]


def _show(studies: Sequence["StudyResult"], output: Path) -> None:
    """Print the verdicts; write those of several studies and the page, and say where it is."""
    from videonorm.look import new_console
    from videonorm.study.page import write_page
    from videonorm.study.run import VERDICTS
    from videonorm.study.terminal import arm_tables, verdict_table
    from videonorm.study.verdicts import write_verdicts

    console = new_console()
    verdicts = [verdict for study in studies for verdict in study.verdicts]
    for study in studies:
        for run in study.failed:
            console.print(f"{study.study.name}/{run.run} failed: {run.error}", style="red", soft_wrap=True)
    if len(studies) == 1:
        for table in arm_tables(studies[0]):
            console.print(table, "")
    console.print(verdict_table(verdicts))
    write_verdicts(output / VERDICTS, verdicts)
    write_page(studies, output / "study.html")
    console.print(f"\npage: {output / 'study.html'}, beside it {VERDICTS}", soft_wrap=True)
