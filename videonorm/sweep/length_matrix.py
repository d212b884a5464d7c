"""Models tested at other clip lengths than they were trained at, from the scores of their runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videonorm.sweep.cells import Cell, with_result
from videonorm.sweep.scores import RunScores, Scores, Views

Length = tuple[int, int]  # T, stride


@dataclass(frozen=True)
class AtLengths:
    """Top-1 of a cell's models, mean over its seeds, by the clips they were tested with.

    Args:
        cell: the cell.
        equal_views: with as many clips and crops a video as in the runs' own validation, by T x stride.
        equal_frames: at its own T x stride, with as many frames a video as all other cells; None if untested.
    """

    cell: Cell
    equal_views: dict[Length, float]
    equal_frames: float | None


@dataclass(frozen=True)
class LengthMatrix:
    """All cells whose models were tested at several lengths.

    Attributes:
        frames: of a video, in ``AtLengths.equal_frames``; None where no number is common to all cells.
    """

    cells: list[AtLengths]
    frames: int | None

    @property
    def lengths(self) -> list[Length]:
        return sorted({length for of in self.cells for length in of.equal_views})

    def of(self, cell: Cell) -> AtLengths | None:
        return next((found for found in self.cells if found.cell is cell), None)


def length_matrix(cells: Sequence[Cell], scores: Scores) -> LengthMatrix | None:
    """What the cells' runs scored at each length; None where none was tested at another than its own."""
    tested: list[tuple[Cell, dict[Views, float], Views]] = []
    for cell in with_result(cells):
        runs = [scores.runs[result.run] for result in cell.done if result.run in scores.runs]
        if len(runs) == len(cell.done):
            tested.append((cell, _means(runs), runs[0].tests[0]))
    totals = [
        {
            view.num_frames * view.num_clips
            for view in top1
            if view[:2] == own[:2] and view.num_crops == own.num_crops
        }
        for _, top1, own in tested
    ]
    common = set.intersection(*totals) if totals else set()
    # What is the same for all anyway is their own validation.
    frames = max(common) if common and len({own.num_frames for *_, own in tested}) > 1 else None
    found = []
    for cell, top1, own in tested:
        alike = {view[:2]: value for view, value in top1.items() if view[2:] == own[2:]}
        equal = [
            value
            for view, value in top1.items()
            if view[:2] == own[:2]
            and view.num_crops == own.num_crops
            and view.num_frames * view.num_clips == frames
        ]
        found.append(AtLengths(cell, alike, equal[0] if equal else None))
    if all(len(of.equal_views) < 2 and of.equal_frames is None for of in found):
        return None
    return LengthMatrix(found, frames)


def _means(runs: Sequence[RunScores]) -> dict[Views, float]:
    """Mean top-1 over videos and seeds, by the views that every run was scored with."""
    means: dict[Views, list[float]] = {}
    for run in runs:
        for view, top1 in zip(run.tests, run.top1, strict=True):
            if not np.isnan(top1).all():  # a view that could not be taken
                means.setdefault(view, []).append(float(np.nanmean(top1)))
    return {view: float(np.mean(of)) for view, of in means.items() if len(of) == len(runs)}
