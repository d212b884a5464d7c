"""A study is run: its sweep trained, its claims decided. Called again, it goes on, and decides the same."""

from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from videonorm import files
from videonorm.errors import UserError
from videonorm.study.claims import verdict
from videonorm.study.contrasts import Grid
from videonorm.study.measured import read_measures, write_measures
from videonorm.study.measures import measure
from videonorm.study.result import StudyResult
from videonorm.study.study_file import StudyFile, read_study
from videonorm.study.verdicts import write_verdicts
from videonorm.sweep.folder import gather_again
from videonorm.sweep.plan import Plan
from videonorm.sweep.records import read_json
from videonorm.sweep.report import write_report
from videonorm.sweep.results import read_results
from videonorm.sweep.scores import gather
from videonorm.sweep.stages import run_stages
from videonorm.sweep.tables import made_on

STUDY, MEASURES, VERDICTS = "study.yaml", "measures.csv", "verdicts.csv"  # in a study's folder


def run_study(
    study: StudyFile, plan: Plan, output: Path, console: Console, *, jobs: int | None = None
) -> StudyResult:
    """Train what is not done yet, and decide every claim.

    Args:
        plan: of its runs; see ``study_plan``.
        output: folder of the study.
        jobs: runs at a time, in place of the sweep's.

    Raises:
        UserError, OSError, Stopped: as ``videonorm.sweep.run.run_sweep``.
    """
    kept = yaml.safe_dump(study.values, sort_keys=False, allow_unicode=True)
    if not (output / STUDY).exists():  # else what is there may be another's, which the sweep finds out
        files.write(output / STUDY, kept)
    run_stages(plan, output, console, write_report, jobs=jobs)
    files.write(output / STUDY, kept)
    return conclude(output)


def conclude(folder: Path) -> StudyResult:
    """Decide a study by what its runs have come to, and write its tables and the report of its sweep.

    Raises:
        UserError: the folder is not a study's, or a file in it cannot be read.
        OSError: a file cannot be written.
    """
    study = read_study(folder / STUDY)
    gather_again(folder)
    results = read_results(folder / "results.csv")
    scores = gather(folder, results)
    table = folder / MEASURES
    about = read_json(folder / "sweep.json")
    try:
        grid = Grid(study.sweep.axes, about["runs"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'sweep.json'} must be as a sweep writes it: {error}") from error
    measures = measure(study, grid, folder, results, read_measures(table) if table.exists() else ())
    made = "; ".join(map(made_on, about.get("origins", [])))
    verdicts = [
        replace(verdict(study, claim, grid, results, measures, scores), made_on=made)
        for claim in study.claims
    ]
    write_measures(table, measures)
    write_verdicts(folder / VERDICTS, verdicts)
    write_report(folder)
    return StudyResult(study, folder, results, measures, verdicts)
