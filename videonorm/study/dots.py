"""What a claim measures of each run, as dots: against an axis of the sweep, or a row a cell."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from videonorm.look import INK, MUTED, PERCENT, STYLE, arm_colors
from videonorm.study.arms import Arms
from videonorm.study.claims import SHARES
from videonorm.study.evidence import TOP1
from videonorm.study.scales import is_wide, logarithmic
from videonorm.sweep.cells import Cell
from videonorm.sweep.drawing import BATCH_SIZE, PHONE_WIDTH, Axis, panel_grid

SCORES = {"val_top1": "validation top-1", "val_top5": "validation top-5", "val_loss": "validation loss"}
LOST: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 7, "markeredgewidth": 1.8}
SEED: dict[str, Any] = {"alpha": 0.45, "markersize": 4, "markeredgewidth": 0}
ROW = 0.32  # inches of a cell

Values = Mapping[str, float]  # by run


def values_of(arms: Arms) -> Values:
    """The number of each run; where the claim is of the largest value of an axis that is stable, top-1."""
    if not arms.claim.measure.largest:
        return {run: of.value for run, of in arms.measured.items()}
    runs = [run for cell in arms.every for run in cell.done]
    return {run.run: run.val_top1 for run in runs if run.val_top1 is not None}


def label(arms: Arms, axis: Axis | None = None) -> str:
    """What the dots are of."""
    if _is_error(arms, axis):
        return "validation error"
    if column := _of_row(arms):
        return SCORES.get(column, column.replace("_", " "))
    measure = arms.claim.measure
    return f"{'log10 of ' if measure.log10 else ''}{measure.column}".replace("_", " ")


def against(arms: Arms, values: Values, axis: Axis, *, phone: bool = False) -> Figure:
    """The mean of each cell over an axis, each seed as a dot; a cross where a run has no number.

    Top-1 over B is drawn as what is missing from 1, as sources do.
    """
    drawing = arms.drawing
    panels: dict[str, list[Cell]] = {}
    for cell in arms.cells:
        panels.setdefault(arms.panel(cell, axis), []).append(cell)
    shown = {run: 1 - value if _is_error(arms, axis) else value for run, value in values.items()}
    figure, grid = panel_grid(panels, phone)
    drawn = [
        shown[run.run]
        for cells in panels.values()
        for cell in cells
        for run in cell.results
        if run.run in shown
    ]
    lost = False
    with matplotlib.rc_context(STYLE):
        for axes, cells in grid:
            positions = drawing.dress_x(axes, cells, axis)
            for arm, look in drawing.looks.items():
                line = [(positions[axis.of(cell)], cell) for cell in cells if cell.arm == arm]
                lost |= _line(axes, sorted(line, key=lambda of: of[0]), shown, look)
            _dress(axes, "y", arms, axis, drawn)
            axes.yaxis.set_tick_params(labelleft=True)
        cross = [Line2D([], [], color=MUTED, label="a run without a number", **LOST)] if lost else []
        drawing.legend(figure, *cross)
    return figure


def of_cells(arms: Arms, values: Values, *, phone: bool = False) -> Figure | None:
    """A row a cell: each seed a dot, their mean a line; those that the claim compares in bold."""
    cells = [cell for cell in arms.every if any(run.run in values for run in cell.results)]
    if not cells:
        return None
    colors = arm_colors(cell.arm for cell in arms.every)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        size = (PHONE_WIDTH if phone else 8.2, 0.9 + ROW * len(cells))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for y, cell in enumerate(cells):
            of = [values[run.run] for run in cell.results if run.run in values]
            color = colors[cell.arm]
            axes.plot(of, [y] * len(of), "o", color=color, alpha=0.55, markersize=6, markeredgewidth=0)
            axes.vlines(fmean(of), y - 0.3, y + 0.3, color=color, linewidth=2.4)
        axes.set(ylim=(len(cells) - 0.5, -0.5), yticks=range(len(cells)))
        axes.set_yticklabels([arms.name(cell) for cell in cells])
        for tick, cell in zip(axes.get_yticklabels(), cells, strict=True):
            compared = arms.is_compared(cell)
            tick.set(color=INK if compared else MUTED, weight="bold" if compared else "normal")
        axes.spines["left"].set_visible(False)
        _dress(axes, "x", arms, None, list(values.values()))
    return figure


def _of_row(arms: Arms) -> str | None:
    """The column of results.csv that the dots are of, if they are of one."""
    return TOP1 if arms.claim.measure.largest else arms.claim.measure.of_row


def _is_error(arms: Arms, axis: Axis | None) -> bool:
    return axis is BATCH_SIZE and _of_row(arms) == TOP1


def _line(axes: Axes, line: list[tuple[float, Cell]], shown: Values, look: Any) -> bool:
    """Draw an arm; whether a run of it has no number."""
    found = [(x, [shown[run.run] for run in cell.results if run.run in shown]) for x, cell in line]
    found = [(x, of) for x, of in found if of]
    for x, of in found:
        axes.plot([x] * len(of), of, "o", color=look["color"], **SEED)
    axes.plot([x for x, _ in found], [fmean(of) for _, of in found], markeredgecolor="white", **look)
    lost = [x for x, cell in line if any(run.run not in shown for run in cell.results)]
    if lost:  # a line without points takes room for its marker, in a corner of the figure
        at_bottom = axes.get_xaxis_transform()
        axes.plot(lost, [0.03] * len(lost), transform=at_bottom, color=look["color"], clip_on=False, **LOST)
    return bool(lost)


def _dress(axes: Axes, side: Literal["x", "y"], arms: Arms, over: Axis | None, drawn: list[float]) -> None:
    """The side that the values are on."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_label_text(label(arms, over))
    if _of_row(arms) in SHARES:
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=PERCENT))
    elif is_wide(np.array(drawn)):
        logarithmic(axes, side)
