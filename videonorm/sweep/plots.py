"""The plots of a sweep: accuracy, speed and memory against T and B, one colour an arm.

Each function draws one figure from the cells; ``as_png`` and ``as_svg`` make a file of it. ``phone`` is for a
page of PHONE_WIDTH: panels stand one above the other, and a legend takes the place of names at lines' ends.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from videonorm.look import INK, MUTED, PERCENT, STYLE, arm_colors, span
from videonorm.sweep.cells import (
    Cell,
    clips_seen,
    frames_per_step,
    has_memory,
    highest,
    is_tied,
    strides_differ,
    with_result,
)

LABEL_HEIGHT = 0.055  # of a norm's name, in heights of its axes
PHONE_WIDTH = 4.3  # inches of 72 units: a page of 390 px shows letters a little larger than they are set
BEST_POSSIBLE: dict[str, Any] = {"color": MUTED, "linewidth": 1.4, "linestyle": (0, (4, 2))}
CHANCE: dict[str, Any] = {**BEST_POSSIBLE, "linestyle": (0, (1, 2))}

Length = tuple[int, int]  # (num_frames, frame_stride)
Axis = Callable[[Cell], Any]  # what a plot has on its x axis: `_length` or `_batch_size`


def accuracy_against_batch_size(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """Top-1 against B; one panel a clip length, unless T and B are tied."""
    return _panels(Drawing(cells), _batch_size, _length, "Accuracy against batch size", phone)


def accuracy_against_num_frames(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """Top-1 against T with its ceiling; one panel a batch size, unless T and B are tied."""
    return _panels(Drawing(cells), _length, _batch_size, "Accuracy against clip length", phone)


def heat_map(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """Top-1 over T x B, with clips seen where they differ; one map an arm. What has no cell is empty."""
    drawing = Drawing(cells)
    arms = list(dict.fromkeys(cell.arm for cell in drawing.done))
    lengths, sizes = sorted(set(map(_length, drawing.done))), sorted(set(map(_batch_size, drawing.done)))
    values = [cell.top1.value for cell in drawing.done]
    scale = Normalize(min(values), max(max(values), min(values) + 0.01))
    with matplotlib.rc_context(STYLE):
        width = max(7.4, len(arms) * (0.9 + 0.62 * len(sizes)))
        height, rows = 1.5 + 0.5 * len(lengths), len(arms) if phone else 1
        size = (PHONE_WIDTH, height * rows) if phone else (width, height)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, len(arms) // rows, squeeze=False).flat
        for axes, arm in zip(grid, arms, strict=True):
            axes.set_title(arm, color=drawing.colors[arm])
            axes.grid(False)
            axes.spines[["left", "bottom"]].set_visible(False)
            for cell in drawing.done:
                if cell.arm == arm:
                    x, y = sizes.index(_batch_size(cell)), lengths.index(_length(cell))
                    share = float(scale(cell.top1.value))
                    color = matplotlib.colormaps["cividis"](share)
                    axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=color))
                    ink = "black" if share > 0.5 else "white"
                    seen = f"\n{cell.clips}" if drawing.clips_differ else ""
                    look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink, "fontsize": 9}
                    axes.text(x, y, f"{100 * cell.top1.value:.1f}{seen}", **look)
            axes.set(
                xlim=(-0.55, len(sizes) - 0.45), ylim=(-0.55, len(lengths) - 0.45), xlabel="B, clips per step"
            )
            axes.set_xticks(range(len(sizes)), map(str, sizes))
            axes.set_yticks(range(len(lengths)), map(drawing.name, lengths))
            axes.tick_params(length=0)
            if phone or arm == arms[0]:
                axes.set_ylabel("T, frames per clip")
    return figure


def speed_and_memory(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """Training clips per second against T, and peak memory where it was measured."""
    drawing = Drawing(cells)
    count = 2 if has_memory(cells) else 1
    rows, columns = (count, 1) if phone else (1, count)
    with matplotlib.rc_context(STYLE):
        width = PHONE_WIDTH if phone else 4.8 * columns if columns > 1 else 7.4
        figure = Figure(figsize=(width, 3.9 * rows), layout="constrained")
        _speed_and_memory(drawing, *figure.subplots(rows, columns, squeeze=False).flat)
        drawing.legend(figure, phone)
    return figure


def summary_figure(cells: Sequence[Cell]) -> Figure:
    """Accuracy, speed and memory in one picture; of a grid, the accuracy at the best cell's batch size."""
    drawing = Drawing(cells)
    best = highest(cells)
    assert best is not None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 5.4), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.06))
        grid = figure.add_gridspec(2, 2, width_ratios=(1.75, 1))
        accuracy = figure.add_subplot(grid[:, 0])
        shown = [c for c in drawing.done if drawing.tied or _batch_size(c) == _batch_size(best)]
        _accuracy(accuracy, drawing, shown, _length)
        held = drawing.together if drawing.tied else f"B = {_batch_size(best)}"
        accuracy.set_title(f"Accuracy against clip length, {held}")
        if has_memory(cells):
            speed, memory = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
            _speed_and_memory(drawing, speed, memory)
            speed.set_xlabel("")
        else:
            _speed_and_memory(drawing, figure.add_subplot(grid[:, 1]))
    return figure


def as_png(figure: Figure) -> bytes:
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=160)
        return file.getvalue()


def as_svg(figure: Figure, name: str) -> str:
    """An <svg> element to set into a page: in the page's text colour and font, naming no other document.

    Args:
        name: of the figure, unlike all others of the page: what it refers to inside is then its own.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), io.BytesIO() as file:
        about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=about)
        svg = file.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    # No larger than its letters look well beside those of the page.
    svg = svg.replace("<svg", f'<svg style="max-width:{round(96 * 1.05 * figure.get_figwidth())}px"', 1)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs none of them
    svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to these, and every figure has the same
    return re.sub("'?DejaVu Sans'?", "inherit", svg.replace(INK, "currentColor"))


class Drawing:
    """What all panels of a sweep share: the cells with a result, and how arms and lengths look."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.done = with_result(cells)
        self.tied = is_tied(self.done)
        self.colors = arm_colors(cell.arm for cell in cells)
        markers = zip(self.colors.items(), cycle("osD^vP"), strict=False)
        self.looks: dict[str, Any] = {arm: {"color": color, "marker": m} for (arm, color), m in markers}
        self.clips_differ = len(clips_seen(self.done)) > 1
        frames = frames_per_step(self.done)
        self.together = f"{frames} frames a step" if frames else "B with it"

    def name(self, value: Length | int) -> str:
        """Of a B, or of a T: with its stride where strides differ."""
        if isinstance(value, int):
            return str(value)
        return f"{value[0]} x {value[1]}" if strides_differ(self.done) else str(value[0])

    def dress_x(self, axes: Axes, cells: Sequence[Cell], axis: Axis) -> dict[Any, float]:
        """Tick each T or B at its logarithm, or in a row where only strides tell lengths apart.

        Where T and B are tied, each tick names both; where cells saw unequal numbers of clips, these too.
        Returns the positions.
        """
        values = sorted({axis(cell) for cell in cells})
        sizes = [value[0] if isinstance(value, tuple) else value for value in values]
        row = len(set(sizes)) < len(sizes)
        positions = {value: float(i) if row else math.log2(sizes[i]) for i, value in enumerate(values)}
        labels = {}
        for cell in cells:
            both = [f"T={self.name(_length(cell))}", f"B={_batch_size(cell)}"]
            tied = "\n".join(both if axis is _length else reversed(both))
            labels[axis(cell)] = tied if self.tied else self.name(axis(cell))
        seen = {value: clips_seen(cell for cell in cells if axis(cell) == value) for value in labels}
        with_clips = self.clips_differ and all(len(clips) == 1 for clips in seen.values())
        if with_clips:
            labels = {value: f"{label}\n{span(seen[value])}" for value, label in labels.items()}
        axes.set_xticks([positions[value] for value in labels], list(labels.values()))
        one = "T, frames per clip" if axis is _length else "B, clips per step"
        what = f"T and B, {self.together}" if self.tied else one
        axes.set_xlabel(f"{what}; clips seen" if with_clips else what)
        low, high = min(positions.values()), max(positions.values())
        margin = 0.08 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        return positions

    def legend(self, figure: Figure, phone: bool, *more: Line2D) -> None:
        """Name the arms, and ``more`` lines, above all panels."""
        lines = [*(Line2D([], [], label=arm, **look) for arm, look in self.looks.items()), *more]
        columns = min(3, len(lines)) if phone else len(lines)
        figure.legend(handles=lines, loc="outside upper left", ncols=columns, frameon=False)

    def label_ends(self, axes: Axes, ends: Mapping[str, float]) -> None:
        """Write each line's name right of its end; names that would overlap move apart."""
        low, high = axes.get_ylim()
        names = sorted(ends, key=lambda name: ends[name])
        heights = [min(1.0, max(0.0, (ends[name] - low) / (high - low))) for name in names]
        for _ in range(100):
            for i in range(1, len(heights)):
                overlap = LABEL_HEIGHT - (heights[i] - heights[i - 1])
                if overlap > 0:
                    heights[i - 1] -= overlap / 2
                    heights[i] += overlap / 2
        for name, height in zip(names, heights, strict=True):
            arm = self.colors.get(name)
            look: dict[str, Any] = (
                {"color": arm, "weight": "bold"} if arm else {"color": MUTED, "fontsize": 9}
            )
            axes.text(1.01, height, name, transform=axes.transAxes, va="center", **look)


def panel_grid(names: Iterable[str], phone: bool) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each name, all on one vertical scale."""
    titles = list(names)
    columns = 1 if phone else 2 if len(titles) == 4 else min(3, len(titles))
    rows = -(-len(titles) // columns)
    with matplotlib.rc_context(STYLE):
        width = PHONE_WIDTH if phone else 7.4 if columns == 1 else 4.4 * columns
        height = 0.6 + 3.2 * rows if phone else 4.3 * rows
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axes, title in zip(grid, titles, strict=False):
            axes.set_title(title)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
    return figure, grid[: len(titles)]


def _panels(drawing: Drawing, axis: Axis, other: Axis, title: str, phone: bool) -> Figure:
    """The accuracy against one axis, on one scale: a panel for each value of the other."""
    panels: dict[str, list[Cell]] = {title: drawing.done} if drawing.tied else {}
    for cell in [] if drawing.tied else sorted(drawing.done, key=other):
        name = f"{'T' if other is _length else 'B'} = {drawing.name(other(cell))}"
        panels.setdefault(name, []).append(cell)
    figure, grid = panel_grid(panels, phone)
    with matplotlib.rc_context(STYLE):
        bounds: dict[str, Line2D] = {}
        for axes, cells in zip(grid, panels.values(), strict=True):
            bounds |= _accuracy(axes, drawing, cells, axis, named=not phone)
            if not drawing.clips_differ:  # else each panel has ticks of its own
                axes.label_outer(remove_inner_ticks=False)
        if phone:
            drawing.legend(figure, phone, *bounds.values())
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
        line = sorted((cell for cell in cells if cell.arm == arm), key=axis)
        if not line:
            continue
        color, width = look["color"], axes.get_xlim()[1] - axes.get_xlim()[0]
        aside = 0.011 * width * (number - (len(drawing.looks) - 1) / 2)  # keeps the error bars apart
        x = [positions[axis(cell)] + aside for cell in line]
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
    """The ceiling of each T or B, and chance, where they are known: their lines, and where these end."""
    lines: dict[str, Line2D] = {}
    ends: dict[str, float] = {}
    ceilings = {axis(cell): cell.best_possible_top1 for cell in cells if cell.best_possible_top1}
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


def _speed_and_memory(drawing: Drawing, speed: Axes, memory: Axes | None = None) -> None:
    speed.set_title("Clips per second")
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(ScalarFormatter())
    _figure_of(speed, drawing, lambda cell: cell.clips_per_second)
    if memory:
        memory.set_title("Peak memory, GiB")
        _figure_of(memory, drawing, lambda cell: (cell.peak_memory_mib or 0.0) / 1024)
        memory.set_ylim(0, 1.1 * memory.get_ylim()[1])


def _figure_of(axes: Axes, drawing: Drawing, value: Callable[[Cell], float]) -> None:
    """One line an arm against T; in a grid one an arm and B, told apart by dashes."""
    positions = drawing.dress_x(axes, drawing.done, _length)
    sizes = [None] if drawing.tied else sorted({_batch_size(cell) for cell in drawing.done})
    dashes_of = dict(zip(sizes, cycle(("-", "--", ":", "-.")), strict=False))
    for arm, look in drawing.looks.items():
        for size, dashes in dashes_of.items():
            line = [cell for cell in drawing.done if cell.arm == arm and size in (None, _batch_size(cell))]
            x = [positions[_length(cell)] for cell in line]
            axes.plot(x, [value(cell) for cell in line], markeredgecolor="white", linestyle=dashes, **look)
    if not drawing.tied:
        handles = [Line2D([], [], color=MUTED, ls=ls, label=f"B = {size}") for size, ls in dashes_of.items()]
        axes.legend(handles=handles, frameon=False, fontsize=8.5, handlelength=2.6)


def _length(cell: Cell) -> Length:
    return cell.shape[:2]


def _batch_size(cell: Cell) -> int:
    return int(cell.shape.batch_size)
