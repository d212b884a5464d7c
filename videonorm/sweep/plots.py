"""The plots of a sweep: accuracy, speed and memory against T and B, one colour an arm.

Each function draws one figure from the cells; ``as_png`` and ``as_svg`` make a file of it.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
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

from videonorm.sweep.cells import Cell, frames_per_step, highest, is_tied, strides_differ, with_result
from videonorm.sweep.look import arm_colors

INK = "#1a1d21"  # all text and lines that are not data; `as_svg` makes it the colour of the text around it
MUTED = "#7d848c"
LABEL_HEIGHT = 0.055  # of a norm's name, in heights of its axes
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "axes.facecolor": "none",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 2.2,
    "lines.markersize": 6.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "videonorm",
}

Length = tuple[int, int]  # (num_frames, frame_stride)
Axis = Callable[[Cell], Any]  # what a plot has on its x axis: `_length` or `_batch_size`


def accuracy_against_batch_size(cells: Sequence[Cell]) -> Figure:
    """Top-1 against B; one panel a clip length, unless T and B are tied."""
    return _panels(_Drawing(cells), _batch_size, _length, "Accuracy against batch size")


def accuracy_against_num_frames(cells: Sequence[Cell]) -> Figure:
    """Top-1 against T with its ceiling; one panel a batch size, unless T and B are tied."""
    return _panels(_Drawing(cells), _length, _batch_size, "Accuracy against clip length")


def heat_map(cells: Sequence[Cell]) -> Figure:
    """Top-1 over T x B, one map an arm; squares without a cell stay empty."""
    drawing = _Drawing(cells)
    arms = list(dict.fromkeys(cell.arm for cell in drawing.done))
    lengths, sizes = sorted(set(map(_length, drawing.done))), sorted(set(map(_batch_size, drawing.done)))
    values = [cell.top1.value for cell in drawing.done]
    scale = Normalize(min(values), max(max(values), min(values) + 0.01))
    with matplotlib.rc_context(STYLE):
        width = max(7.4, len(arms) * (0.9 + 0.62 * len(sizes)))
        figure = Figure(figsize=(width, 1.5 + 0.5 * len(lengths)), layout="constrained")
        for axes, arm in zip(figure.subplots(1, len(arms), squeeze=False)[0], arms, strict=True):
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
                    axes.text(x, y, f"{100 * cell.top1.value:.1f}", ha="center", va="center", color=ink)
            axes.set(
                xlim=(-0.55, len(sizes) - 0.45), ylim=(-0.55, len(lengths) - 0.45), xlabel="B, clips per step"
            )
            axes.set_xticks(range(len(sizes)), map(str, sizes))
            axes.set_yticks(range(len(lengths)), map(drawing.name, lengths))
            axes.tick_params(length=0)
            if arm == arms[0]:
                axes.set_ylabel("T, frames per clip")
    return figure


def speed_and_memory(cells: Sequence[Cell]) -> Figure:
    """Training clips per second, and peak memory, against T."""
    drawing = _Drawing(cells)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.9), layout="constrained")
        _speed_and_memory(drawing, *figure.subplots(1, 2))
        lines = [Line2D([], [], label=arm, **look) for arm, look in drawing.looks.items()]
        figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), frameon=False)
    return figure


def summary_figure(cells: Sequence[Cell]) -> Figure:
    """Accuracy, speed and memory in one picture; of a grid, the accuracy at the best cell's batch size."""
    drawing = _Drawing(cells)
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
        speed, memory = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
        _speed_and_memory(drawing, speed, memory)
        speed.set_xlabel("")
    return figure


def as_png(figure: Figure) -> bytes:
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=160)
        return file.getvalue()


def as_svg(figure: Figure) -> str:
    """An <svg> element to set into a page: in the page's text colour and font, naming no other document."""
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=about)
        svg = file.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs none of them
    svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    return re.sub("'?DejaVu Sans'?", "inherit", svg.replace(INK, "currentColor"))


class _Drawing:
    """What all panels of a sweep share: the cells with a result, and how arms and lengths look."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.done = with_result(cells)
        self.tied = is_tied(self.done)
        self.colors = arm_colors(cell.arm for cell in cells)
        markers = zip(self.colors.items(), cycle("osD^vP"), strict=False)
        self.looks: dict[str, Any] = {arm: {"color": color, "marker": m} for (arm, color), m in markers}
        frames = frames_per_step(self.done)
        self.together = f"{frames} frames a step" if frames else "B with it"

    def name(self, value: Length | int) -> str:
        """Of a B, or of a T: with its stride where strides differ."""
        if isinstance(value, int):
            return str(value)
        return f"{value[0]} x {value[1]}" if strides_differ(self.done) else str(value[0])

    def dress_x(self, axes: Axes, cells: Sequence[Cell], axis: Axis) -> dict[Any, float]:
        """Tick each T or B at its logarithm, or in a row where only strides tell lengths apart.

        Where T and B are tied, each tick names both. Returns the positions.
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
        axes.set_xticks([positions[value] for value in labels], list(labels.values()))
        one = "T, frames per clip" if axis is _length else "B, clips per step"
        axes.set_xlabel(f"T and B, {self.together}" if self.tied else one)
        low, high = min(positions.values()), max(positions.values())
        margin = 0.08 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        return positions

    def label_ends(self, axes: Axes, ends: Mapping[str, float]) -> None:
        """Write each arm's name right of its line's end; names that would overlap move apart."""
        low, high = axes.get_ylim()
        arms = sorted(ends, key=lambda arm: ends[arm])
        heights = [(ends[arm] - low) / (high - low) for arm in arms]
        for _ in range(100):
            for i in range(1, len(heights)):
                overlap = LABEL_HEIGHT - (heights[i] - heights[i - 1])
                if overlap > 0:
                    heights[i - 1] -= overlap / 2
                    heights[i] += overlap / 2
        for arm, height in zip(arms, heights, strict=True):
            look: dict[str, Any] = {"color": self.colors[arm], "weight": "bold", "va": "center"}
            axes.text(1.01, height, arm, transform=axes.transAxes, **look)


def _panels(drawing: _Drawing, axis: Axis, other: Axis, title: str) -> Figure:
    """The accuracy against one axis, on one scale: a panel for each value of the other."""
    panels: dict[str, list[Cell]] = {title: drawing.done} if drawing.tied else {}
    for cell in [] if drawing.tied else sorted(drawing.done, key=other):
        name = f"{'T' if other is _length else 'B'} = {drawing.name(other(cell))}"
        panels.setdefault(name, []).append(cell)
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(7.4 if columns == 1 else 4.4 * columns, 4.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
        for axes, (name, cells) in zip(grid, panels.items(), strict=False):
            axes.set_title(name)
            _accuracy(axes, drawing, cells, axis)
            axes.label_outer(remove_inner_ticks=False)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
    return figure


def _accuracy(axes: Axes, drawing: _Drawing, cells: Sequence[Cell], axis: Axis) -> None:
    """Top-1 with its 95 % interval, each seed as a dot, the ceiling and chance."""
    positions = drawing.dress_x(axes, cells, axis)
    _set_scale(axes, drawing.done)
    _bounds(axes, positions, cells, axis)
    axes.set_ylabel("validation top-1")
    ends = {}
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
    drawing.label_ends(axes, ends)


def _bounds(axes: Axes, positions: Mapping[Any, float], cells: Sequence[Cell], axis: Axis) -> None:
    """The ceiling of each T or B, and chance, where they are known."""
    line: dict[str, Any] = {"color": MUTED, "linewidth": 1.4, "zorder": 1}
    text: dict[str, Any] = {"textcoords": "offset points", "color": MUTED, "fontsize": 9}
    ceilings = {axis(cell): cell.best_possible_top1 for cell in cells if cell.best_possible_top1}
    if ceilings:
        x = [positions[value] for value in sorted(ceilings)]
        y = [ceilings[value] for value in sorted(ceilings)]
        axes.plot(x, y, linestyle=(0, (4, 2)), **line)
        axes.fill_between(x, y, 1.2, color=MUTED, alpha=0.10, linewidth=0, zorder=0)
        middle = x[len(x) // 2], y[len(x) // 2]
        offset, side = (-12, "right") if y[-1] >= y[0] else (12, "left")
        axes.annotate("best possible", middle, xytext=(offset, 4), ha=side, **text)
    classes = cells[0].done[0].num_classes
    if classes and 1 / classes > axes.get_ylim()[0]:
        axes.axhline(1 / classes, linestyle=(0, (1, 2)), **line)
        text |= {"xycoords": axes.get_yaxis_transform(), "ha": "right", "va": "top"}
        axes.annotate("chance", (0.99, 1 / classes), xytext=(0, -4), **text)


def _set_scale(axes: Axes, done: Sequence[Cell]) -> None:
    """The part of 0 to 100 % that the intervals and ceilings need, from 0 where they come near it."""
    low = min(cell.top1.low for cell in done)
    high = max(max(cell.top1.high, cell.best_possible_top1 or 0.0) for cell in done)
    low = 0.0 if low < 0.3 else math.floor(20 * low) / 20
    high = min(1.0, math.ceil(20 * high) / 20)
    axes.set_ylim(low, high + 0.02 * (high - low))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _speed_and_memory(drawing: _Drawing, speed: Axes, memory: Axes) -> None:
    speed.set_title("Clips per second")
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(ScalarFormatter())
    _figure_of(speed, drawing, lambda cell: cell.clips_per_second)
    memory.set_title("Peak memory, GiB")
    _figure_of(memory, drawing, lambda cell: cell.peak_memory_mib / 1024)
    memory.set_ylim(0, 1.1 * memory.get_ylim()[1])


def _figure_of(axes: Axes, drawing: _Drawing, value: Callable[[Cell], float]) -> None:
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
