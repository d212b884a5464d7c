"""What all figures of a sweep share: which cells stand in one panel, how arms and axes look, their files.

No line and no square is of cells with different values of a further axis: where one tells cells of an arm and
a shape apart, each of its values has panels of its own. ``phone`` is for a page of PHONE_WIDTH: panels stand
one above the other, and a legend takes the place of names at lines' ends.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from videonorm.look import INK, MUTED, STYLE, arm_colors, span
from videonorm.sweep.axes import as_number, in_words, short_names
from videonorm.sweep.cells import (
    Cell,
    clips_seen,
    frames_per_step,
    highest,
    is_tied,
    strides_differ,
    varied_axes,
    with_result,
)

LABEL_HEIGHT = 0.055  # of a norm's name, in heights of its axes
PHONE_WIDTH = 4.3  # inches of 72 units: a page of 390 px shows letters a little larger than they are set
MOST_PANELS = 12  # of a figure: more are no longer looked at
TITLE = 40  # letters in a line of a panel's title
LETTERS_PER_INCH = 10.2  # of a legend
HANDLE = 7  # of the width of letters: a line in a legend, and the space around
CROWDED = 0.06  # of an axis: ticks that are nearer than this stand in a row

Cells = TypeVar("Cells", bound=Sequence[Cell])


@dataclass(frozen=True)
class Axis:
    """What a plot has on its x axis: T, B or a further axis of numbers."""

    title: str  # "clip length"
    label: str  # "T, frames per clip"
    symbol: str  # "T"
    of: Callable[[Cell], Any]  # a number, or a T with its stride
    option: str | None = None  # of `fit`, where it is a further axis

    def positions(self, values: Sequence[Any]) -> dict[Any, float]:
        """Of sorted values: their logarithms, their values where these span little, or a row.

        A row is for lengths that only strides tell apart, and for values too near to be ticked.
        """
        sizes = [value[0] if isinstance(value, tuple) else value for value in values]
        logarithmic = not self.option or (sizes[0] > 0 and sizes[-1] >= 8 * sizes[0])
        at = [math.log2(size) if logarithmic else float(size) for size in sizes]
        gaps = [after - before for before, after in zip(at, at[1:], strict=False)]
        if gaps and min(gaps) < CROWDED * (at[-1] - at[0]):
            at = [float(i) for i in range(len(at))]
        return dict(zip(values, at, strict=True))


LENGTH = Axis("clip length", "T, frames per clip", "T", lambda cell: cell.shape[:2])
BATCH_SIZE = Axis("batch size", "B, clips per step", "B", lambda cell: int(cell.shape.batch_size))


class Drawing:
    """The cells of a sweep that are drawn, and how arms, lengths and further axes look in all its panels.

    Args:
        cells: all of them, so that an arm has one colour in every figure.
        done: those that are drawn; without it, those with a result.
    """

    def __init__(self, cells: Sequence[Cell], done: Sequence[Cell] | None = None) -> None:
        self.done = with_result(cells) if done is None else list(done)
        self.tied = is_tied(self.done)
        self.colors = arm_colors(cell.arm for cell in cells)
        markers = zip(self.colors.items(), cycle("osD^vP"), strict=False)
        self.looks: dict[str, Any] = {arm: {"color": color, "marker": m} for (arm, color), m in markers}
        self.clips_differ = len(clips_seen(self.done)) > 1
        frames = frames_per_step(self.done)
        self.together = f"{frames} frames a step" if frames else "B with it"
        self._varied = varied_axes(self.done)
        self.splitting = [axis for axis in self._varied if self._splits(axis)]

    def _splits(self, axis: str) -> bool:
        """Whether it tells cells of an arm and a shape apart; else the shape says its value."""
        value_of: dict[Any, str | None] = {}
        return any(
            value_of.setdefault((cell.arm, cell.shape), cell.axes.get(axis)) != cell.axes.get(axis)
            for cell in self.done
        )

    def axes(self) -> list[Axis]:
        """What tells cells apart and can be an x axis: T, B, further axes of numbers; T where none does."""
        found = [axis for axis in (LENGTH, BATCH_SIZE) if len({axis.of(cell) for cell in self.done}) > 1]
        for option, short in short_names(self._varied).items():
            if option in self.splitting and all(as_number(c.axes.get(option)) is not None for c in self.done):
                found.append(Axis(short, short, short, _number_of(option), option))
        return found or [LENGTH]

    def name(self, value: Any) -> str:
        """Of a B, or of a T: with its stride where strides differ."""
        if not isinstance(value, tuple):
            return f"{value:g}"
        return f"{value[0]} x {value[1]}" if strides_differ(self.done) and value[1] else str(value[0])

    def shape(self, cell: Cell) -> str:
        return f"T = {self.name(LENGTH.of(cell))}, B = {BATCH_SIZE.of(cell)}"

    def combination(self, cell: Cell, but: str | None = None) -> str:
        """A cell's values of the axes that share no panel, such as "crop_size 112, lr 0.002"."""
        options = [option for option in self.splitting if option != but and option in cell.axes]
        return in_words(cell.axes, options)

    def panels(
        self, name: Callable[[Cell], str], order: Callable[[Cell], Any] | None = None, but: str | None = None
    ) -> dict[str, list[Cell]]:
        """The cells of each panel by its name, which their combination is added to.

        Args:
            order: of the panels; that of the cells.
            but: a further axis that is within a panel.
        """
        groups: dict[str, list[Cell]] = {}
        for cell in sorted(self.done, key=order) if order else self.done:
            parts = [name(cell), self.combination(cell, but)]
            groups.setdefault(", ".join(part for part in parts if part), []).append(cell)
        return groups

    def dress_x(self, axes: Axes, cells: Sequence[Cell], axis: Axis) -> dict[Any, float]:
        """Tick each value of an axis, at its logarithm or in a row; returns the positions.

        Where T and B are tied, each tick names both, and where the shape says the value of a further axis,
        that too; where cells saw unequal numbers of clips, these.
        """
        positions = axis.positions(sorted({axis.of(cell) for cell in cells}))
        labels = {}
        for cell in cells:
            both = [f"T={self.name(LENGTH.of(cell))}", f"B={BATCH_SIZE.of(cell)}"]
            tied = "\n".join(both if axis is LENGTH else reversed(both))
            one = cell.axes[axis.option] if axis.option else self.name(axis.of(cell))
            labels[axis.of(cell)] = tied if self.tied and not axis.option else one
        what = f"T and B, {self.together}" if self.tied and not axis.option else axis.label
        for option, short in short_names(self._varied).items():
            found: dict[Any, set[str]] = {}
            for cell in cells if option not in self.splitting else ():
                found.setdefault(axis.of(cell), set()).add(cell.axes.get(option, ""))
            if found and all(len(values) == 1 for values in found.values()):
                labels = {value: f"{label}\n{min(found[value])}" for value, label in labels.items()}
                what = f"{what}; {short}"
        seen = {value: clips_seen(cell for cell in cells if axis.of(cell) == value) for value in labels}
        if self.clips_differ and all(len(clips) == 1 for clips in seen.values()):
            labels = {value: f"{label}\n{span(seen[value])}" for value, label in labels.items()}
            what = f"{what}; clips seen"
        axes.set_xticks([positions[value] for value in labels], list(labels.values()))
        axes.set_xlabel(what)
        low, high = min(positions.values()), max(positions.values())
        margin = 0.08 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        return positions

    def legend(self, figure: Figure, *more: Line2D) -> None:
        """Name the arms, and ``more`` lines, above all panels."""
        lines = [*(Line2D([], [], label=arm, **look) for arm, look in self.looks.items()), *more]
        legend(figure, lines)

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


def _number_of(option: str) -> Callable[[Cell], float]:
    return lambda cell: float(cell.axes[option])


def chosen(
    groups: Mapping[str, Cells], what: str = "panels", most: int = MOST_PANELS
) -> tuple[dict[str, Cells], str]:
    """The groups of cells with the highest top-1, in their order, and a sentence if any are left out."""

    def top1(name: str) -> float:
        best = highest(groups[name])
        return best.top1.value if best else 0.0

    best = sorted(groups, key=top1, reverse=True)[:most]
    left_out = f"{most} of {len(groups)} {what}, those with the highest top-1; the table has all cells."
    return {name: groups[name] for name in groups if name in best}, left_out if len(groups) > most else ""


def legend(figure: Figure, lines: Sequence[Line2D]) -> None:
    """Name lines above all panels, in as many columns as the figure is wide."""
    names = [str(line.get_label()) for line in lines]

    def letters(columns: int) -> int:
        return sum(HANDLE + max(map(len, column)) for column in np.array_split(names, columns))

    fit = [n for n in range(2, len(names) + 1) if letters(n) <= LETTERS_PER_INCH * figure.get_figwidth()]
    figure.legend(handles=lines, loc="outside upper left", frameon=False, ncols=max(fit, default=1))


def note(figure: Figure, text: str, phone: bool) -> None:
    """A sentence below all panels."""
    if text:
        lines = textwrap.fill(text, 52 if phone else 110)
        figure.supxlabel(lines, fontsize=8.5, color=MUTED, x=0.01, ha="left")


def titled(axes: Axes, title: str, **look: Any) -> None:
    axes.set_title("\n".join(textwrap.wrap(title, TITLE)), **look)


def panel_grid(
    panels: Mapping[str, Sequence[Cell]], phone: bool, left_out: str = "", *, sharey: bool = True
) -> tuple[Figure, list[tuple[Axes, Sequence[Cell]]]]:
    """A figure with a panel for each name, all on one vertical scale, and the cells of each.

    Args:
        left_out: what else the figure leaves out, to be said below it.
    """
    kept, also = chosen(panels)
    below = " ".join(part for part in (left_out, also) if part)
    figure, grid = empty_grid(list(kept), phone, below, sharey=sharey)
    return figure, list(zip(grid, kept.values(), strict=True))


def empty_grid(
    titles: Sequence[str], phone: bool, below: str = "", *, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title, and a sentence below."""
    columns = 1 if phone else 2 if len(titles) == 4 else min(3, len(titles))
    rows = -(-len(titles) // columns)
    with matplotlib.rc_context(STYLE):
        width = PHONE_WIDTH if phone else 7.4 if columns == 1 else 4.4 * columns
        height = 0.6 + 3.2 * rows if phone else 4.3 * rows
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
        for axes, title in zip(grid, titles, strict=False):
            titled(axes, title)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
        note(figure, below, phone)
    return figure, grid[: len(titles)]


def lay_out(figure: Figure) -> None:
    """Place everything once, which takes longer than to write a file, and would be done for each of them."""
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def as_svg(figure: Figure, name: str) -> str:
    """An SVG file without a background, whose text is in INK.

    Args:
        name: of the figure, unlike all others of a page: what it refers to inside is then its own.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), io.BytesIO() as file:
        about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=about)
        return file.getvalue().decode("utf-8")


def on_white(svg: str) -> str:
    """An SVG file to be looked at alone."""
    end = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:end]}\n <rect width="100%" height="100%" fill="white"/>{svg[end:]}'


def in_a_page(svg: str, width_inches: float) -> str:
    """An <svg> element to set into a page: in the page's text colour and font, naming no other document."""
    svg = svg[svg.index("<svg") :]
    # No larger than its letters look well beside those of the page.
    svg = svg.replace("<svg", f'<svg style="max-width:{round(96 * 1.05 * width_inches)}px"', 1)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs none of them
    svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to these, and every figure has the same
    return re.sub("'?DejaVu Sans'?", "inherit", svg.replace(INK, "currentColor"))
