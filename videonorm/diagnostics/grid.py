"""Numbers that are evenly spread on a logarithmic scale."""

import math

from videonorm.errors import UserError


def log_grid(least: float, largest: float, per_decade: int, names: tuple[str, str]) -> list[float]:
    """least * 10^(i / per_decade) for i = 0, 1, ... as far as ``largest``.

    Raises:
        UserError: they are no such range; ``names`` says whose.
    """
    if not 0 < least < math.inf:
        raise UserError(f"{names[0]} ({least:g}) must be above 0")
    if not least <= largest < math.inf:
        raise UserError(f"{names[1]} ({largest:g}) must be at least {names[0]} ({least:g}), and finite")
    if per_decade < 1:
        raise UserError(f"per_decade ({per_decade}) must be at least 1")
    steps = math.floor(per_decade * math.log10(largest / least) + 1e-9)
    return [least * 10 ** (step / per_decade) for step in range(steps + 1)]
