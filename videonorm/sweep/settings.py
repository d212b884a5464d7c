"""What the layers of a run's configuration say of one option: its recipe, overlays, overrides and axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from videonorm.errors import UserError


def devices(layers: Sequence[Mapping[str, Any]]) -> int:
    """GPUs, or processes, of a run: one where the recipe takes what there is, as it is given one."""
    value = last("trainer.devices", layers)
    if isinstance(value, list):
        raise UserError(
            f"trainer.devices ({value}) must be a number in a sweep, which gives each run its GPUs"
        )
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def positive(key: str, layers: Sequence[Mapping[str, Any]]) -> int | None:
    """A whole number of the recipe, its overlays, the overrides or an axis."""
    value = last(key, layers)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{key} ({value}) must be an integer of at least 1")
    return value


def last(dotted: str, layers: Sequence[Mapping[str, Any]]) -> Any:
    """Value of ``a.b`` in the last layer that has it, nested as in a recipe or dotted as in `overrides`."""
    for layer in reversed(layers):
        value: Any = layer
        for key in [dotted] if dotted in layer else dotted.split("."):
            if not isinstance(value, Mapping) or key not in value:
                break
            value = value[key]
        else:
            return value
    return None
