"""The iso-memory curves: for each norm, the batch that fits against the length of its clips."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from videonorm.frontier.plan import Point
from videonorm.look import STYLE, arm_colors


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
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks(sorted({point.num_frames for point in points}))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_locator(NullLocator())
            axes.set(
                xlabel="T, frames per clip", title=f"{points[0].gib_memory:g} GiB hold, at {crop} x {crop}"
            )
        panels[0].set_ylabel("B, largest batch")
        panels[-1].legend(frameon=False)
    return figure


def as_png(figure: Figure) -> bytes:
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=160)
        return file.getvalue()
