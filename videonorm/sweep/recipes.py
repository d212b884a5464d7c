"""What each cell was trained with, and how far runs without a result are: from the run folders of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonorm.sweep.axes import as_text
from videonorm.sweep.cells import Cell
from videonorm.sweep.records import fraction, read_json, seconds_silent
from videonorm.sweep.results import Result

Settings = dict[str, str]  # option of `fit` -> value


@dataclass(frozen=True)
class Recipes:
    """The settings of the cells whose run folders are there, of each cell's first run.

    Attributes:
        common: what is the same for all.
        own: the cells, each with what is not.
    """

    common: Settings
    own: list[tuple[Cell, Settings]]


def read_recipes(output: Path, cells: Sequence[Cell]) -> Recipes:
    found = []
    for cell in cells:
        asked = read_json(output / Path(cell.results[0].run).name / "asked.json").get("asked")
        if isinstance(asked, dict):
            found.append((cell, _settings(asked)))
    every = [settings for _, settings in found]
    common = {
        key: value
        for key, value in (every[0] if len(every) > 1 else {}).items()
        if all(settings.get(key) == value for settings in every)
    }
    return Recipes(
        common,
        [(cell, {key: of[key] for key in of if key not in common}) for cell, of in found],
    )


def _settings(asked: Mapping[str, Any]) -> Settings:
    """The recipe, its overlays and the options, each over those before it. Seed and folder are the run's."""
    settings: dict[str, Any] = {}
    for layer in [*asked.get("configs", []), asked.get("options", {})]:
        flat = dict(_flat(layer))
        for key, value in flat.items():
            if (
                key.endswith("class_path") and settings.get(key, value) != value
            ):  # another class, other arguments
                arguments = f"{key.removesuffix('class_path')}init_args."
                settings = {of: kept for of, kept in settings.items() if not of.startswith(arguments)}
        settings |= flat
    leave = ("seed_everything", "trainer.default_root_dir")
    return {key: as_text(value) for key, value in sorted(settings.items()) if key not in leave}


def _flat(layer: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(layer, dict) or (not layer and prefix):
        return [(prefix, layer)]
    return [
        pair
        for key, value in layer.items()
        for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]


@dataclass(frozen=True)
class Unfinished:
    """A run that was begun and has not ended: it is running, or waits to go on."""

    run: str
    fraction: float  # of its steps, in [0, 1]
    minutes_silent: float  # since it has last written into its folder


def unfinished(output: Path, results: Sequence[Result]) -> list[Unfinished]:
    """The runs of a sweep that have no row, in the order of their names."""
    ended = {result.run for result in results}
    folders = (asked.parent for asked in sorted(output.glob("*/asked.json")))
    return [
        Unfinished(of.name, fraction(read_json(of / "run.json")), seconds_silent(of) / 60)
        for of in folders
        if of.name not in ended
    ]
