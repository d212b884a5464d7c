"""A sweep file becomes a list of cells: one training run each, with the arguments of its ``videonorm fit``.

The axes are norm x (num_frames, batch_size) x seed. What is given to every cell alike is the budget.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from videonorm.errors import UserError

# What the sweep itself decides for each cell, and `overrides` therefore may not.
SWEPT = (
    "data.num_frames",
    "data.frame_stride",
    "data.batch_size",
    "seed_everything",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.max_steps",
    "trainer.max_epochs",
)
KEYS = (
    "name",
    "recipe",
    "norms",
    "num_frames",
    "frame_stride",
    "batch_size",
    "frames_per_step",
    "cells",
    "seeds",
    "budget",
    "overrides",
    "jobs",
)


@dataclass(frozen=True)
class Cell:
    """One training run of the sweep."""

    norm: str  # the arm: a name under `norms`
    num_frames: int
    frame_stride: int
    batch_size: int  # clips per device and step
    accumulate: int
    seed: int
    steps: int | None  # optimizer steps; None where the budget is in epochs
    configs: tuple[Path, ...]  # the recipe, then the arm's overlays
    options: tuple[tuple[str, str], ...]  # every other option of `fit`, in order

    @property
    def run(self) -> str:
        """Name of the run folder, such as ``gn-ws_16x1_b4_s0`` (norm, T x stride, clips per step, seed)."""
        norm = self.norm.replace("_", "-")
        return f"{norm}_{self.num_frames}x{self.frame_stride}_b{self.batch_size}_s{self.seed}"

    @property
    def cost(self) -> int:
        """Frames the model is to see, up to a factor common to all cells."""
        if self.steps is None:
            return self.num_frames
        return self.num_frames * self.batch_size * self.accumulate * self.steps

    def arguments(self, run_dir: Path) -> list[str]:
        """Arguments of ``videonorm fit`` for this cell."""
        configs = [part for path in self.configs for part in ("-c", str(path))]
        return [*configs, *(f"--{key}={value}" for key, value in self.options), *_into(run_dir)]


def _into(run_dir: Path) -> list[str]:
    return [f"--trainer.default_root_dir={run_dir}", "--trainer.enable_progress_bar=false"]


@dataclass(frozen=True)
class Plan:
    """A sweep file, read and checked."""

    name: str
    cells: tuple[Cell, ...]
    jobs: int | Literal["auto"]
    on_cpu: bool  # the recipe or the overrides say `trainer.accelerator: cpu`
    source: str  # the sweep file, word for word

    @property
    def norms(self) -> list[str]:
        return list(dict.fromkeys(cell.norm for cell in self.cells))


def read_plan(path: Path, num_seeds: int | None = None) -> Plan:
    """Read a sweep file.

    Args:
        path: the YAML file. Paths in it are relative to its folder.
        num_seeds: take the seeds 0 ... num_seeds - 1 in place of the file's.

    Raises:
        UserError: a file is missing, or a key or value is not what a sweep needs.
    """
    text, sweep = _read_yaml("sweep file", path)
    for key in sweep:
        if key not in KEYS:
            raise UserError(f"{path.name} key ({key}) must be one of {', '.join(KEYS)}")
    for key in ("name", "recipe", "norms", "budget"):
        if key not in sweep:
            raise UserError(f"{path.name} must have the key {key}")
    name = sweep["name"]
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UserError(f"name ({name}) must be a folder name: letters, digits, '_', '-', '.'")
    if num_seeds is not None:
        seeds = list(range(_positive("seeds", num_seeds)))
    else:
        seeds = _several("seeds", sweep.get("seeds", [0]), minimum=0)
    overrides = _mapping("overrides", sweep.get("overrides", {}))
    for key in SWEPT:
        if key in overrides:
            raise UserError(f"overrides ({key}) must leave to the sweep what it sets itself")
    jobs = sweep.get("jobs", "auto")
    if jobs != "auto":
        jobs = _positive("jobs", jobs)

    recipe, recipe_values = _config("recipe", path.parent, sweep["recipe"])
    cells: list[Cell] = []
    on_cpu = False
    for norm, overlays in _arms(sweep["norms"]).items():
        overlay_files = [_config(f"norms.{norm}", path.parent, overlay) for overlay in overlays]
        layers = [recipe_values, *(values for _, values in overlay_files), overrides]
        accumulate = _positive("accumulate_grad_batches", _last(layers, "trainer.accumulate_grad_batches", 1))
        frame_stride = sweep.get("frame_stride", _last(layers, "data.frame_stride", None))
        on_cpu = on_cpu or _last(layers, "trainer.accelerator", "auto") == "cpu"
        for num_frames, stride, batch_size in _clip_shapes(sweep, frame_stride, accumulate):
            steps, budget = _budget(sweep["budget"], num_frames * batch_size * accumulate)
            cell = Cell(
                norm=norm,
                num_frames=num_frames,
                frame_stride=stride,
                batch_size=batch_size,
                accumulate=accumulate,
                seed=0,
                steps=steps,
                configs=(recipe, *(file for file, _ in overlay_files)),
                options=(
                    *((key, _as_argument(value)) for key, value in overrides.items()),
                    ("data.num_frames", str(num_frames)),
                    ("data.frame_stride", str(stride)),
                    ("data.batch_size", str(batch_size)),
                    *budget,
                ),
            )
            for seed in seeds:
                seeded = (*cell.options, ("seed_everything", str(seed)))
                cells.append(replace(cell, seed=seed, options=seeded))
    return Plan(name=name, cells=tuple(cells), jobs=jobs, on_cpu=on_cpu, source=text)


def _clip_shapes(sweep: Mapping[str, Any], frame_stride: Any, accumulate: int) -> list[tuple[int, int, int]]:
    """(num_frames, frame_stride, batch_size) of each cell."""
    given = [key for key in ("batch_size", "frames_per_step", "cells") if key in sweep]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise UserError(f"a sweep must give one of batch_size, frames_per_step and cells, not {found}")
    if "cells" in sweep:
        if "num_frames" in sweep:
            raise UserError("a sweep must give num_frames or cells, not both")
        return _listed_shapes(sweep["cells"], frame_stride)

    if "num_frames" not in sweep:
        raise UserError(f"a sweep with {given[0]} must have the key num_frames")
    stride = _stride(frame_stride)
    lengths = _several("num_frames", sweep["num_frames"])
    if "batch_size" in sweep:
        sizes = _several("batch_size", sweep["batch_size"])
        return [(length, stride, size) for length in lengths for size in sizes]

    frames = _positive("frames_per_step", sweep["frames_per_step"])
    for length in lengths:
        if frames % (length * accumulate):
            times = f" x accumulate_grad_batches ({accumulate})" if accumulate > 1 else ""
            raise UserError(f"frames_per_step ({frames}) must be a multiple of num_frames ({length}){times}")
    return [(length, stride, frames // (length * accumulate)) for length in lengths]


def _listed_shapes(cells: Any, frame_stride: Any) -> list[tuple[int, int, int]]:
    if not isinstance(cells, list) or not cells:
        raise UserError(f"cells ({cells}) must be a list of num_frames and batch_size, one entry a cell")
    shapes: list[tuple[int, int, int]] = []
    for number, cell in enumerate(cells):
        where = f"cells[{number}]"
        cell = _mapping(where, cell)
        for key in cell:
            if key not in ("num_frames", "frame_stride", "batch_size"):
                raise UserError(f"{where} key ({key}) must be one of num_frames, frame_stride, batch_size")
        for key in ("num_frames", "batch_size"):
            if key not in cell:
                raise UserError(f"{where} must have the key {key}")
        shape = (
            _positive(f"{where}.num_frames", cell["num_frames"]),
            _stride(cell.get("frame_stride", frame_stride)),
            _positive(f"{where}.batch_size", cell["batch_size"]),
        )
        if shape in shapes:
            raise UserError(f"{where} ({shape[0]}x{shape[1]}, batch_size {shape[2]}) must not repeat a cell")
        shapes.append(shape)
    return shapes


def _stride(value: Any) -> int:
    if value is None:
        raise UserError("frame_stride must be given, in the sweep file or as data.frame_stride in its recipe")
    return _positive("frame_stride", value)


def _budget(budget: Any, frames_per_step: int) -> tuple[int | None, tuple[tuple[str, str], ...]]:
    """Optimizer steps (None for epochs) and the options that say so.

    A budget in frames is rounded up to whole steps, so that cells differ by less than one step.
    """
    budget = _mapping("budget", budget)
    if len(budget) != 1 or (unit := next(iter(budget))) not in ("steps", "epochs", "frames"):
        found = ", ".join(map(str, budget)) or "nothing"
        raise UserError(f"budget ({found}) must give exactly one of steps, epochs and frames")
    amount = _positive(f"budget.{unit}", budget[unit])
    if unit == "epochs":
        return None, (("trainer.max_epochs", str(amount)), ("trainer.max_steps", "-1"))
    steps = amount if unit == "steps" else math.ceil(amount / frames_per_step)
    return steps, (("trainer.max_steps", str(steps)), ("trainer.max_epochs", "-1"))


def _arms(norms: Any) -> dict[str, list[str]]:
    norms = _mapping("norms", norms)
    if not norms:
        raise UserError("norms must name at least one arm, such as bn: [../norm/bn.yaml]")
    for norm, overlays in norms.items():
        if not isinstance(norm, str) or not re.fullmatch(r"\w+", norm, re.ASCII):
            raise UserError(f"norms ({norm}) must be named with letters, digits and '_'")
        if not isinstance(overlays, list) or not all(isinstance(overlay, str) for overlay in overlays):
            raise UserError(f"norms.{norm} ({overlays}) must be a list of overlay files")
    return dict(norms)


def _config(name: str, folder: Path, relative: Any) -> tuple[Path, dict[str, Any]]:
    if not isinstance(relative, str):
        raise UserError(f"{name} ({relative}) must be the path of a YAML file")
    path = (folder / relative).resolve()
    return path, _read_yaml(name, path)[1]


def _read_yaml(name: str, path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{name} ({path}) must be a readable file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} ({path}) must be a text file in UTF-8") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} ({path}) must be valid YAML: {reason}") from error
    return text, _mapping(f"{name} ({path})", values)


def _last(layers: list[dict[str, Any]], dotted: str, default: Any) -> Any:
    """Value of ``a.b`` in the last layer that has it, nested as in a recipe or dotted as in `overrides`."""
    for layer in reversed(layers):
        value: Any = layer
        for key in [dotted] if dotted in layer else dotted.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return default


def _as_argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a mapping of keys to values")
    return value


def _several(name: str, values: Any, minimum: int = 1) -> list[int]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{name} ({values}) must be a list with at least one number")
    if len(set(map(str, values))) < len(values):
        raise UserError(f"{name} ({values}) must not repeat a value")
    return [_at_least(minimum, name, value) for value in values]


def _positive(name: str, value: Any) -> int:
    return _at_least(1, name, value)


def _at_least(minimum: int, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise UserError(f"{name} ({value}) must be an integer of at least {minimum}")
    return value
