"""How arms and shares look, the same in the terminal, the plots and the report."""

from collections.abc import Iterable
from itertools import cycle

# Okabe & Ito, "Color Universal Design" (2008): told apart with any colour vision, on white and on black.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def arm_colors(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, by order of appearance."""
    return dict(zip(dict.fromkeys(arms), cycle(PALETTE), strict=False))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
