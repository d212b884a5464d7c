"""What was recorded of every block: over depth and step as a heat map a cell, or over depth at one step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from videonorm.look import PALETTE, STYLE
from videonorm.study.arms import Arms
from videonorm.study.recorded import Floats, Recorded
from videonorm.study.scales import finite_range, is_wide, logarithmic, plain
from videonorm.sweep.cells import Cell
from videonorm.sweep.drawing import panel_grid

TICKS = 5  # of an axis of steps or of blocks
DEPTH = "depth"


def over_depth(
    arms: Arms, tables: Mapping[str, Recorded], column: str, *, phone: bool = False
) -> Figure | None:
    """A map of each cell, one colour scale for all; of one step, a line of each cell.

    Args:
        tables: by run, with the columns ``column`` and depth.
    """
    maps = [(cell, of_cell) for cell in arms.cells if (of_cell := _maps(cell, tables, column))]
    if not maps:
        return None
    every = np.concatenate([of.ravel() for _, of_cell in maps for of in of_cell[2]])
    low, high = finite_range(every)
    if not math.isfinite(low):
        return None
    if all(len(steps) == 1 for _, (steps, _, _) in maps):
        return _lines(arms, tables, column, is_wide(every), phone)
    norm = LogNorm(low, high) if is_wide(every) else Normalize(low, high if high > low else low + 1)
    look = matplotlib.colormaps["cividis"].with_extremes(over=PALETTE[0])
    panels = {arms.name(cell): [cell] for cell, _ in maps}
    figure, grid = panel_grid(panels, phone)
    of_cells = {id(cell): of_cell for cell, of_cell in maps}
    with matplotlib.rc_context(STYLE):
        for axes, (cell,) in grid:
            image = _map(axes, *of_cells[id(cell)], norm, look)
        place: dict[str, Any] = {"location": "top" if phone else "right", "shrink": 0.8, "aspect": 30}
        bar = figure.colorbar(image, ax=[axes for axes, _ in grid], pad=0.02, **place)
        assert bar.solids
        bar.outline.set_visible(False)
        bar.solids.set(rasterized=True)
        bar.set_label(column.replace("_", " "))
        plain(bar.ax.xaxis if phone else bar.ax.yaxis)
    return figure


def _maps(
    cell: Cell, tables: Mapping[str, Recorded], column: str
) -> tuple[Floats, Floats, list[Floats]] | None:
    """Its steps, its depths, and the values of each seed, (depths, steps): nan where there is no row."""
    of_runs = [tables[run.run] for run in cell.results if run.run in tables]
    if not of_runs:
        return None
    steps = np.unique(np.concatenate([of.step for of in of_runs]))
    depths = np.unique(np.concatenate([of.of[DEPTH] for of in of_runs]))
    values = []
    for of in of_runs:
        one = np.full((len(depths), len(steps)), np.nan)
        one[np.searchsorted(depths, of.of[DEPTH]), np.searchsorted(steps, of.step)] = of.of[column]
        values.append(one)
    return steps, depths, values


def _map(
    axes: Axes, steps: Floats, depths: Floats, seeds: Sequence[Floats], norm: Normalize, look: Any
) -> Any:
    finite = np.ma.masked_invalid(seeds)
    mean = np.exp(np.log(finite).mean(axis=0)) if isinstance(norm, LogNorm) else finite.mean(axis=0)
    mean[np.isinf(seeds).any(axis=0)] = (
        2 * abs(norm.vmax or 1.0) + 1
    )  # beyond the scale, it has the colour of that
    image = axes.imshow(
        mean, origin="lower", aspect="auto", interpolation="none", cmap=look, norm=norm, zorder=2
    )
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    for axis, values in ((axes.xaxis, steps), (axes.yaxis, depths)):
        at = np.unique(np.linspace(0, len(values) - 1, min(TICKS, len(values))).round().astype(int))
        axis.set_ticks(at, [f"{values[i]:,.0f}" for i in at])
    axes.set(xlabel="step", ylabel="block")
    return image


def _lines(arms: Arms, tables: Mapping[str, Recorded], column: str, wide: bool, phone: bool) -> Figure:
    figure, grid = panel_grid(arms.panels(tables), phone)
    with matplotlib.rc_context(STYLE):
        for axes, cells in grid:
            for cell in cells:
                color = arms.drawing.colors[cell.arm]
                for of in (tables[run.run] for run in cell.results if run.run in tables):
                    axes.plot(of.of[DEPTH], of.of[column], color=color, linewidth=1.2, alpha=0.8)
            axes.set(xlabel="block", ylabel=column.replace("_", " "))
            if wide:
                logarithmic(axes, "y")
        arms.drawing.legend(figure)
    return figure
