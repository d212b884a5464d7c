"""Verdicts as intervals: where each lies between what is claimed and the contrary, one row a claim.

A row has a scale of its own, as far as its interval needs, with no effect in the middle: of a ratio, 1, and
the logarithm of what is drawn. What can be compared between rows is the side, and how far from the middle an
interval is for its length.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from videonorm.look import INK, MUTED, STYLE
from videonorm.study.judgement import COLORS, Judged, headline
from videonorm.study.study_file import Claim
from videonorm.study.verdicts import Verdict

ROOM = 1.15  # of a scale, for the longest side of its interval
BAND = COLORS["holds"][0]  # where the claim puts its effect
LINE = 120  # letters of the sentence above the summary
LETTERS = 74  # of a claim, in a line of the summary


@dataclass(frozen=True)
class Place:
    """Where a verdict's numbers are on a scale from -1 to 1, with no effect at 0.

    Attributes:
        value: None where it is infinite, or there is none.
        low, high: of the interval.
        open_low, open_high: the interval goes on beyond the scale.
        claimed: the part that the claim puts the effect in.
        margin: 0 without one.
    """

    value: float | None
    low: float
    high: float
    open_low: bool
    open_high: bool
    claimed: tuple[float, float]
    margin: float


def place(verdict: Verdict, claim: Claim, *, towards: bool = False) -> Place | None:
    """None where the verdict has no interval.

    Args:
        towards: turn the scale so that higher is as claimed.
    """
    if verdict.low is None or verdict.high is None:
        return None
    ratio = verdict.is_ratio
    effect = math.nan if verdict.effect is None else verdict.effect
    low, value, high = (_log(of) if ratio else of for of in (verdict.low, effect, verdict.high))
    margin = math.log1p(verdict.margin) if ratio else verdict.margin
    if towards and claim.expected == "lower":
        low, value, high = -high, -value, -low
    side = "higher" if towards else claim.expected
    known = [abs(of) for of in (low, value, high, margin) if math.isfinite(of)]
    reach = ROOM * max(known, default=0.0) or 1.0
    within = margin / reach
    claimed = {
        "equivalence": (-within, within),
        "non_inferiority": (-within, 1.0) if side == "higher" else (-1.0, within),
    }.get(verdict.statistic, (0.0, 1.0) if side == "higher" else (-1.0, 0.0))
    return Place(
        value / reach if math.isfinite(value) else None,
        max(-1.0, low / reach),
        min(1.0, high / reach),
        not math.isfinite(low),
        not math.isfinite(high),
        claimed,
        within,
    )


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def summary_figure(judged: Sequence[Judged]) -> Figure:
    """All claims in one picture, each turned so that right is as claimed."""
    rows = range(len(judged))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(12.5, 1.3 + 0.34 * len(judged)), layout="constrained")
        axes = figure.subplots()
        told = axes.twinx()
        for side in (axes, told):
            side.spines[["left", "bottom"]].set_visible(False)
            side.set(xlim=(-1.04, 1.04), ylim=(len(judged) - 0.4, -0.6))
            side.tick_params(length=0, labelsize=9)
        told_in_all = textwrap.fill(headline([of.verdict for of in judged]), LINE)
        figure.suptitle(told_in_all, x=0.01, ha="left", weight="bold")
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_xticks([-0.6, 0, 0.6], ["the contrary", "no effect", "as claimed"])
        axes.set_yticks(rows, [f"{_short(of.verdict.sentence)}  {of.verdict.claim}" for of in judged])
        told.set_yticks(rows, [_told(of) for of in judged])
        for label, of in zip(told.get_yticklabels(), judged, strict=True):
            label.set_color(of.color)
        for y, of in enumerate(judged):
            _row(axes, y, of)
    return figure


def _told(of: Judged) -> str:
    """The verdict in a word, and the effect."""
    unit = of.verdict.unit.split(" ")[0]
    parts = [of.word, of.effect and f" {of.effect}", unit if of.effect and unit in ("points", "x") else ""]
    return " ".join(filter(None, parts))


def _row(axes: Axes, y: int, of: Judged) -> None:
    found = place(of.verdict, of.claim, towards=True)
    if found is None:
        return
    left, right = found.claimed
    axes.barh(y, right - left, 0.62, left, color=BAND, alpha=0.10, linewidth=0)
    if found.margin:
        look: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (3, 2))}
        axes.vlines([-found.margin, found.margin], y - 0.31, y + 0.31, **look)
    axes.plot([found.low, found.high], [y, y], color=of.color, linewidth=2.2, solid_capstyle="butt")
    for is_open, x, marker in ((found.open_low, found.low, "<"), (found.open_high, found.high, ">")):
        if is_open:
            axes.plot(x, y, marker, color=of.color, markersize=6)
    if found.value is not None:
        axes.plot(found.value, y, "o", color=of.color, markeredgecolor="white", markersize=7.5)


def _short(sentence: str) -> str:
    return textwrap.shorten(sentence, LETTERS, placeholder=" …")
