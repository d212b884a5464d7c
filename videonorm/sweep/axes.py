"""Further axes of a sweep: options of `fit` with several values each, beside arm, T, B and seed.

An axis is named by its option, such as ``data.crop_size``; where people read, by as few of its last parts as
tell it from the others.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any


def as_text(value: Any) -> str:
    """A value as it is given to an option, and as results.csv has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def as_number(text: str | None) -> float | None:
    """The value of a further axis, where it is a finite number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_called(option: str, given: str) -> bool:
    """Whether an axis is named so: by its option, or the end of it in whole parts."""
    return option == given or option.endswith(f".{given}")


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the axes' values, the last axis fastest; one without any axis."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """By option, its shortest ending in whole parts that no other has."""
    parts = {name: name.split(".") for name in names}
    short = {}
    for name, own in parts.items():
        others = [other for other in parts.values() if other is not own]
        length = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        short[name] = ".".join(own[-length:])
    return short


def in_words(axes: Mapping[str, Any], names: Iterable[str]) -> str:
    """Some of a cell's values for people, such as "crop_size 112, lr 0.002"."""
    short = short_names(axes)
    return ", ".join(f"{short[name]} {as_text(axes[name])}" for name in names)


def in_a_name(axes: Mapping[str, Any]) -> str:
    """The values as part of a folder's name, such as "_crop-size-112_lr-0.002"; empty without axes."""
    short = short_names(axes)
    parts = (f"{short[name]}-{as_text(value)}" for name, value in axes.items())
    clean = (re.sub(r"[^\w.+-]+|_", "-", part, flags=re.ASCII).strip("-") for part in parts)
    return "".join(f"_{part}" for part in clean)
