"""What can be known to be wrong with a study before anything runs."""

import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from videonorm.errors import UserError
from videonorm.messages import arguments, did_you_mean
from videonorm.study.contrasts import Grid, contrast, naming
from videonorm.study.evidence import least_seeds
from videonorm.study.measures import METRICS
from videonorm.study.study_file import Claim, Measure, StudyFile
from videonorm.sweep.axes import as_number
from videonorm.sweep.plan import Plan
from videonorm.sweep.records import planned
from videonorm.sweep.results import COLUMNS

NUMBERS = [name for name, of in COLUMNS.items() if of.type in (int, float, int | None, float | None)]

Tables = Mapping[str, Sequence[str]]


def check(study: StudyFile, plan: Plan) -> None:
    """Raise UserError for a claim that its sweep and recorders cannot answer.

    Args:
        plan: of its sweep.
    """
    tables = _tables(study.recorders)
    grid = Grid(study.sweep.axes, map(planned, plan.runs))
    for claim in study.claims:
        with naming(study, claim):
            _check_measure(claim.measure, grid, tables)
            _check_cells(claim, grid)
            seeds, least = len(study.sweep.seeds), least_seeds(claim)
            if seeds < least:
                raise UserError(f"seeds ({seeds}) must be at least {least} for statistic {claim.statistic}")


def _check_cells(claim: Claim, grid: Grid) -> None:
    weights = contrast(claim, grid)
    if claim.statistic == "log_rank" and len(weights) > 2:
        varied = [
            name
            for name, texts in zip(grid.names, zip(*weights, strict=True), strict=True)
            if name not in map(grid.name, claim.of) and len(set(texts)) > 1
        ]
        raise UserError(f"of must name {', '.join(varied)} too: log_rank is of two cells")


def _check_measure(of: Measure, grid: Grid, tables: Tables) -> None:
    if of.largest:
        name = grid.name(of.largest)
        values = grid.values(name)
        if not all((as_number(text) or 0) > 0 for text in values) or len(values) < 2:
            raise UserError(f"largest ({name}) must have two values at least, all numbers above 0")
        return
    assert of.column
    if of.table is None:
        if of.time_to is None and of.column not in NUMBERS:
            raise UserError(
                f"column ({of.column}) must be one of results.csv: {', '.join(NUMBERS)}"
                f"{did_you_mean(of.column, NUMBERS)}"
            )
        return
    if of.table == METRICS:  # of which every run decides itself what it logs
        return
    if of.table not in tables:
        given = ", ".join([*tables, METRICS])
        hint = did_you_mean(of.table, tables)
        raise UserError(f"table ({of.table}) must be one that the study's recorders write: {given}{hint}")
    for column in (of.column, *of.where):
        if column not in (columns := tables[of.table]):
            hint = did_you_mean(column, columns)
            raise UserError(f"column ({column}) must be one of {of.table}: {', '.join(columns)}{hint}")


def _tables(recorders: Sequence[Mapping[str, Any]]) -> Tables:
    """The columns of each table that they write, as their classes say in ``tables``."""
    tables: dict[str, Sequence[str]] = {}
    for recorder in recorders:
        path = recorder["class_path"]
        try:
            kind = pkgutil.resolve_name(path)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"recorders ({path}) must be a class that can be imported: {error}") from error
        if not isinstance(kind, type):
            raise UserError(f"recorders ({path}) must be a class that can be imported, not another thing")
        known = arguments(kind)
        for name in recorder.get("init_args") or {}:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UserError(f"recorders ({path}: {name}) must be an argument of it{hint}")
        tables.update(getattr(kind, "tables", {}))
    return tables
