"""A table that a training writes: a CSV file with rows by optimizer step, with which a run goes on."""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videonorm.files import open_new

SECONDS_BETWEEN_SAVES = 10.0


class StepTable:
    """Rows that each have a ``step``. What is not finite is written as such: inf, nan.

    Args:
        path: the file. It is there once there are rows, and holds all of them after ``save``.
        columns: those that come first, in this order. Others that rows have follow by name.
        resume: keep the rows that are there; see ``drop_from``.
    """

    def __init__(self, path: Path, columns: Sequence[str], resume: bool = False) -> None:
        self.path, self.columns = path, columns
        self.rows: list[dict[str, Any]] = []
        """Those of this session."""
        self._kept: list[dict[str, Any]] = []
        self._saved = time.monotonic()
        if resume and path.exists():
            with open(path, newline="") as file:
                self._kept = list(csv.DictReader(file))

    def drop_from(self, step: int) -> None:
        """Leave out the rows of an earlier session from this step on, which comes once more."""
        self._kept = [row for row in self._kept if int(row["step"]) < step]

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))

    def save_now_and_then(self) -> None:
        """Save what has not been for a while: all rows are written anew."""
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        rows = self._kept + self.rows
        if not rows:
            return
        others = sorted({name for row in rows for name in row} - set(self.columns))
        with open_new(self.path) as file:
            writer = csv.DictWriter(file, [*self.columns, *others])
            writer.writeheader()
            writer.writerows(rows)
        self._saved = time.monotonic()
