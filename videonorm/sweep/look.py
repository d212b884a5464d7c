"""How arms and numbers look, the same in the terminal, the plots and the report."""

from collections.abc import Collection, Iterable
from itertools import cycle

# Okabe & Ito, "Color Universal Design" (2008): told apart with any colour vision, on white and on black.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def arm_colors(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, by order of appearance."""
    return dict(zip(dict.fromkeys(arms), cycle(PALETTE), strict=False))


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
