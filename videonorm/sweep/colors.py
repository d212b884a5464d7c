"""One colour a norm, the same in the terminal, the plots and the report."""

from collections.abc import Iterable
from itertools import cycle

# Okabe & Ito, "Color Universal Design" (2008): told apart with any colour vision, on white and on black.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def norm_colors(norms: Iterable[str]) -> dict[str, str]:
    """A colour for each norm, by order of appearance."""
    return dict(zip(dict.fromkeys(norms), cycle(PALETTE), strict=False))
