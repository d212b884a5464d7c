"""A sweep file becomes a list of runs, each with the arguments of its ``videonorm fit``.

The axes are arm x shape x seed. What is given to every run alike is the budget.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonargparse
import yaml
from jsonargparse.typing import NonNegativeInt, PositiveInt

from videonorm.errors import UserError
from videonorm.messages import did_you_mean, one_sentence
from videonorm.sweep.shape import Shape

T = TypeVar("T")


@dataclass(frozen=True)
class SweepFile:
    """The keys of a sweep file. Paths are relative to its folder.

    Raises:
        UserError: the values do not make a sweep.
    """

    name: str  # of the sweep's folder in runs/
    recipe: str
    norms: dict[str, list[str]]  # the arms: overlays of the recipe
    budget: dict[str, PositiveInt]  # of each run: {steps: ...}, {epochs: ...} or {frames: ...}
    num_frames: list[PositiveInt] | None = None
    frame_stride: PositiveInt | None = None  # the recipe's
    batch_size: list[PositiveInt] | None = None  # each with each of num_frames
    frames_per_step: PositiveInt | None = None  # gives the batch size of each of num_frames
    cells: list[dict[str, Any]] | None = None  # or the shapes one by one
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0])
    overrides: dict[str, Any] = field(default_factory=dict)  # options of every run, by dotted name
    jobs: PositiveInt | Literal["auto"] = "auto"  # runs at a time; auto is one a GPU, or one a core

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII):
            raise UserError(f"name ({self.name}) must be a folder name: letters, digits, '_', '-', '.'")
        if not self.norms:
            raise UserError("norms must name at least one arm, such as bn: [../norm/bn.yaml]")
        for arm in self.norms:
            if not isinstance(arm, str) or not re.fullmatch(r"\w+", arm, re.ASCII):
                raise UserError(f"norms ({arm}) must be named with letters, digits and '_'")
        if len(self.budget) != 1 or not self.budget.keys() <= {"steps", "epochs", "frames"}:
            found = ", ".join(map(str, self.budget)) or "nothing"
            raise UserError(f"budget ({found}) must give exactly one of steps, epochs and frames")
        for key in ("num_frames", "batch_size", "seeds"):
            values = getattr(self, key)
            if values == []:
                raise UserError(f"{key} ([]) must be a list with at least one number")
            if values and len(set(values)) < len(values):
                raise UserError(f"{key} ({values}) must not repeat a value")
        given = [key for key in ("batch_size", "frames_per_step", "cells") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise UserError(f"a sweep must give one of batch_size, frames_per_step and cells, not {found}")
        if given == ["cells"] and self.num_frames is not None:
            raise UserError("a sweep must give num_frames or cells, not both")
        if self.cells == []:
            raise UserError("cells ([]) must be a list of num_frames and batch_size, one entry a shape")
        if given != ["cells"] and self.num_frames is None:
            raise UserError(f"a sweep with {given[0]} must have the key num_frames")

    def shapes(self, frame_stride: int | None, accumulate: int) -> list[Shape]:
        """The shapes of an arm, whose recipe and overlays say the stride and the accumulated steps."""
        stride = self.frame_stride or frame_stride
        entries = self.cells or [{}]
        if stride is None and not all("frame_stride" in entry for entry in entries):
            raise UserError(
                "frame_stride must be given, in the sweep file or as data.frame_stride in its recipe"
            )
        if self.cells is None:
            sizes, lengths = self.batch_size or [None], self.num_frames or []
            return [Shape(n, stride, size or self._size(n, accumulate)) for n in lengths for size in sizes]
        shapes: list[Shape] = []
        for number, entry in enumerate(entries):
            shape = _typed(Shape, {"frame_stride": stride, **entry}, f"cells[{number}]")
            if shape in shapes:
                what = f"{shape.length()}, batch_size {shape.batch_size}"
                raise UserError(f"cells[{number}] ({what}) must not repeat a shape")
            shapes.append(shape)
        return shapes

    def _size(self, num_frames: int, accumulate: int) -> int:
        """The batch size that ``frames_per_step`` leaves for clips of ``num_frames``."""
        frames: int | None = self.frames_per_step
        assert frames is not None
        if frames % (num_frames * accumulate):
            times = f" x accumulate_grad_batches ({accumulate})" if accumulate > 1 else ""
            raise UserError(
                f"frames_per_step ({frames}) must be a multiple of num_frames ({num_frames}){times}"
            )
        return frames // (num_frames * accumulate)


@dataclass(frozen=True)
class Run:
    """One training of the sweep."""

    arm: str
    shape: Shape
    accumulate: int
    seed: int
    budget: Mapping[str, int]
    configs: tuple[Path, ...]  # the recipe, then the arm's overlays
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its folder, such as ``gn-ws_16x1_b4_s0`` (arm, T x stride, clips per step, seed)."""
        num_frames, frame_stride, batch_size = self.shape
        return f"{self.arm.replace('_', '-')}_{num_frames}x{frame_stride}_b{batch_size}_s{self.seed}"

    @property
    def frames_per_step(self) -> int:
        """On one device."""
        frames: int = self.shape.num_frames * self.shape.batch_size * self.accumulate
        return frames

    @property
    def steps(self) -> int | None:
        """Optimizer steps, whole ones; None where the budget is in epochs."""
        frames = self.budget.get("frames")
        return math.ceil(frames / self.frames_per_step) if frames else self.budget.get("steps")

    @property
    def cost(self) -> int:
        """Frames the model is to see, up to a factor common to all runs."""
        cost: int = self.shape.num_frames if self.steps is None else self.frames_per_step * self.steps
        return cost

    def options(self, folder: Path) -> dict[str, Any]:
        """Options of ``fit`` that the sweep decides, and `overrides` therefore may not."""
        return {
            **{f"data.{key}": value for key, value in self.shape._asdict().items()},
            "trainer.max_steps": self.steps or -1,
            "trainer.max_epochs": self.budget.get("epochs", -1),
            "seed_everything": self.seed,
            "trainer.default_root_dir": str(folder),
            "trainer.enable_progress_bar": False,
        }

    def arguments(self, folder: Path) -> list[str]:
        """Arguments of ``videonorm fit`` for this run."""
        configs = [part for path in self.configs for part in ("-c", str(path))]
        options = {**self.overrides, **self.options(folder)}
        texts = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in options.items()}
        return [*configs, *(f"--{key}={text}" for key, text in texts.items())]


@dataclass(frozen=True)
class Plan:
    """A sweep file, read and checked."""

    name: str
    runs: tuple[Run, ...]
    jobs: int | Literal["auto"]
    on_cpu: bool  # the recipe or the overrides say `trainer.accelerator: cpu`
    source: str  # the sweep file, word for word


def read_plan(path: Path, num_seeds: int | None = None) -> Plan:
    """Read a sweep file.

    Args:
        path: the YAML file.
        num_seeds: take the seeds 0 ... num_seeds - 1 in place of the file's.

    Raises:
        UserError: a file is missing, or a key or value is not what a sweep needs.
    """
    values = _read_yaml("sweep file", path)
    sweep = _typed(SweepFile, values, path.name)
    # As they are written: jsonargparse makes objects of class paths in them, and 7 of the text "007".
    sweep = replace(sweep, overrides=values.get("overrides", {}))
    seeds = sweep.seeds if num_seeds is None else range(num_seeds)
    runs: list[Run] = []
    on_cpu = False
    for arm, overlays in sweep.norms.items():
        configs = tuple((path.parent / file).resolve() for file in (sweep.recipe, *overlays))
        names = ("recipe", *(f"norms.{arm}" for _ in overlays))
        layers = [*map(_read_yaml, names, configs), sweep.overrides]
        accumulate = _positive("trainer.accumulate_grad_batches", layers) or 1
        on_cpu = on_cpu or _last("trainer.accelerator", layers) == "cpu"
        for shape in sweep.shapes(_positive("data.frame_stride", layers), accumulate):
            for seed in seeds:
                runs.append(Run(arm, shape, accumulate, seed, sweep.budget, configs, sweep.overrides))
    for key in runs[0].options(path):
        if key in sweep.overrides:
            raise UserError(f"overrides ({key}) must leave to the sweep what it sets itself")
    return Plan(sweep.name, tuple(runs), sweep.jobs, on_cpu, source=path.read_text(encoding="utf-8"))


def _typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A ``kind``, whose fields are the keys, from a mapping of a YAML file."""
    keys = list(kind.__annotations__)
    for key in values:
        if key not in keys:
            hint = did_you_mean(str(key), keys)
            raise UserError(f"{where} key ({key}) must be one of {', '.join(keys)}{hint}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        parsed = parser.parse_object(deepcopy(dict(values)))  # it changes what it is given
    except jsonargparse.ArgumentError as error:
        raise UserError(f"{where}: {one_sentence(str(error))}") from error
    return kind(**vars(parsed))


def _read_yaml(name: str, path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name} ({path}) must be a readable file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} ({path}) must be a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name} ({path}) must be valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{name} ({path}) must be a mapping of keys to values")
    return values


def _positive(key: str, layers: Sequence[Mapping[str, Any]]) -> int | None:
    """A whole number of the recipe, its overlays or the overrides."""
    value = _last(key, layers)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{key} ({value}) must be an integer of at least 1")
    return value


def _last(dotted: str, layers: Sequence[Mapping[str, Any]]) -> Any:
    """Value of ``a.b`` in the last layer that has it, nested as in a recipe or dotted as in `overrides`."""
    for layer in reversed(layers):
        value: Any = layer
        for key in [dotted] if dotted in layer else dotted.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None
