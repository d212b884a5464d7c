"""What recorders have written while the runs of a study trained: a table each, in the folders of the runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videonorm.errors import UserError
from videonorm.study.measures import OVER, rows_with
from videonorm.study.study_file import Measure
from videonorm.sweep.results import Result

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """Numbers of a recorder's table, of one run; infinite or nan where they were.

    Attributes:
        step: (rows,), from 0 on.
        of: (rows,) each further column that was asked for.
    """

    step: Floats
    of: dict[str, Floats]


def read_recorded(
    folder: Path,
    results: Iterable[Result],
    table: str,
    columns: Sequence[str],
    where: Mapping[str, Any] | None = None,
) -> dict[str, Recorded]:
    """By run, those whose folders have the table, failed ones too.

    Args:
        folder: of the study.
        table: its file's name without .csv.
        columns: of numbers. A row that lacks one is left out, and a run without such rows.
        where: values of other columns that a row must have.

    Raises:
        UserError: it is no table of numbers.
    """
    found = {}
    for result in results:
        path = folder / Path(result.run).name / f"{table}.csv"
        if of := _read(path, columns, where):
            found[result.run] = of
    return found


def _read(path: Path, columns: Sequence[str], where: Mapping[str, Any] | None) -> Recorded | None:
    rows = rows_with(path, ("step", *columns), where)
    if not rows:
        return None
    try:
        step, *of = (np.array([float(row[name]) for row in rows]) for name in ("step", *columns))
    except ValueError as error:
        raise UserError(f"{path.stem} ({path}) must be a table of numbers: {error}") from error
    return Recorded(step, dict(zip(columns, of, strict=True)))


def at_steps(table: Recorded, measure: Measure) -> tuple[Floats, Floats]:
    """The steps of a run, and the number that the rows of each are reduced to, where that is finite."""
    assert measure.column
    of, steps = table.of[measure.column], np.unique(table.step)
    values = np.array([OVER[measure.over](of[table.step == step].tolist()) for step in steps])
    return steps[np.isfinite(values)], values[np.isfinite(values)]
