"""Scales of a claim's figures: what is measured may span magnitudes."""

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from videonorm.study.recorded import Floats

SPANS = 100.0  # values whose largest is so many times their least are drawn on a logarithmic scale


def is_wide(values: Floats) -> bool:
    """Whether only a logarithmic scale shows all of them; what is not finite does not count."""
    least, most = finite_range(values)
    return least > 0 and most > SPANS * least


def finite_range(values: Floats) -> tuple[float, float]:
    """The least and the greatest that is finite; nan where there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)


def logarithmic(axes: Axes, side: Literal["x", "y"]) -> None:
    """Ticks are plain numbers: a page's text has no formulas."""
    set_scale, axis = (axes.set_xscale, axes.xaxis) if side == "x" else (axes.set_yscale, axes.yaxis)
    set_scale("log")
    plain(axis)


def plain(axis: Any) -> None:
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)
