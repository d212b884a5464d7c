"""Accuracy, speed and memory of a sweep's cells against T, B or a further axis, one colour an arm.

Each function draws one figure from the cells; ``drawing`` has what they share, and makes files of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from videonorm.look import MUTED, PERCENT, STYLE
from videonorm.sweep.cells import Cell, has_memory, highest
from videonorm.sweep.drawing import (
    BATCH_SIZE,
    LENGTH,
    PHONE_WIDTH,
    Axis,
    Drawing,
    chosen,
    note,
    panel_grid,
    titled,
)

BEST_POSSIBLE: dict[str, Any] = {"color": MUTED, "linewidth": 1.4, "linestyle": (0, (4, 2))}
CHANCE: dict[str, Any] = {**BEST_POSSIBLE, "linestyle": (0, (1, 2))}
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))


def accuracy(cells: Sequence[Cell], axis: Axis, *, phone: bool = False) -> Figure:
    """Top-1 against an axis, on one scale: a panel for each value of the others, unless T and B are tied.

    Against T with its ceiling.
    """
    drawing = Drawing(cells)
    several = len({cell.shape for cell in drawing.done}) > 1

    def name(cell: Cell) -> str:
        if axis.option:
            return drawing.shape(cell) if several else ""
        other = BATCH_SIZE if axis is LENGTH else LENGTH
        return "" if drawing.tied else f"{other.symbol} = {drawing.name(other.of(cell))}"

    def order(cell: Cell) -> Any:
        return cell.shape if axis.option else cell.shape.batch_size if axis is LENGTH else LENGTH.of(cell)

    panels = drawing.panels(name, None if drawing.tied else order, axis.option)
    lines = {name: of for name, of in panels.items() if len({axis.of(cell) for cell in of}) > 1}
    panels = lines or panels  # a panel of single points says nothing that another picture does not
    if panels.keys() == {""}:
        panels = {f"Accuracy against {axis.title}": panels[""]}
    figure, grid = panel_grid(panels, phone)
    with matplotlib.rc_context(STYLE):
        bounds: dict[str, Line2D] = {}
        for axes, of_panel in grid:
            bounds |= _accuracy(axes, drawing, of_panel, axis, named=not phone)
        ticks = {tuple(label.get_text() for label in axes.get_xticklabels()) for axes, _ in grid}
        for axes, _ in grid if len(ticks) == 1 else ():  # else each panel has ticks of its own
            axes.label_outer(remove_inner_ticks=False)
        if phone:
            drawing.legend(figure, *bounds.values())
    return figure


def speed_and_memory(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """Training clips per second against T or what else varies, and peak memory where it was measured."""
    drawing = Drawing(cells)
    axis, count = drawing.axes()[0], 2 if has_memory(cells) else 1
    combinations, left_out = chosen(drawing.panels(lambda cell: "", but=axis.option), "combinations", 6)
    rows, columns = (count * len(combinations), 1) if phone else (len(combinations), count)
    with matplotlib.rc_context(STYLE):
        width = PHONE_WIDTH if phone else 4.8 * columns if columns > 1 else 7.4
        figure = Figure(figsize=(width, 3.9 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).reshape(len(combinations), count)
        for row, (name, of_row) in zip(panels, combinations.items(), strict=True):
            _speed_and_memory(drawing, of_row, axis, name, *row)
        drawing.legend(figure)
        note(figure, left_out, phone)
    return figure


def summary_figure(cells: Sequence[Cell]) -> Figure:
    """Accuracy, speed and memory in one picture.

    Of a grid it has the accuracy at the best cell's batch size; of further axes, the best cell's values.
    """
    drawing = Drawing(cells)
    best, axis = highest(cells), drawing.axes()[0]
    assert best is not None
    combination = drawing.combination(best, axis.option)
    alike = [cell for cell in drawing.done if drawing.combination(cell, axis.option) == combination]
    held = drawing.together if drawing.tied else f"B = {BATCH_SIZE.of(best)}"
    shown = [c for c in alike if drawing.tied or BATCH_SIZE.of(c) == BATCH_SIZE.of(best)]
    if axis is not LENGTH:
        shown = alike
        held = f"T = {drawing.name(LENGTH.of(best))}" if axis is BATCH_SIZE else drawing.shape(best)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 5.4), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.06))
        grid = figure.add_gridspec(2, 2, width_ratios=(1.75, 1))
        accuracy = figure.add_subplot(grid[:, 0])
        _accuracy(accuracy, drawing, shown, axis)
        parts = [f"Accuracy against {axis.title}", held, *([combination] if combination else [])]
        accuracy.set_title(", ".join(parts))
        if has_memory(cells):
            speed, memory = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
            _speed_and_memory(drawing, alike, axis, "", speed, memory)
            speed.set_xlabel("")
        else:
            _speed_and_memory(drawing, alike, axis, "", figure.add_subplot(grid[:, 1]))
    return figure


def _accuracy(
    axes: Axes, drawing: Drawing, cells: Sequence[Cell], axis: Axis, *, named: bool = True
) -> dict[str, Line2D]:
    """Top-1 with its 95 % interval, each seed as a dot, the ceiling and chance.

    Args:
        named: write the lines' names at their ends.

    Returns:
        The lines of the ceiling and of chance, by name, where they are known.
    """
    positions = drawing.dress_x(axes, cells, axis)
    _set_scale(axes, drawing.done)
    bounds, ends = _bounds(axes, positions, cells, axis)
    axes.set_ylabel("validation top-1")
    for number, (arm, look) in enumerate(drawing.looks.items()):
        line = sorted((cell for cell in cells if cell.arm == arm), key=axis.of)
        if not line:
            continue
        color, width = look["color"], axes.get_xlim()[1] - axes.get_xlim()[0]
        aside = 0.011 * width * (number - (len(drawing.looks) - 1) / 2)  # keeps the error bars apart
        x = [positions[axis.of(cell)] + aside for cell in line]
        top1 = [cell.top1 for cell in line]
        errors = [[t.value - t.low for t in top1], [t.high - t.value for t in top1]]
        values = [t.value for t in top1]
        bars: dict[str, Any] = {"elinewidth": 1.6, "capsize": 3.5, "capthick": 1.6, "alpha": 0.75}
        axes.errorbar(x, values, errors, fmt="none", ecolor=color, **bars)
        axes.plot(x, values, markeredgecolor="white", zorder=3, **look)
        dots: dict[str, Any] = {"alpha": 0.4, "markersize": 3.5, "markeredgewidth": 0, "zorder": 2}
        for position, cell in zip(x, line, strict=True):
            if len(cell.done) > 1:
                scores = list(cell.top1_of_seed.values())
                axes.plot([position + 0.011 * width] * len(scores), scores, "o", color=color, **dots)
        ends[arm] = values[-1]
    if named:
        drawing.label_ends(axes, ends)
    return bounds


def _bounds(
    axes: Axes, positions: Mapping[Any, float], cells: Sequence[Cell], axis: Axis
) -> tuple[dict[str, Line2D], dict[str, float]]:
    """The ceiling of each value, and chance, where they are known: their lines, and where these end."""
    lines: dict[str, Line2D] = {}
    ends: dict[str, float] = {}
    ceilings = {axis.of(cell): cell.best_possible_top1 for cell in cells if cell.best_possible_top1}
    if ceilings:
        x = [positions[value] for value in sorted(ceilings)]
        y = [ceilings[value] for value in sorted(ceilings)]
        (lines["best possible"],) = axes.plot(x, y, label="best possible", zorder=1, **BEST_POSSIBLE)
        axes.fill_between(x, y, 1.2, color=MUTED, alpha=0.10, linewidth=0, zorder=0)
        ends["best possible"] = y[-1]
    classes = cells[0].done[0].num_classes
    if classes and 1 / classes > axes.get_ylim()[0]:
        lines["chance"] = axes.axhline(1 / classes, label="chance", zorder=1, **CHANCE)
        ends["chance"] = 1 / classes
    return lines, ends


def _set_scale(axes: Axes, done: Sequence[Cell]) -> None:
    """The part of 0 to 100 % that the intervals and ceilings need, from 0 where they come near it."""
    low = min(cell.top1.low for cell in done)
    high = max(max(cell.top1.high, cell.best_possible_top1 or 0.0) for cell in done)
    low = 0.0 if low < 0.3 else math.floor(20 * low) / 20
    high = min(1.0, math.ceil(20 * high) / 20)
    axes.set_ylim(low, high + 0.02 * (high - low))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=PERCENT))


def _speed_and_memory(
    drawing: Drawing, cells: Sequence[Cell], axis: Axis, name: str, speed: Axes, memory: Axes | None = None
) -> None:
    of = f", {name}" if name else ""
    titled(speed, f"Clips per second{of}")
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(ScalarFormatter())
    _figure_of(speed, drawing, cells, axis, lambda cell: cell.clips_per_second)
    if memory:
        titled(memory, f"Peak memory, GiB{of}")
        _figure_of(memory, drawing, cells, axis, lambda cell: (cell.peak_memory_mib or 0.0) / 1024)
        memory.set_ylim(0, 1.1 * memory.get_ylim()[1])


def _figure_of(
    axes: Axes, drawing: Drawing, cells: Sequence[Cell], axis: Axis, value: Callable[[Cell], float]
) -> None:
    """One line an arm; against T in a grid one an arm and B, told apart by dashes."""
    positions = drawing.dress_x(axes, cells, axis)
    grid = axis is LENGTH and not drawing.tied
    sizes = sorted({BATCH_SIZE.of(cell) for cell in cells}) if grid else [None]
    dashes_of = dict(zip(sizes, cycle(DASHES), strict=False))
    for arm, look in drawing.looks.items():
        for size, dashes in dashes_of.items():
            line = [cell for cell in cells if cell.arm == arm and size in (None, BATCH_SIZE.of(cell))]
            line = sorted(line, key=axis.of)
            x = [positions[axis.of(cell)] for cell in line]
            axes.plot(x, [value(cell) for cell in line], markeredgecolor="white", linestyle=dashes, **look)
    if grid:
        handles = [Line2D([], [], color=MUTED, ls=ls, label=f"B = {size}") for size, ls in dashes_of.items()]
        axes.legend(handles=handles, frameon=False, fontsize=8.5, handlelength=2.6)
