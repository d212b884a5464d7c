"""Learning curves: what the runs logged while they trained, read from their folders and drawn.

Each figure has a panel for each shape and a line for each cell, the mean of its seeds; single seeds are thin.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from videonorm.errors import UserError
from videonorm.look import PERCENT, STYLE
from videonorm.sweep.cells import Cell, strides_differ, with_result
from videonorm.sweep.plots import Drawing, panel_grid
from videonorm.sweep.results import Result

LOSS, TOP1 = "train/loss", "val/top1"  # columns of metrics.csv
SMOOTHED = 20  # the loss of a batch is noise: it is averaged over a run's length / SMOOTHED

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps done, values
Curves = Mapping[str, Mapping[str, Curve]]  # run -> column of metrics.csv -> curve


def read_curves(output: Path, results: Sequence[Result]) -> dict[str, dict[str, Curve]]:
    """Curves of the runs that are done, of those whose folders are there.

    Raises:
        UserError: a metrics.csv is not as `videonorm fit` writes it.
    """
    tables = {result.run: output / Path(result.run).name / "metrics.csv" for result in results if result.done}
    return {run: _read(table) for run, table in tables.items() if table.exists()}


def _read(path: Path) -> dict[str, Curve]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        found = {
            name: [(int(row["step"]) + 1.0, float(row[name])) for row in rows if row.get(name)]
            for name in (LOSS, TOP1)
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"metrics ({path}) must be a table of numbers with the column step: {error}"
        ) from error
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in found.items()}
    return {name: (np.array(of)[:, 0], np.array(of)[:, 1]) for name, of in finite.items() if of}


def training_loss(cells: Sequence[Cell], curves: Curves, *, phone: bool = False) -> Figure | None:
    """The loss of the training batches, smoothed; None where no run has logged it."""
    return _figure(cells, curves, LOSS, "Training loss", phone)


def validation_top1(cells: Sequence[Cell], curves: Curves, *, phone: bool = False) -> Figure | None:
    """Top-1 of each validation; None where every run had only one."""
    figure = _figure(cells, curves, TOP1, "Top-1", phone)
    if figure:
        figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=PERCENT))
    return figure


def _figure(cells: Sequence[Cell], curves: Curves, column: str, label: str, phone: bool) -> Figure | None:
    of_cells = [(cell, of) for cell in with_result(cells) if (of := _of_cell(cell, curves, column))]
    if all(len(steps) < 2 for _, of in of_cells for steps, _ in of):
        return None
    drawing = Drawing(cells)
    clips = all(result.clips_seen and result.steps for cell, _ in of_cells for result in cell.done)
    strides = strides_differ(drawing.done)
    shapes = sorted({cell.shape for cell, _ in of_cells})
    names = [f"{label}, T = {shape.length(strides)}, B = {shape.batch_size}" for shape in shapes]
    figure, grid = panel_grid(names, phone)
    with matplotlib.rc_context(STYLE):
        for axes, shape in zip(grid, shapes, strict=True):
            for cell, of in of_cells:
                if cell.shape == shape:
                    first = cell.done[0]
                    scale = (first.clips_seen or 0) / (first.steps or 1) if clips else 1.0
                    look: dict[str, Any] = {"color": drawing.colors[cell.arm]}
                    for steps, values in of if len(of) > 1 else []:
                        axes.plot(scale * steps, values, linewidth=0.8, alpha=0.4, **look)
                    steps, values = _mean(of)
                    axes.plot(
                        scale * steps, values, linewidth=1.8, marker="o" if len(steps) < 10 else "", **look
                    )
            axes.set_xlim(left=0)
            axes.set_xlabel("training clips seen" if clips else "steps")
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.yaxis.set_tick_params(labelleft=True)
        drawing.legend(figure, phone)
    return figure


def _of_cell(cell: Cell, curves: Curves, column: str) -> list[Curve]:
    """The curves of a cell's seeds, the loss smoothed."""
    found = [of[column] for result in cell.done if column in (of := curves.get(result.run, {}))]
    return [_smoothed(curve) for curve in found] if column == LOSS else found


def _smoothed(curve: Curve) -> Curve:
    """The mean of each value and those before it, over a twentieth of the run."""
    steps, values = curve
    window = max(1, round(len(values) / SMOOTHED))
    return steps[window - 1 :], np.convolve(values, np.full(window, 1 / window), mode="valid")


def _mean(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, at the steps of the first that all have reached."""
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = np.array([step for step in curves[0][0] if start <= step <= end])
    return steps, np.mean([np.interp(steps, *curve) for curve in curves], axis=0)
