"""A run of a study becomes one number for each claim: out of its row, a recorder's table, or its metrics."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from videonorm.errors import UserError
from videonorm.study.contrasts import Grid, contrast
from videonorm.study.measured import Measured
from videonorm.study.study_file import Claim, Measure, StudyFile
from videonorm.sweep.axes import as_text
from videonorm.sweep.records import read_json
from videonorm.sweep.results import Result

METRICS = "metrics"
OVER: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median, "max": max}


def measure(
    study: StudyFile, grid: Grid, folder: Path, results: Sequence[Result], kept: Iterable[Measured] = ()
) -> list[Measured]:
    """The number of each run and claim, as far as there is one.

    Args:
        grid: the coordinates of its runs.
        folder: of the study, with the run folders.
        results: of its runs that have ended.
        kept: of an earlier time, for runs whose folders are gone.

    Raises:
        UserError: a table is not as a recorder writes it.
    """
    kept = list(kept)
    found: list[Measured | None] = []
    for claim in study.claims:
        known = {of.run: of for of in kept if of.claim == claim.id}
        largest = grid.left_open(claim)
        places = contrast(claim, grid)
        found += [
            measured(claim, folder, result, known)
            for result in results
            if grid.without(grid.place(result), largest) in places
        ]
    return [of for of in found if of]


def measured(claim: Claim, folder: Path, result: Result, kept: Mapping[str, Measured]) -> Measured | None:
    """The number of a run for a claim; where its folder is gone and held it, the one that was kept.

    Args:
        folder: of the study.
        kept: numbers for the claim, by run.
    """
    run, of = folder / Path(result.run).name, claim.measure
    if (of.table or of.time_to is not None) and not run.exists():
        return kept.get(result.run)
    number = of_run(of, run, result)
    return Measured(claim.id, result.run, *number) if number else None


def of_run(of: Measure, run: Path, result: Result) -> tuple[float, bool] | None:
    """The number of a run, and whether that is censored; None without a finite one.

    Args:
        run: its folder.
    """
    if of.largest:
        return (float(result.done), False) if result.done or result.diverged else None
    assert of.column
    if of.time_to is not None:
        return _time_to(of.column, of.time_to, of.side, run, result)
    of_row = getattr(result, of.column, None) if result.done else None
    value = _of_table(of, run, result) if of.table else of_row
    if of.log10:
        value = math.log10(value) if value is not None and value > 0 else None
    return (float(value), False) if value is not None and math.isfinite(value) else None


def _of_table(of: Measure, run: Path, result: Result) -> float | None:
    """Of a run that has failed, what it recorded at a step before is as good as any other's."""
    assert of.table and of.column
    if of.step == "last" and not result.done:
        return None
    rows = rows_with(run / f"{of.table}.csv", [of.column], of.where)
    if not rows:
        return None
    try:
        steps = [int(row["step"]) for row in rows]
        step = {"first": min(steps), "last": max(steps)}.get(str(of.step), of.step)
        values = [float(row[of.column]) for row, at in zip(rows, steps, strict=True) if at == step]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{of.table} ({run / of.table}.csv) must be a table of numbers with the column step: {error}"
        ) from error
    return OVER[of.over](values) if values else None


def _time_to(column: str, target: float, side: str, run: Path, result: Result) -> tuple[float, bool] | None:
    table = run / f"{METRICS}.csv"
    try:
        logged = [(int(row["step"]) + 1, float(row[column])) for row in rows_with(table, [column])]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{METRICS} ({table}) must be a table of numbers with the column step: {error}"
        ) from error
    for step, value in logged:
        if value <= target if side == "below" else value >= target:
            return float(step), False
    if not (result.done or result.diverged) or not logged:
        return None
    budget = result.steps if result.done else read_json(run / "run.json").get("total_steps")
    return (float(budget), True) if budget else None


def rows_with(
    path: Path, columns: Sequence[str], where: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """The rows of a table that have a value of each column, and those that ``where`` says of others.

    A row of metrics.csv has what was logged at its step alone. Without a file there are none.
    """
    if not path.exists():
        return []
    texts = {name: as_text(value) for name, value in (where or {}).items()}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            row
            for row in csv.DictReader(file)
            if all(map(row.get, columns)) and all(row.get(name) == text for name, text in texts.items())
        ]
