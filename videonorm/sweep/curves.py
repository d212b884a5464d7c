"""Learning curves: what the runs logged while they trained, read from their folders and drawn.

A line is a cell, the mean of its seeds; single seeds are thin. A panel is of a shape, its lines of the arms;
or of an arm, its lines of the shapes, against what the shapes cost.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from videonorm.errors import UserError
from videonorm.look import PERCENT, STYLE
from videonorm.sweep.cells import Cell, with_result
from videonorm.sweep.drawing import Drawing, chosen, legend, panel_grid
from videonorm.sweep.results import Result

LOSS, TOP1 = "train/loss", "val/top1"  # columns of metrics.csv
SMOOTHED = 20  # the loss of a batch is noise: it is averaged over a run's length / SMOOTHED
MOST_POINTS = 200  # of a line: more are not seen, and make a page of many megabytes
SPENT = {"seconds": "training time, s", "frames": "training frames seen"}

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
    return _of_shapes(cells, curves, LOSS, "Training loss", phone)


def validation_top1(cells: Sequence[Cell], curves: Curves, *, phone: bool = False) -> Figure | None:
    """Top-1 of each validation; None where every run had only one."""
    return _of_shapes(cells, curves, TOP1, "Top-1", phone)


def _of_shapes(cells: Sequence[Cell], curves: Curves, column: str, label: str, phone: bool) -> Figure | None:
    """A panel for each shape, a line for each arm."""
    of_cells = _lines(cells, curves, column)
    if not of_cells:
        return None
    drawing = Drawing(cells)
    clips = all(result.clips_seen and result.steps for cell, _ in of_cells for result in cell.done)

    def per_step(cell: Cell) -> float:
        return (cell.done[0].clips_seen or 0) / (cell.done[0].steps or 1) if clips else 1.0

    drawing.done = [cell for cell, _ in of_cells]
    panels = drawing.panels(lambda cell: f"{label}, {drawing.shape(cell)}", lambda cell: cell.shape)
    figure, grid = panel_grid(panels, phone)
    with matplotlib.rc_context(STYLE):
        for axes, of_panel in grid:
            for cell, of in of_cells:
                if cell in of_panel:
                    draw_seeds(axes, of, per_step(cell), drawing.colors[cell.arm])
            _dress(axes, "training clips seen" if clips else "steps", column)
        drawing.legend(figure)
    return figure


def top1_against(
    spent: Literal["seconds", "frames"], cells: Sequence[Cell], curves: Curves, *, phone: bool = False
) -> Figure | None:
    """Top-1 of each validation against training time or frames: a panel for each arm, a line for each shape.

    None where every run had only one validation, or what was spent is not known. Each step of a run is taken
    to have cost the same.
    """
    of_cells = [(cell, of) for cell, of in _lines(cells, curves, TOP1) if _spent(cell, spent)]
    if not of_cells:
        return None
    drawing = Drawing(cells)
    drawing.done = [cell for cell, _ in of_cells]
    shapes: dict[str, list[Cell]] = {}
    for cell in sorted(drawing.done, key=lambda cell: cell.shape):
        shapes.setdefault(drawing.shape(cell), []).append(cell)
    kept, left_out = chosen(shapes, "shapes")
    shades = matplotlib.colormaps["plasma"](np.linspace(0.35, 0.85, len(kept)))
    colors = {name: matplotlib.colors.to_hex(shade) for name, shade in zip(kept, shades, strict=True)}
    figure, grid = panel_grid(drawing.panels(lambda cell: f"Top-1, {cell.arm}"), phone, left_out)
    with matplotlib.rc_context(STYLE):
        for axes, of_panel in grid:
            for cell, of in of_cells:
                if cell in of_panel and drawing.shape(cell) in kept:
                    draw_seeds(axes, of, _spent(cell, spent) or 0.0, colors[drawing.shape(cell)])
            _dress(axes, SPENT[spent], TOP1)
        lines = [Line2D([], [], label=name, color=color) for name, color in colors.items()]
        legend(figure, lines)
    return figure


def _spent(cell: Cell, what: Literal["seconds", "frames"]) -> float | None:
    """By a step of the cell's runs, on average."""
    name = "train_seconds" if what == "seconds" else "frames_seen"
    shares = [of / run.steps for run in cell.done if (of := getattr(run, name)) and run.steps]
    return float(np.mean(shares)) if len(shares) == len(cell.done) else None


def _lines(cells: Sequence[Cell], curves: Curves, column: str) -> list[tuple[Cell, list[Curve]]]:
    """Of the cells that have any; none where no run has logged it twice."""
    found = [(cell, of) for cell in with_result(cells) if (of := _of_cell(cell, curves, column))]
    return found if any(len(steps) > 1 for _, of in found for steps, _ in of) else []


def draw_seeds(axes: Axes, of: Sequence[Curve], scale: float, color: str) -> None:
    """A curve of each seed, and their mean; ``scale`` is of a step."""
    for steps, values in of if len(of) > 1 else []:
        axes.plot(scale * steps, values, linewidth=0.8, alpha=0.4, color=color)
    steps, values = _mean(of)
    axes.plot(scale * steps, values, linewidth=1.8, marker="o" if len(steps) < 10 else "", color=color)


def _dress(axes: Axes, label: str, column: str) -> None:
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_tick_params(labelleft=True)
    if column == TOP1:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=PERCENT))


def _of_cell(cell: Cell, curves: Curves, column: str) -> list[Curve]:
    """The curves of a cell's seeds, the loss smoothed."""
    found = [of[column] for result in cell.done if column in (of := curves.get(result.run, {}))]
    return [_smoothed(curve) for curve in found] if column == LOSS else found


def _smoothed(curve: Curve) -> Curve:
    """The mean of each value and those before it, over a twentieth of the run."""
    steps, values = curve
    window = max(1, round(len(values) / SMOOTHED))
    steps, values = steps[window - 1 :], np.convolve(values, np.full(window, 1 / window), mode="valid")
    shown = np.linspace(0, len(steps) - 1, min(len(steps), MOST_POINTS)).round().astype(int)
    return steps[shown], values[shown]


def _mean(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, at the steps of the first that all have reached."""
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = np.array([step for step in curves[0][0] if start <= step <= end])
    return steps, np.mean([np.interp(steps, *curve) for curve in curves], axis=0)
