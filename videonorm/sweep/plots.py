"""The plots of a sweep: accuracy, speed and memory against T and B, one colour a norm.

Each function draws one figure from the summaries; ``as_png`` and ``as_svg`` make a file of it.
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

from videonorm.sweep.colors import norm_colors
from videonorm.sweep.results import Summary, is_tied

INK = "#1a1d21"  # all text and lines that are not data; `as_svg` makes it the colour of the text around it
MUTED = "#7d848c"
LABEL_HEIGHT = 0.055  # of a norm's name, in heights of its axes
DASHES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 2.2,
    "lines.markersize": 6.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "videonorm",
}

Length = tuple[int, int]  # (num_frames, frame_stride)
Axis = Callable[[Summary], Any]  # what a plot has on its x axis: `_length` or `_batch_size`


def accuracy_against_batch_size(summaries: Sequence[Summary]) -> Figure:
    """Top-1 against B; one panel a clip length, unless T and B are tied."""
    drawing = _Drawing(summaries)
    if drawing.tied:
        return _panels(drawing, {"Accuracy against batch size": drawing.done}, _batch_size)
    panels: dict[str, list[Summary]] = {}
    for summary in sorted(drawing.done, key=_length):
        panels.setdefault(f"T = {drawing.name(_length(summary))}", []).append(summary)
    return _panels(drawing, panels, _batch_size)


def accuracy_against_num_frames(summaries: Sequence[Summary]) -> Figure:
    """Top-1 against T with its ceiling; one panel a batch size, unless T and B are tied."""
    drawing = _Drawing(summaries)
    if drawing.tied:
        return _panels(drawing, {"Accuracy against clip length": drawing.done}, _length)
    panels: dict[str, list[Summary]] = {}
    for summary in sorted(drawing.done, key=_batch_size):
        panels.setdefault(f"B = {summary.batch_size}", []).append(summary)
    return _panels(drawing, panels, _length)


def heat_map(summaries: Sequence[Summary]) -> Figure:
    """Top-1 over T x B, one map a norm; squares without a cell stay empty."""
    drawing = _Drawing(summaries)
    norms = list(dict.fromkeys(summary.norm for summary in drawing.done))
    lengths = sorted({_length(summary) for summary in drawing.done})
    sizes = sorted({summary.batch_size for summary in drawing.done})
    values = [summary.top1.value for summary in drawing.done]
    scale = Normalize(min(values), max(max(values), min(values) + 0.01))
    with matplotlib.rc_context(STYLE):
        width = max(7.4, len(norms) * (0.9 + 0.62 * len(sizes)))
        figure = Figure(figsize=(width, 1.5 + 0.5 * len(lengths)), layout="constrained")
        for axes, norm in zip(_row(figure, len(norms)), norms, strict=True):
            axes.set_title(norm, color=drawing.colors[norm])
            axes.grid(False)
            axes.spines[["left", "bottom"]].set_visible(False)
            for summary in drawing.done:
                if summary.norm == norm:
                    x, y = sizes.index(summary.batch_size), lengths.index(_length(summary))
                    share = float(scale(summary.top1.value))
                    color = matplotlib.colormaps["cividis"](share)
                    axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=color))
                    ink = "black" if share > 0.5 else "white"
                    axes.text(x, y, f"{100 * summary.top1.value:.1f}", ha="center", va="center", color=ink)
            axes.set(xlim=(-0.55, len(sizes) - 0.45), ylim=(-0.55, len(lengths) - 0.45))
            axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
            axes.set_yticks(range(len(lengths)), [drawing.name(length) for length in lengths])
            axes.tick_params(length=0)
            axes.set_xlabel("B, clips per step")
            if norm == norms[0]:
                axes.set_ylabel("T, frames per clip")
    return figure


def speed_and_memory(summaries: Sequence[Summary]) -> Figure:
    """Training clips per second, and peak memory, against T."""
    drawing = _Drawing(summaries)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.9), layout="constrained")
        speed, memory = _row(figure, 2)
        _speed(speed, drawing)
        _memory(memory, drawing)
        lines = [
            Line2D([], [], color=color, marker=drawing.markers[norm], label=norm)
            for norm, color in drawing.colors.items()
        ]
        figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), frameon=False)
    return figure


def summary_figure(summaries: Sequence[Summary]) -> Figure:
    """Accuracy, speed and memory in one picture; of a grid, the accuracy at the best cell's batch size."""
    drawing = _Drawing(summaries)
    best = max(drawing.done, key=lambda summary: summary.top1.value)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 5.4), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.06))
        grid = figure.add_gridspec(2, 2, width_ratios=(1.75, 1))
        accuracy = figure.add_subplot(grid[:, 0])
        cells = [s for s in drawing.done if drawing.tied or s.batch_size == best.batch_size]
        _accuracy(accuracy, drawing, cells, _length)
        held = drawing.frames_per_step if drawing.tied else f"B = {best.batch_size}"
        accuracy.set_title(f"Accuracy against clip length, {held}")
        speed, memory = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
        _speed(speed, drawing)
        _memory(memory, drawing)
        speed.set_xlabel("")
    return figure


def as_png(figure: Figure) -> bytes:
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=160)
        return file.getvalue()


def as_svg(figure: Figure) -> str:
    """An <svg> element to set into a page: in the page's text colour and font, naming no other document."""
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = file.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs none of them
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return (
        svg.replace(INK, "currentColor").replace("'DejaVu Sans'", "inherit").replace("DejaVu Sans", "inherit")
    )


class _Drawing:
    """What all panels of a sweep share: the cells with a result, and how norms and lengths look."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self.done = [summary for summary in summaries if summary.done]
        self.tied = is_tied(self.done)
        self.colors = norm_colors(summary.norm for summary in summaries)
        self.markers = dict(zip(self.colors, cycle("osD^vP"), strict=False))
        self._strides = {summary.frame_stride for summary in self.done}

    def name(self, length: Length) -> str:
        """T, with its stride where strides differ."""
        return f"{length[0]} x {length[1]}" if len(self._strides) > 1 else str(length[0])

    @property
    def frames_per_step(self) -> str:
        frames = {result.frames_per_step for summary in self.done for result in summary.done}
        return f"{frames.pop()} frames a step" if len(frames) == 1 else "B with it"

    def positions(self, cells: Sequence[Summary], axis: Axis) -> dict[Any, float]:
        """Where each T or B stands: at its logarithm, or in a row where only strides tell lengths apart."""
        values = sorted({axis(cell) for cell in cells})
        sizes = [value[0] if isinstance(value, tuple) else value for value in values]
        if len(set(sizes)) < len(sizes):
            return {value: float(index) for index, value in enumerate(values)}
        return {value: math.log2(size) for value, size in zip(values, sizes, strict=True)}

    def dress_x(self, axes: Axes, cells: Sequence[Summary], axis: Axis) -> None:
        """Ticks at the cells; where T and B are tied, each tick names both."""
        positions = self.positions(cells, axis)
        labels = {}
        for cell in cells:
            length, size = self.name(_length(cell)), cell.batch_size
            if self.tied:
                both = (f"T={length}", f"B={size}")
                labels[axis(cell)] = "\n".join(both if axis is _length else reversed(both))
            else:
                labels[axis(cell)] = length if axis is _length else str(size)
        axes.set_xticks([positions[value] for value in labels], list(labels.values()))
        one = "T, frames per clip" if axis is _length else "B, clips per step"
        axes.set_xlabel(f"T and B, {self.frames_per_step}" if self.tied else one)
        low, high = min(positions.values()), max(positions.values())
        margin = 0.08 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)

    def label_ends(self, axes: Axes, ends: Mapping[str, float]) -> None:
        """Write each norm's name right of its line's end; names that would overlap move apart."""
        low, high = axes.get_ylim()
        norms = sorted(ends, key=lambda norm: ends[norm])
        heights = [(ends[norm] - low) / (high - low) for norm in norms]
        for _ in range(100):
            for i in range(1, len(heights)):
                overlap = LABEL_HEIGHT - (heights[i] - heights[i - 1])
                if overlap > 0:
                    heights[i - 1] -= overlap / 2
                    heights[i] += overlap / 2
        for norm, height in zip(norms, heights, strict=True):
            axes.text(
                1.01,
                height,
                norm,
                color=self.colors[norm],
                weight="bold",
                va="center",
                transform=axes.transAxes,
            )


def _panels(drawing: _Drawing, panels: Mapping[str, Sequence[Summary]], axis: Axis) -> Figure:
    """The accuracy of each panel's cells, on one scale."""
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(7.4 if columns == 1 else 4.4 * columns, 4.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
        for axes, (title, cells) in zip(grid, panels.items(), strict=False):
            axes.set_title(title)
            _accuracy(axes, drawing, cells, axis)
            axes.label_outer(remove_inner_ticks=False)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
    return figure


def _accuracy(axes: Axes, drawing: _Drawing, cells: Sequence[Summary], axis: Axis) -> None:
    """Top-1 with its 95 % interval, each seed as a dot, the ceiling and chance."""
    positions = drawing.positions(cells, axis)
    drawing.dress_x(axes, cells, axis)
    _set_scale(axes, drawing.done)
    bottom = axes.get_ylim()[0]
    axes.set_ylabel("validation top-1")

    ceilings = {axis(cell): cell.best_possible_top1 for cell in cells if cell.best_possible_top1}
    if ceilings:
        x = [positions[value] for value in sorted(ceilings)]
        y = [ceilings[value] for value in sorted(ceilings)]
        axes.plot(x, y, color=MUTED, linestyle=(0, (4, 2)), linewidth=1.4, zorder=1)
        axes.fill_between(x, y, 1.2, color=MUTED, alpha=0.10, linewidth=0, zorder=0)
        middle = len(x) // 2
        rises = y[-1] >= y[0]
        axes.annotate(
            "best possible",
            (x[middle], y[middle]),
            xytext=(-12 if rises else 12, 4),
            textcoords="offset points",
            ha="right" if rises else "left",
            color=MUTED,
            fontsize=9,
        )
    classes = cells[0].done[0].num_classes
    if classes and 1 / classes > bottom:
        axes.axhline(1 / classes, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
        axes.annotate(
            "chance",
            (0.99, 1 / classes),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color=MUTED,
            fontsize=9,
        )

    ends = {}
    for number, (norm, color) in enumerate(drawing.colors.items()):
        line = sorted((cell for cell in cells if cell.norm == norm), key=axis)
        if not line:
            continue
        width = axes.get_xlim()[1] - axes.get_xlim()[0]
        aside = 0.011 * width * (number - (len(drawing.colors) - 1) / 2)  # keeps the error bars apart
        x = [positions[axis(cell)] + aside for cell in line]
        top1 = [cell.top1 for cell in line]
        errors = [[t.value - t.low for t in top1], [t.high - t.value for t in top1]]
        values = [t.value for t in top1]
        axes.errorbar(
            x, values, errors, fmt="none", ecolor=color, elinewidth=1.6, capsize=3.5, capthick=1.6, alpha=0.75
        )
        axes.plot(x, values, color=color, marker=drawing.markers[norm], markeredgecolor="white", zorder=3)
        for position, cell in zip(x, line, strict=True):
            if len(cell.done) > 1:
                scores = list(cell.top1_of_seed.values())
                beside = [position + 0.011 * width] * len(scores)
                axes.plot(
                    beside, scores, "o", color=color, alpha=0.4, markersize=3.5, markeredgewidth=0, zorder=2
                )
        ends[norm] = values[-1]
    drawing.label_ends(axes, ends)


def _set_scale(axes: Axes, done: Sequence[Summary]) -> None:
    """The part of 0 to 100 % that the intervals and ceilings need, from 0 where they come near it."""
    low = min(cell.top1.low for cell in done)
    high = max(max(cell.top1.high, cell.best_possible_top1 or 0.0) for cell in done)
    low = 0.0 if low < 0.3 else math.floor(20 * low) / 20
    high = min(1.0, math.ceil(20 * high) / 20)
    axes.set_ylim(low, high + 0.02 * (high - low))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _speed(axes: Axes, drawing: _Drawing) -> None:
    axes.set_title("Clips per second")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    _figure_of(axes, drawing, lambda cell: cell.clips_per_second)


def _memory(axes: Axes, drawing: _Drawing) -> None:
    axes.set_title("Peak memory, GiB")
    _figure_of(axes, drawing, lambda cell: cell.peak_memory_mib / 1024)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])


def _figure_of(axes: Axes, drawing: _Drawing, value: Callable[[Summary], float]) -> None:
    """One line a norm against T; in a grid one a norm and B, told apart by dashes."""
    positions = drawing.positions(drawing.done, _length)
    drawing.dress_x(axes, drawing.done, _length)
    sizes = [None] if drawing.tied else sorted({cell.batch_size for cell in drawing.done})
    for norm, color in drawing.colors.items():
        for size, dashes in zip(sizes, cycle(DASHES), strict=False):
            line = [cell for cell in drawing.done if cell.norm == norm and size in (None, cell.batch_size)]
            x = [positions[_length(cell)] for cell in line]
            y = [value(cell) for cell in line]
            axes.plot(
                x, y, color=color, marker=drawing.markers[norm], markeredgecolor="white", linestyle=dashes
            )
    handles = [
        Line2D([], [], color=MUTED, ls=dashes, label=f"B = {size}")
        for size, dashes in zip(sizes, cycle(DASHES), strict=False)
    ]
    if not drawing.tied:
        axes.legend(handles=handles, frameon=False, fontsize=8.5, handlelength=2.6)


def _row(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False).flat)


def _length(summary: Summary) -> Length:
    return summary.num_frames, summary.frame_stride


def _batch_size(summary: Summary) -> int:
    return summary.batch_size
