"""How arms and numbers look, the same in the terminal, the plots and the report."""

import io
from collections.abc import Collection, Iterable
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # heavy: imported where they are used, so that --help answers at once
    from matplotlib.figure import Figure
    from rich.console import Console

# Okabe & Ito, "Color Universal Design" (2008): told apart with any colour vision, on white and on black.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def arm_colors(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, by order of appearance."""
    return dict(zip(dict.fromkeys(arms), cycle(PALETTE), strict=False))


INK = "#1a1d21"  # all text and lines that are not data; in a page's SVG, the colour of the text around it
MUTED = "#7d848c"
# Of matplotlib.
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
    "text.parse_math": False,  # a name with a $ is a name
}


def as_png(figure: "Figure") -> bytes:
    import matplotlib

    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=160)
        return file.getvalue()


def new_console() -> "Console":
    """The terminal, or a log file of 120 columns."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=120)


PERCENT = "\u00a0%"  # no line ends before the sign
CI = f"95{PERCENT} CI"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}{PERCENT}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: a minus, not a hyphen."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")


def span(counts: Collection[int]) -> str:
    """From the least to the most, such as 150 to 1,200; one number where they are equal."""
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
