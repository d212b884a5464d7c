"""The picture of a long video: which class the network sees when."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from videonorm.evaluation.windows import Windows
from videonorm.look import MUTED, PALETTE, PERCENT, STYLE

MOST_CLASSES = 12  # rows of the picture


def timeline(title: str, windows: Windows, names: Sequence[str]) -> Figure:
    """A row a class, from pale to dark by its probability, over the time of the video.

    The classes are those that are first in some window, the most frequent on top, and then the most likely.
    Windows that could not be decoded are hatched.

    Args:
        names: of all K classes.
    """
    labels = _shown(windows)
    values = windows.probabilities[:, labels].T.numpy().copy()
    values[:, ~windows.scored.numpy()] = np.nan
    edges = _edges(np.asarray(windows.seconds))
    shades = LinearSegmentedColormap.from_list("probability", ["#f2f4f6", PALETTE[1]])
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(11.0, 1.6 + 0.36 * len(labels)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(edges[0], edges[-1], facecolor="white", edgecolor=MUTED, hatch="////", lw=0)
        mesh = axes.pcolormesh(
            edges, np.arange(len(labels) + 1), np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=1
        )
        axes.hlines(np.arange(1, len(labels)), edges[0], edges[-1], color="white", lw=2)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(labels), 0), title=title)
        axes.set_yticks(np.arange(len(labels)) + 0.5, [_short(names[label]) for label in labels])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _clock(seconds)))
        axes.set_xlabel(f"time in the video; {len(windows.seconds):,} windows")
        bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}{PERCENT}"))
    return figure


def _shown(windows: Windows) -> list[int]:
    """The classes with rows."""
    scored = windows.probabilities[windows.scored]
    first = torch.bincount(scored.argmax(dim=1), minlength=scored.shape[1])
    # The mean is at most 1, so that it orders those that are first as often.
    order = (first + scored.mean(dim=0)).argsort(descending=True).tolist()
    return order[: min(MOST_CLASSES, max(5, int((first > 0).sum())))]


def _edges(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N + 1,) where the columns of windows (N, 2) meet: halfway between the middles of neighbours."""
    middles = seconds.mean(axis=1)
    end = max(seconds[-1, 1], seconds[0, 0] + 1e-3)  # of a single frame there is no time
    return np.array([seconds[0, 0], *(middles[1:] + middles[:-1]) / 2, end])


def _clock(seconds: float) -> str:
    """Such as 12.5 s, or 3:05 from a minute on."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}\u2026"
