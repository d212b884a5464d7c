"""T against B with curves of equal cost, and the top-1 of each cell at its point: what a memory buys."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from videonorm.look import MUTED, STYLE
from videonorm.sweep.cells import Cell, has_memory, with_result
from videonorm.sweep.drawing import Drawing, panel_grid

GIB_IN_MIB = 1024
MARGIN = 2.6  # times the largest and the smallest T and B: where the curves are named
CURVE: dict[str, Any] = {"color": MUTED, "linestyle": "--", "linewidth": 1.0, "alpha": 0.8, "zorder": 1}


def iso_memory(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """A panel for each arm. The curves are of equal peak memory where that is known, else of equal frames."""
    drawing = Drawing(cells)
    top1 = [cell.top1.value for cell in drawing.done]
    scale = Normalize(min(top1), max(max(top1), min(top1) + 0.01))
    measured = is_of_memory(cells)
    figure, grid = panel_grid(drawing.panels(lambda cell: cell.arm), phone, sharey=False)
    with matplotlib.rc_context(STYLE):
        for axes, of_panel in grid:
            _scales(axes, drawing.done)
            frames = _frames(of_panel)
            if measured:
                peaks = np.array([cell.peak_memory_mib for cell in of_panel], float) / GIB_IN_MIB
                fixed, of_frame = _fit(frames, peaks)
                levels = [gib for gib in _levels(fixed + of_frame * _range(axes)) if gib > fixed]
                curves, unit = {gib: (gib - fixed) / of_frame for gib in levels}, "GiB"
            else:
                curves, unit = {count: count for count in _powers(_frames(drawing.done))}, "frames"
            met = {level: ends for level, count in curves.items() if (ends := _ends(axes, count))}
            for level, ends in met.items():
                # Behind the name of the last no other curve begins: there is room for the unit.
                name = f"{level:g} {unit}" if level == max(met) else f"{level:g}"
                _curve(axes, name, curves[level], *ends)
            for cell in of_panel:
                _point(axes, cell, float(scale(cell.top1.value)))
            axes.set(xlabel="B, clips per step", ylabel="T, frames per clip")
    return figure


def is_of_memory(cells: Sequence[Cell]) -> bool:
    """Whether peak memory is known, and known well enough to draw curves of it.

    Peak memory is a + s B T, and takes cells with two different B T to be told; a tied sweep has but one.
    """
    if not has_memory(cells):
        return False
    panels = Drawing(cells).panels(lambda cell: cell.arm).values()
    for of_panel in panels:
        frames = _frames(of_panel)
        if len(set(frames)) < 2:
            return False
        peaks = np.array([cell.peak_memory_mib for cell in of_panel], float)
        if _fit(frames, peaks)[1] <= 0:
            return False
    return True


def fit_error(cells: Sequence[Cell]) -> float:
    """The largest distance of a measured peak from the line that the curves follow, as a share of it."""
    errors = []
    for of_panel in Drawing(cells).panels(lambda cell: cell.arm).values():
        frames = _frames(of_panel)
        peaks = np.array([cell.peak_memory_mib for cell in of_panel], float)
        fixed, of_frame = _fit(frames, peaks)
        errors.append(np.abs((fixed + of_frame * frames) / peaks - 1).max())
    return float(max(errors))


def has_area(cells: Sequence[Cell]) -> bool:
    """Whether T and B both vary."""
    done = with_result(cells)
    return len({c.shape.num_frames for c in done}) > 1 and len({c.shape.batch_size for c in done}) > 1


def _frames(cells: Sequence[Cell]) -> NDArray[np.float64]:
    """B T of each cell."""
    return np.array([cell.shape.num_frames * cell.shape.batch_size for cell in cells], float)


def _fit(frames: NDArray[np.float64], peaks: NDArray[np.float64]) -> tuple[float, float]:
    """a and s of a + s B T, by least squares."""
    of_frame, fixed = np.polyfit(frames, peaks, 1)
    return float(fixed), float(of_frame)


def _scales(axes: Axes, cells: Sequence[Cell]) -> None:
    for which, sizes in (
        ("x", sorted({cell.shape.batch_size for cell in cells})),
        ("y", sorted({cell.shape.num_frames for cell in cells})),
    ):
        axis = axes.xaxis if which == "x" else axes.yaxis
        axes.set(**{f"{which}scale": "log", f"{which}lim": (sizes[0] / MARGIN, sizes[-1] * MARGIN)})
        axis.set_major_locator(FixedLocator(sizes))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")


def _range(axes: Axes) -> NDArray[np.float64]:
    """B T in the lower left and the upper right corner."""
    return np.multiply(axes.get_xlim(), axes.get_ylim())


def _levels(gib: NDArray[np.float64]) -> list[float]:
    """Four or five round numbers of a range, each twice the one before where it is wide."""
    low, high = max(gib[0], gib[1] / 64), gib[1]
    if high > 6 * low:
        return [2.0**power for power in range(int(np.floor(np.log2(low))), int(np.ceil(np.log2(high))))]
    return [level for level in map(float, MaxNLocator(5).tick_values(low, high)) if low < level < high]


def _powers(frames: NDArray[np.float64]) -> list[float]:
    """Powers of two around what the cells have."""
    low, high = np.log2(frames.min() / 2), np.log2(frames.max() * 2)
    return [2.0**power for power in range(int(np.ceil(low)), int(high) + 1)]


def _ends(axes: Axes, frames: float) -> tuple[float, float] | None:
    """B at which T B = ``frames`` enters and leaves the panel; None where it does not meet it."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    first, last = max(left, frames / top), min(right, frames / bottom)
    return (first, last) if first < last else None


def _curve(axes: Axes, name: str, frames: float, first: float, last: float) -> None:
    """T B = ``frames`` from one B to another, named where it enters the panel, at its left or upper edge."""
    top = axes.get_ylim()[1]
    axes.plot([first, last], [frames / first, frames / last], **CURVE)
    at_top = frames / first > top / 1.15  # a name above the curve would leave the panel
    offset, align = ((14, -1), ("left", "top")) if at_top else ((3, 1), ("left", "bottom"))
    axes.annotate(
        name,
        (first, frames / first),
        offset,
        textcoords="offset points",
        ha=align[0],
        va=align[1],
        fontsize=8.5,
        color=MUTED,
        annotation_clip=False,
    )


def _point(axes: Axes, cell: Cell, share: float) -> None:
    at = (cell.shape.batch_size, cell.shape.num_frames)
    color = matplotlib.colormaps["cividis"](share)
    axes.plot(*at, "o", color=color, markersize=9, markeredgecolor=MUTED, markeredgewidth=1.0, zorder=3)
    text = f"{100 * cell.top1.value:.1f}"
    look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "weight": "bold", "zorder": 4}
    axes.annotate(text, at, (0, 6), textcoords="offset points", **look)
