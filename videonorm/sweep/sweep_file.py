"""The keys of a sweep file, and what is wrong with them."""

import itertools
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonargparse
import yaml
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from videonorm.errors import UserError
from videonorm.messages import did_you_mean, one_line, one_sentence
from videonorm.sweep.shape import Shape

BUDGETS = ("steps", "epochs", "clips", "frames", "seconds")
LR = "model.optimizer.init_args.lr"

T = TypeVar("T")


@dataclass(frozen=True)
class LearningRate:
    """How the learning rate follows the clips of a step.

    Attributes:
        rule: linear (Goyal et al., arXiv:1706.02677), sqrt (Krizhevsky, arXiv:1404.5997) or constant.
        value: the learning rate at `clips` clips a step. With `search`, which finds it, neither is given.
    """

    rule: Literal["linear", "sqrt", "constant"]
    value: PositiveFloat | None = None
    clips: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.value is not None and self.clips is None and self.rule != "constant":
            raise UserError(
                f"lr must give clips beside value ({self.value:g}): those of a step that it is for"
            )

    def at(self, clips: int, value: float, of: int) -> float:
        """For steps of ``clips`` clips, where it is ``value`` for ``of``."""
        power = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}[self.rule]
        return float(value * (clips / of) ** power)


@dataclass(frozen=True)
class Search:
    """What is chosen for each arm before the sweep, never on validation videos.

    Attributes:
        options: for each arm, options of `fit` and their values. Every combination is a trial, and every arm
            has as many: the more trials, the luckier the best of them.
        budget: of each trial, as that of the sweep.
        num_frames, frame_stride, batch_size: of its clips.
        held_out: share of the training videos that a trial is scored on and not trained on.
        seeds: a trial's, whose scores are averaged.
    """

    options: dict[str, dict[str, list[Any]]]
    budget: dict[str, PositiveInt]
    num_frames: PositiveInt
    batch_size: PositiveInt
    frame_stride: PositiveInt | None = None
    held_out: PositiveFloat = 0.25
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        check_budget(self.budget, "search.budget")
        if self.held_out >= 1:
            raise UserError(f"search.held_out ({self.held_out:g}) must be a share below 1")


@dataclass(frozen=True)
class Pretrain:
    """What the runs of the sweep start from: for each seed, a training of their arm in another shape.

    Attributes:
        num_frames, frame_stride, batch_size: of its clips.
        budget: of it, as that of the sweep.
        arms: those that start from another arm's, such as frozen_bn: bn.
        overrides: options of it, such as other videos, in place of the sweep's overrides.
    """

    num_frames: PositiveInt
    batch_size: PositiveInt
    budget: dict[str, PositiveInt]
    frame_stride: PositiveInt | None = None
    arms: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_budget(self.budget, "pretrain.budget")


@dataclass(frozen=True)
class SweepFile:
    """The keys of a sweep file. Paths are relative to its folder.

    Raises:
        UserError: the values do not make a sweep.
    """

    name: str  # of the sweep's folder in runs/
    recipe: str
    norms: dict[str, list[str]]  # the arms: overlays of the recipe
    budget: dict[str, PositiveInt]  # of each run: {steps: ...}, or epochs, clips, frames, seconds of training
    num_frames: list[PositiveInt] | None = None
    frame_stride: PositiveInt | None = None  # of every T, which then varies what a clip spans; the recipe's
    span: PositiveInt | None = None  # T x stride, the same for every T, which then varies a clip's density
    batch_size: list[PositiveInt] | None = None  # each with each of num_frames
    frames_per_step: PositiveInt | None = None  # gives the batch size of each of num_frames
    cells: list[dict[str, Any]] | None = None  # or the shapes one by one
    axes: dict[str, list[Any]] = field(default_factory=dict)  # further ones: options of fit, their values
    lr: LearningRate | None = None  # the recipe's own
    search: Search | None = None
    pretrain: Pretrain | None = None
    cross_test: bool = True  # score every model at every T of the sweep, and at equal test frames, too
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
        check_budget(self.budget, "budget")
        for key in ("num_frames", "batch_size", "seeds"):
            _check_values(key, getattr(self, key))
        for axis, values in self.axes.items():
            _check_values(f"axes.{axis}", values)
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
        if self.span and (self.frame_stride or self.cells):
            raise UserError(
                f"span ({self.span}) must stand without frame_stride and cells, which give strides"
            )
        for num_frames in self.num_frames or [] if self.span else []:
            if self.span % num_frames:
                raise UserError(f"span ({self.span}) must be a multiple of num_frames ({num_frames})")
        self._check_search()
        self._check_pretrain()

    def _check_pretrain(self) -> None:
        if self.pretrain is None:
            return
        if self.search:
            raise UserError("pretrain must stand without search, whose trials would start from nothing")
        for arm in itertools.chain.from_iterable(self.pretrain.arms.items()):
            if arm not in self.norms:
                raise UserError(f"pretrain.arms ({arm}) must be one of norms: {', '.join(self.norms)}")
        for arm, other in self.pretrain.arms.items():
            if other in self.pretrain.arms:
                raise UserError(f"pretrain.arms ({arm}: {other}) must name an arm with a training of its own")

    def _check_search(self) -> None:
        searched = self.search.options if self.search else {}
        if self.search and (wrong := searched.keys() ^ self.norms.keys()):
            raise UserError(f"search.options ({', '.join(sorted(wrong))}) must have every arm, and no other")
        trials = {}
        for arm, options in searched.items():
            trials[arm] = 1
            for option, values in options.items():
                _check_values(f"search.options.{arm}.{option}", values)
                trials[arm] *= len(values)
                if option in {**self.axes, **self.overrides}:
                    raise UserError(f"search.options.{arm} ({option}) must be in neither axes nor overrides")
        if len(set(trials.values())) > 1:
            counts = ", ".join(f"{arm} {count}" for arm, count in trials.items())
            raise UserError(f"search.options ({counts} trials) must give every arm as many trials")
        if self.lr is None:
            return
        finds = [arm for arm, options in searched.items() if LR in options]
        if finds and self.lr.value is not None:
            raise UserError(f"lr.value ({self.lr.value:g}) must be left out: search.options finds it")
        if self.lr.value is None and len(finds) < len(self.norms):
            raise UserError(f"lr.value must be given, or {LR} be in the search.options of every arm")
        if LR in {**self.axes, **self.overrides}:
            raise UserError(f"lr must stand without {LR} in axes and overrides")

    def shapes(self, frame_stride: int | None, accumulate: int) -> list[Shape]:
        """The shapes of an arm, whose recipe and overlays say the stride and the accumulated steps."""
        stride = self.frame_stride or frame_stride
        entries = self.cells or [{}]
        if stride is None and not self.span and not all("frame_stride" in entry for entry in entries):
            raise UserError(
                "frame_stride must be given, in the sweep file or as data.frame_stride in its recipe"
            )
        if self.cells is None:
            sizes, lengths = self.batch_size or [None], self.num_frames or []
            strides = {n: self.span // n if self.span else stride for n in lengths}
            return [
                Shape(n, strides[n], size or self._size(n, accumulate)) for n in lengths for size in sizes
            ]
        shapes: list[Shape] = []
        for number, entry in enumerate(entries):
            shape = typed(Shape, {"frame_stride": stride, **entry}, f"cells[{number}]")
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


def check_budget(budget: Mapping[str, int], name: str) -> None:
    if len(budget) != 1 or not budget.keys() <= set(BUDGETS):
        found = ", ".join(map(str, budget)) or "nothing"
        raise UserError(f"{name} ({found}) must give exactly one of {', '.join(BUDGETS)}")


def _check_values(key: str, values: list[Any] | None) -> None:
    if values == []:
        raise UserError(f"{key} ([]) must be a list with at least one value")
    if values and any(value in values[:number] for number, value in enumerate(values)):
        raise UserError(f"{key} ({values}) must not repeat a value")


def read_sweep_file(path: Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        UserError: it is missing, or a key or value is not what a sweep needs.
    """
    return sweep_of(read_yaml("sweep file", path), path.name)


def sweep_of(values: Mapping[str, Any], where: str) -> SweepFile:
    """A sweep from the keys of a sweep file; ``where`` they stand, for errors.

    Raises:
        UserError: a key or value is not what a sweep needs.
    """
    values = dict(values)
    parts: dict[str, Any] = {}
    for key, kind in (("lr", LearningRate), ("search", Search), ("pretrain", Pretrain)):
        if (part := values.pop(key, None)) is not None:
            if not isinstance(part, dict):
                raise UserError(f"{where} {key} ({part}) must be a mapping of keys to values")
            parts[key] = typed(kind, part, f"{where} {key}")
            if kind is Search:
                parts[key] = replace(parts[key], options=part["options"])
            if kind is Pretrain:
                parts[key] = replace(parts[key], overrides=part.get("overrides", {}))
    # As they are written: jsonargparse makes objects of class paths in them, and 7 of the text "007".
    overrides = values.get("overrides")
    names = {"overrides": dict.fromkeys(overrides)} if isinstance(overrides, dict) else {}
    sweep = typed(SweepFile, {**values, **names}, where)
    return replace(sweep, overrides=values.get("overrides", {}), axes=values.get("axes", {}), **parts)


def typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A ``kind``, whose fields are the keys, from a mapping of a YAML file."""
    keys = list(kind.__annotations__)
    for key in values:
        if key not in keys:
            hint = did_you_mean(str(key), keys)
            raise UserError(f"{where} key ({key}) must be one of {', '.join(keys)}{hint}")
    try:
        # It changes what it is given. mypy: a class is hashable.
        parsed = _parser(kind).parse_object(deepcopy(dict(values)))  # type: ignore[arg-type]
    except jsonargparse.ArgumentError as error:
        raise UserError(f"{where}: {one_sentence(str(error))}") from error
    return kind(**vars(parsed))


@cache  # to make one takes longer than to parse with it, and a study has a claim and a measure many times
def _parser(kind: type[Any]) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    return parser


def read_yaml(name: str, path: Path) -> dict[str, Any]:
    """The mapping that a YAML file is; ``name`` is what it is, for errors."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name} ({path}) must be a readable file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} ({path}) must be a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name} ({path}) must be valid YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{name} ({path}) must be a mapping of keys to values")
    return values
