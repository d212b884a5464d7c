"""Pictures: what batch fits against the length of clips, and what a batch norm finds in it."""

from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from videonorm.frontier.plan import Point
from videonorm.frontier.statistics import Cell
from videonorm.look import MUTED, STYLE, arm_colors


def iso_memory(points: Sequence[Point]) -> Figure:
    """Largest B against T, on scales of powers, a panel a crop; where no batch fits there is none.

    At least one has to fit.
    """
    crops = sorted({point.crop_size for point in points if point.max_batch_size})
    colors = arm_colors(point.norm for point in points)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.4 + 5.2 * len(crops), 4.2), layout="constrained")
        panels = figure.subplots(1, len(crops), squeeze=False, sharey=True)[0]
        for axes, crop in zip(panels, crops, strict=True):
            for number, (norm, color) in enumerate(colors.items()):  # thinner ones on top: they may coincide
                of_norm = [p for p in points if (p.norm, p.crop_size) == (norm, crop) and p.max_batch_size]
                of_norm.sort(key=lambda point: point.num_frames)
                width = max(5.0 - 1.2 * number, 1.2)
                lengths, sizes = (
                    [getattr(point, name) for point in of_norm] for name in ("num_frames", "max_batch_size")
                )
                axes.plot(lengths, sizes, "o-", color=color, label=norm, lw=width, ms=3 * width)
            _scale_by_twos(axes, {point.num_frames for point in points})
            axes.set(
                xlabel="T, frames per clip", title=f"{points[0].gib_memory:g} GiB hold, at {crop} x {crop}"
            )
        panels[0].set_ylabel("B, largest batch")
        panels[-1].legend(frameon=False)
    return figure


def independent_values(cells: Sequence[Cell], few: float) -> Figure:
    """The median layer's n_eff against B, on scales of powers, a line a T, and what would be too few."""
    lengths = sorted({cell.num_frames for cell in cells})
    colors = arm_colors(f"T = {length}" for length in lengths)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, (length, color) in enumerate(zip(lengths, colors.values(), strict=True)):
            # Thinner ones on top: they may coincide.
            width = max(5.0 - 1.2 * number, 1.2)
            of_length = sorted(
                (cell for cell in cells if cell.num_frames == length), key=lambda cell: cell.batch_size
            )
            sizes = [cell.batch_size for cell in of_length]
            values = [cell.median("n_eff") for cell in of_length]
            axes.plot(sizes, values, "o-", color=color, label=f"T = {length}", lw=width, ms=3 * width)
        axes.axhline(few, color=MUTED, lw=1.2, ls="--")
        axes.annotate(
            f"too few below {few:g}",
            (1.0, few),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=MUTED,
        )
        _scale_by_twos(axes, {cell.batch_size for cell in cells})
        axes.set(xlabel="B, clips of a batch", title="Independent values behind a batch's statistics")
        axes.set_ylabel("n_eff, median layer")
        axes.legend(frameon=False)
    return figure


def _scale_by_twos(axes: Axes, ticks: Iterable[int]) -> None:
    """Both scales in powers of two, with ``ticks`` below."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sorted(ticks))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
