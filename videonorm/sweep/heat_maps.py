"""Top-1 as squares with numbers: over T x B, and over trained T x tested T; a map for each arm."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from videonorm.look import INK, STYLE
from videonorm.sweep.cells import Cell
from videonorm.sweep.drawing import (
    BATCH_SIZE,
    LENGTH,
    MOST_PANELS,
    PHONE_WIDTH,
    Drawing,
    chosen,
    note,
    titled,
)
from videonorm.sweep.length_matrix import LengthMatrix


def heat_map(cells: Sequence[Cell], *, phone: bool = False) -> Figure:
    """Top-1 over T x B, with clips seen where they differ. What has no cell is empty."""
    drawing = Drawing(cells)
    lengths = sorted({LENGTH.of(cell) for cell in drawing.done})
    sizes = sorted({BATCH_SIZE.of(cell) for cell in drawing.done})
    share = _scale([cell.top1.value for cell in drawing.done])

    def fill(axes: Axes, of_map: Sequence[Cell]) -> None:
        for cell in of_map:
            x, y = sizes.index(BATCH_SIZE.of(cell)), lengths.index(LENGTH.of(cell))
            seen = f"\n{cell.clips}" if drawing.clips_differ else ""
            _square(axes, x, y, cell.top1.value, share, seen)
        _dress(axes, list(map(str, sizes)), list(map(drawing.name, lengths)))
        axes.set_xlabel("B, clips per step")

    return _maps(drawing, fill, "T, frames per clip", len(sizes), len(lengths), phone)


def length_maps(cells: Sequence[Cell], matrix: LengthMatrix, *, phone: bool = False) -> Figure:
    """Top-1 over trained T x tested T; the last column is of equally many frames a video."""
    drawing = Drawing([of.cell for of in matrix.cells])
    drawing.colors = Drawing(cells).colors
    several = len({cell.shape for cell in drawing.done}) > len({LENGTH.of(cell) for cell in drawing.done})
    rows = sorted({cell.shape for cell in drawing.done})
    names = {
        cell.shape: drawing.shape(cell) if several else drawing.name(LENGTH.of(cell)) for cell in drawing.done
    }
    columns: list[Any] = [*matrix.lengths, *(["frames"] if matrix.frames else [])]
    found = {id(of.cell): of for of in matrix.cells}
    share = _scale([value for of in matrix.cells for value in of.equal_views.values()])
    labels = [drawing.name(length) for length in matrix.lengths]

    def fill(axes: Axes, of_map: Sequence[Cell]) -> None:
        for cell in of_map:
            of, y = found[id(cell)], rows.index(cell.shape)
            for length, value in of.equal_views.items():
                own = length == cell.shape[:2]
                _square(axes, columns.index(length), y, value, share, edge=INK if own else None)
            if of.equal_frames is not None:
                _square(axes, len(columns) - 0.7, y, of.equal_frames, share)
        _dress(axes, labels, [names[shape] for shape in rows])
        if matrix.frames:
            axes.set_xlim(-0.55, len(columns) - 0.15)
            ticks = [*range(len(labels)), len(columns) - 0.7]
            axes.set_xticks(ticks, [*labels, f"{matrix.frames}\nframes"])
        axes.set_xlabel("tested with T frames a clip")

    return _maps(drawing, fill, "trained with T", len(columns) + 1, len(rows), phone)


def _maps(
    drawing: Drawing,
    fill: Callable[[Axes, Sequence[Cell]], None],
    label: str,
    columns: int,
    rows: int,
    phone: bool,
) -> Figure:
    """A map for each arm, side by side; further axes one above the other."""
    arms = list(dict.fromkeys(cell.arm for cell in drawing.done))
    most = max(1, MOST_PANELS // len(arms))
    combinations, left_out = chosen(drawing.panels(lambda cell: ""), "combinations", most)
    maps = [
        (arm, ", ".join(part for part in (arm, name) if part), [cell for cell in of if cell.arm == arm])
        for name, of in combinations.items()
        for arm in arms
    ]
    with matplotlib.rc_context(STYLE):
        width, height = max(7.4, len(arms) * (0.9 + 0.62 * columns)), 1.5 + 0.5 * rows
        grid_rows = len(maps) if phone else len(combinations)
        figure = Figure(figsize=(PHONE_WIDTH if phone else width, height * grid_rows), layout="constrained")
        grid = figure.subplots(grid_rows, 1 if phone else len(arms), squeeze=False).flat
        for axes, (arm, title, of_map) in zip(grid, maps, strict=True):
            titled(axes, title, color=drawing.colors[arm])
            axes.grid(False)
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.tick_params(length=0)
            fill(axes, of_map)
            if phone or arm == arms[0]:
                axes.set_ylabel(label)
        note(figure, left_out, phone)
    return figure


def _scale(values: Sequence[float]) -> Callable[[float], float]:
    """From the least value at 0 to the greatest at 1."""
    norm = Normalize(min(values), max(max(values), min(values) + 0.01))
    return lambda value: float(norm(value))


def _square(
    axes: Axes,
    x: float,
    y: float,
    top1: float,
    share: Callable[[float], float],
    more: str = "",
    edge: str | None = None,
) -> None:
    color = matplotlib.colormaps["cividis"](share(top1))
    look: Mapping[str, Any] = {"edgecolor": edge, "linewidth": 2.0} if edge else {}
    axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=color, **look))
    ink = "black" if share(top1) > 0.5 else "white"
    axes.text(x, y, f"{100 * top1:.1f}{more}", ha="center", va="center", color=ink, fontsize=9)


def _dress(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set(xlim=(-0.55, len(columns) - 0.45), ylim=(-0.55, len(rows) - 0.45))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
