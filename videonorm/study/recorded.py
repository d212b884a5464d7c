"""What recorders have written while the runs of a study trained: a table each, in the folders of the runs."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videonorm.errors import UserError
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
    folder: Path, results: Sequence[Result], table: str, columns: Sequence[str]
) -> dict[str, Recorded]:
    """By run, those whose folders have the table, failed ones too.

    Args:
        folder: of the study.
        table: its file's name without .csv.
        columns: of numbers. A run whose table lacks one is left out.

    Raises:
        UserError: it is no table of numbers.
    """
    found = {}
    for result in results:
        path = folder / Path(result.run).name / f"{table}.csv"
        if path.exists() and (of := _read(path, columns)):
            found[result.run] = of
    return found


def _read(path: Path, columns: Sequence[str]) -> Recorded | None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not rows[0].keys() >= {"step", *columns}:
        return None
    try:
        step, *of = (np.array([float(row[name]) for row in rows]) for name in ("step", *columns))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path.stem} ({path}) must be a table of numbers: {error}") from error
    return Recorded(step, dict(zip(columns, of, strict=True)))


def at_steps(table: Recorded, column: str) -> tuple[Floats, Floats]:
    """Its steps, and the mean of the rows of each; steps with one that is not finite are left out."""
    steps = np.unique(table.step)
    means = np.array([table.of[column][table.step == step].mean() for step in steps])
    return steps[np.isfinite(means)], means[np.isfinite(means)]
