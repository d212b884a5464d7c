"""The options that the commands of this room share, and what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.files import check_writable
from videonorm.machine import available_cores
from videonorm.messages import did_you_mean
from videonorm.options import Parser, positive_integer, positive_number

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.frontier.plan import Question

MANY: dict[str, Any] = {"nargs": "+", "metavar": "N", "type": positive_integer}


def new_parser(name: str, description: str, epilog: str) -> tuple[Parser, argparse._ArgumentGroup]:
    """A parser with what is trained, on clips of which lengths; and its group of these."""
    options = Parser(prog=f"videonorm frontier {name}", description=description, epilog=epilog)
    recipe = options.add_argument_group("what is trained")
    recipe.add_argument(
        "-c", "--config", type=Path, action="append", required=True, metavar="FILE", help="recipe, overlays"
    )
    recipe.add_argument("--num_frames", **MANY, help="frames of a clip (default: the recipe's)")
    return options, recipe


def add_out(options: Parser, name: str, what: str) -> None:
    default = Path(f"runs/frontier/{name}.csv")
    options.add_argument_group("result").add_argument(
        "--out", type=Path, default=default, metavar="FILE.csv", help=f"{what} (default: %(default)s)"
    )


def new_memory_parser(
    name: str,
    description: str,
    epilog: str,
    *,
    memory: str,
    reserve: str,
    reserve_gib: float | None,
    out: str,
) -> Parser:
    """A parser of what is to fit in which memory.

    Args:
        memory, reserve, out: help of --memory_gib, --reserve_gib and --out.
        reserve_gib: default of --reserve_gib.
    """
    options, recipe = new_parser(name, description, epilog)
    recipe.add_argument(
        "--norms", nargs="+", metavar="NORM", help="overlays (default: the recipe's own norm)"
    )
    recipe.add_argument("--crop_size", **MANY, help="pixels of a clip's side (default: the recipe's)")
    group = options.add_argument_group("memory")
    group.add_argument("--memory_gib", type=positive_number, metavar="GIB", help=memory)
    group.add_argument(
        "--reserve_gib", type=positive_number, default=reserve_gib, metavar="GIB", help=reserve
    )
    add_out(options, name, out)
    return options


def check_out(path: Path) -> None:
    """Raise UserError if the table could not be written, or would be by its picture."""
    if path.suffix == ".png":
        raise UserError(f"--out ({path}) must be a table's file, such as {path.with_suffix('.csv')}")
    try:
        check_writable(path)
    except OSError as error:
        raise UserError(f"--out ({path}) must be a file that can be written: {error.strerror}") from error


def questions(options: argparse.Namespace) -> list[Question]:
    """Every norm, crop and length that is asked for, of the recipe or of an overlay.

    Raises:
        UserError: of a mistake in them, or in the recipe.
    """
    from videonorm.frontier.plan import Question
    from videonorm.frontier.recipe import read_recipe

    overlays = _overlays(options.config[0], options.norms)
    crop_sizes, lengths = (each_once(name, getattr(options, name)) for name in ("crop_size", "num_frames"))
    with ThreadPoolExecutor(available_cores()) as pool:  # each waits for a process
        recipes = list(pool.map(read_recipe, ([*options.config, *overlay] for overlay in overlays.values())))
    return [
        Question(norm, recipe, num_frames, crop_size)
        for norm, recipe in zip(overlays, recipes, strict=True)
        for crop_size in crop_sizes or [recipe.crop_size]
        for num_frames in lengths or [recipe.num_frames]
    ]


def _overlays(recipe: Path, norms: list[str] | None) -> dict[str, list[Path]]:
    """Overlays by the norm that they are named for."""
    if norms is None:
        return {"recipe": []}
    found: dict[str, list[Path]] = {}
    for norm in each_once("norms", norms) or []:
        path = find_overlay(norm, [recipe.parent / "norm"], "norms")
        found[path.stem] = [path]
    return found


def find_overlay(name: str, folders: Sequence[Path], option: str) -> Path:
    """An overlay, by its file or by its name in the first of the folders that has it."""
    if name.endswith((".yaml", ".yml")):
        if not (path := Path(name)).is_file():
            raise UserError(f"--{option} ({name}) must be an existing file")
        return path
    known = {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}
    if name not in known:
        raise UserError(
            f"--{option} ({name}) must be a YAML file or one of {', '.join(sorted(known))}"
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def each_once(name: str, values: list[Any] | None) -> list[Any] | None:
    """The values of an option; UserError if it repeats one."""
    if values and len(set(values)) < len(values):
        raise UserError(f"--{name} ({' '.join(map(str, values))}) must not repeat a value")
    return values
