"""A sweep file becomes a list of runs, each with the arguments of its ``videonorm fit``.

The axes are arm x shape x seed, and what further options the file varies. What is given to every run alike is
the budget.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from videonorm.errors import UserError
from videonorm.sweep.axes import as_text, combinations, in_a_name
from videonorm.sweep.results import Result
from videonorm.sweep.settings import devices, last, positive
from videonorm.sweep.shape import Shape
from videonorm.sweep.sweep_file import (
    LR,
    LearningRate,
    Pretrain,
    Search,
    SweepFile,
    read_sweep_file,
    read_yaml,
)
from videonorm.training_options import check_names

ACCUMULATE, FRAMES_PER_SECOND = "trainer.accumulate_grad_batches", "data.frames_per_second"
WEIGHTS = "model.weights"


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
    devices: int = 1
    axes: Mapping[str, Any] = field(default_factory=dict)  # its values of the further axes
    found: Mapping[str, Any] = field(default_factory=dict)  # what a search has found for its arm
    lr: float | None = None  # by the sweep's rule; None: what the recipe says
    views: tuple[tuple[int, int, int], ...] = ()  # T, stride, clips of a video that it is scored with, too
    weights: Path | None = None  # checkpoint that it starts from
    recorders: tuple[Mapping[str, Any], ...] = ()  # callbacks that write tables of their own into its folder

    @property
    def name(self) -> str:
        """Of its folder, such as ``gn-ws_16x1_b4_s0`` (arm, T x stride, clips per step, axes, seed)."""
        num_frames, frame_stride, batch_size = self.shape
        length = f"{num_frames}x{frame_stride}" if frame_stride else str(num_frames)
        axes = in_a_name(self.axes)
        return f"{self.arm.replace('_', '-')}_{length}_b{batch_size}{axes}_s{self.seed}"

    @property
    def starts_from(self) -> str | None:
        """The run whose weights it starts from."""
        return self.weights.parents[1].name if self.weights else None  # RUN/checkpoints/last.ckpt

    @property
    def clips_per_step(self) -> int:
        clips: int = self.shape.batch_size * self.accumulate * self.devices
        return clips

    @property
    def frames_per_step(self) -> int:
        frames: int = self.shape.num_frames * self.clips_per_step
        return frames

    @property
    def steps(self) -> int | None:
        """Optimizer steps, whole ones; None where the budget is in epochs or seconds."""
        for unit, per_step in (("frames", self.frames_per_step), ("clips", self.clips_per_step)):
            if unit in self.budget:
                return math.ceil(self.budget[unit] / per_step)
        return self.budget.get("steps")

    @property
    def cost(self) -> int:
        """Frames the model is to see, up to a factor common to all runs."""
        if "seconds" in self.budget:
            return self.budget["seconds"]
        cost: int = self.shape.num_frames if self.steps is None else self.frames_per_step * self.steps
        return cost

    @property
    def values(self) -> dict[str, Any]:
        """Of every option that is not the same for all runs of the sweep."""
        return {**self.axes, **self.found}

    def options(self, folder: Path) -> dict[str, Any]:
        """Options of ``fit`` that the sweep decides, and `overrides` and `axes` therefore may not."""
        clips = {f"data.{key}": value for key, value in self.shape._asdict().items()}
        if not self.shape.frame_stride:
            clips["data.frame_stride"] = None
        lr = {LR: self.lr, "model.lr_per_256_clips": None} if self.lr is not None else {}
        weights = {WEIGHTS: str(self.weights)} if self.weights else {}
        callbacks = [_callback("ScoreAtLengths", views=[list(view) for view in self.views]), *self.recorders]
        if "seconds" in self.budget:
            callbacks.append(_callback("TimeBudget", seconds=self.budget["seconds"]))
        return {
            **clips,
            **lr,
            **weights,
            "trainer.callbacks+": callbacks,
            "trainer.max_steps": self.steps or -1,
            "trainer.max_epochs": self.budget.get("epochs", -1),
            "seed_everything": self.seed,
            "trainer.default_root_dir": str(folder),
            "trainer.enable_progress_bar": False,
        }

    def arguments(self, folder: Path) -> list[str]:
        """Arguments of ``videonorm fit`` for this run."""
        configs = [part for path in self.configs for part in ("-c", str(path))]
        options = {**self.overrides, **self.values, **self.options(folder)}
        return [*configs, *(f"--{key}={as_text(value)}" for key, value in options.items())]


def _callback(name: str, **arguments: Any) -> Mapping[str, Any]:
    return {"class_path": f"videonorm.training.{name}", "init_args": arguments}


@dataclass(frozen=True)
class Plan:
    """A sweep file, read and checked.

    Attributes:
        on_cpu: the recipe or the overrides say `trainer.accelerator: cpu`.
        source: the sweep file, word for word.
        search: the trials to train first, each a run whose axes are what is searched; None without.
        learning_rate: the rule by which a learning rate that the search finds follows the clips of a step.
    """

    name: str
    runs: tuple[Run, ...]
    jobs: int | Literal["auto"]
    on_cpu: bool
    source: str
    search: "Plan | None" = None
    learning_rate: LearningRate | None = None
    pretrain: "Plan | None" = None
    pretrained_as: Mapping[str, str] = field(default_factory=dict)  # arm -> arm of the run it starts from

    @property
    def varies(self) -> Literal["density", "extent", "density and extent"] | None:
        """What a longer clip changes: the frames of the same stretch of video, or the stretch's length.

        None where all clips are of one length, or taken by time.
        """
        shapes = {run.shape[:2] for run in self.runs}
        if len({num_frames for num_frames, _ in shapes}) == 1 or not all(stride for _, stride in shapes):
            return None
        spans = {num_frames * stride for num_frames, stride in shapes}
        if len(spans) == 1:
            return "density"
        return "extent" if len({stride for _, stride in shapes}) == 1 else "density and extent"

    def only(self, runs: tuple[Run, ...]) -> "Plan":
        """The plan of some of its runs, and of what these start from."""
        arms = {run.arm for run in runs}
        search, pretrain = self.search, self.pretrain
        if search:
            search = replace(search, runs=tuple(run for run in search.runs if run.arm in arms))
        if pretrain:
            before = {self.pretrained_as[arm] for arm in arms}
            pretrain = replace(pretrain, runs=tuple(run for run in pretrain.runs if run.arm in before))
        return replace(self, runs=runs, search=search, pretrain=pretrain)

    def with_found(self, trials: Iterable[Result]) -> "Plan":
        """The plan with the best trial of each arm, by its mean top-1 over seeds on held-out videos.

        Raises:
            UserError: every trial of an arm has failed.
        """
        assert self.search
        of_arm: dict[str, dict[str, list[Result]]] = {}
        for trial in trials:
            if trial.done:
                of_arm.setdefault(trial.norm, {}).setdefault(str(trial.axes), []).append(trial)
        best: dict[str, Run] = {}
        for arm in dict.fromkeys(run.arm for run in self.runs):
            if arm not in of_arm:
                raise UserError(f"search ({arm}) must have a trial with a result: all have failed")
            won = max(of_arm[arm].values(), key=lambda same: fmean(trial.val_top1 or 0.0 for trial in same))
            best[arm] = next(run for run in self.search.runs if run.name == won[0].run)
        return replace(self, runs=tuple(self._settled(run, best[run.arm]) for run in self.runs), search=None)

    def with_pretrained(self, results: Iterable[Result], checkpoint: Callable[[str], Path]) -> "Plan":
        """The plan with the weights that each run starts from: its arm's, of its seed.

        Args:
            results: of the pretraining.
            checkpoint: the last one of a run of it, by name.

        Raises:
            UserError: a training that others start from has failed.
        """
        assert self.pretrain
        done = {result.run for result in results if result.done}
        start: dict[tuple[str, int], Path] = {}
        for run in self.pretrain.runs:
            if run.name not in done:
                raise UserError(
                    f"pretrain ({run.name}) must be done before what starts from it: it has failed"
                )
            start[run.arm, run.seed] = checkpoint(run.name)
        runs = (replace(run, weights=start[self.pretrained_as[run.arm], run.seed]) for run in self.runs)
        return replace(self, runs=tuple(runs), pretrain=None)

    def _settled(self, run: Run, trial: Run) -> Run:
        found = dict(trial.axes)
        rule, lr = self.learning_rate, found.get(LR)
        if rule is None or lr is None:
            return replace(run, found=found)
        del found[LR]
        return replace(run, found=found, lr=rule.at(run.clips_per_step, lr, trial.clips_per_step))


def read_plan(path: Path, num_seeds: int | None = None) -> Plan:
    """Read a sweep file.

    Args:
        path: the YAML file.
        num_seeds: take the seeds 0 ... num_seeds - 1 in place of the file's.

    Raises:
        UserError: a file is missing, or a key or value is not what a sweep needs.
    """
    sweep = read_sweep_file(path)
    if num_seeds is not None:
        sweep = replace(sweep, seeds=list(range(num_seeds)))
    return plan_of(sweep, path.parent, path.read_text(encoding="utf-8"))


def plan_of(
    sweep: SweepFile, folder: Path, source: str, recorders: tuple[Mapping[str, Any], ...] = ()
) -> Plan:
    """The runs of a sweep.

    Args:
        folder: that its paths are relative to.
        source: its keys, word for word.
        recorders: callbacks of every run, but not of what is trained before; mappings as in a recipe.

    Raises:
        UserError: a file is missing, or a value is not what a sweep needs.
    """
    runs: list[Run] = []
    trials: list[Run] = []
    pretrainings: list[Run] = []
    on_cpu = False
    for arm, overlays in sweep.norms.items():
        configs = tuple((folder / file).resolve() for file in (sweep.recipe, *overlays))
        names = ("recipe", *(f"norms.{arm}" for _ in overlays))
        recipe = list(map(read_yaml, names, configs))
        layers = [*recipe, sweep.overrides]
        on_cpu = on_cpu or last("trainer.accelerator", layers) == "cpu"
        for axes in combinations(sweep.axes):
            of_arm = list(_runs(sweep, arm, configs, [*layers, axes]))
            num_clips = positive("data.num_val_clips", [*layers, axes]) or 1
            for run in of_arm:
                views = (
                    _views(run.shape, [run.shape for run in of_arm], num_clips) if sweep.cross_test else ()
                )
                of_seeds = [replace(run, axes=axes, seed=seed, views=views) for seed in sweep.seeds]
                runs += [replace(run, recorders=recorders) for run in of_seeds]
        if sweep.search:
            overrides = {**sweep.overrides, "data.held_out": sweep.search.held_out}
            run = _before(sweep, sweep.search, overrides, arm, configs, recipe)
            for values in combinations(sweep.search.options[arm]):
                trials += [replace(run, axes=values, seed=seed) for seed in sweep.search.seeds]
        if sweep.pretrain and arm not in sweep.pretrain.arms:
            run = _before(sweep, sweep.pretrain, sweep.pretrain.overrides, arm, configs, recipe)
            pretrainings += [replace(run, seed=seed) for seed in sweep.seeds]
    _check_options(sweep, runs)
    if len({run.name for run in runs}) < len(runs):
        raise UserError(
            "axes must have values whose texts differ in letters and digits, for the runs' folders"
        )
    plan = Plan(sweep.name, tuple(runs), sweep.jobs, on_cpu, source)
    if sweep.pretrain:
        before = replace(plan, name=f"{sweep.name}_pretrain", runs=tuple(pretrainings))
        as_which = {arm: sweep.pretrain.arms.get(arm, arm) for arm in sweep.norms}
        return replace(plan, pretrain=before, pretrained_as=as_which)
    if not trials:
        return plan
    search = replace(plan, name=f"{sweep.name}_search", runs=tuple(trials))
    return replace(plan, search=search, learning_rate=sweep.lr)


def _runs(
    sweep: SweepFile, arm: str, configs: tuple[Path, ...], layers: Sequence[Mapping[str, Any]]
) -> Iterable[Run]:
    """One for each shape of an arm."""
    accumulate = positive(ACCUMULATE, layers) or 1
    by_time = last(FRAMES_PER_SECOND, layers) is not None
    for shape in sweep.shapes(1 if by_time else positive("data.frame_stride", layers), accumulate):
        if by_time:
            shape = shape._replace(frame_stride=0)
        run = Run(arm, shape, accumulate, 0, sweep.budget, configs, sweep.overrides, devices(layers))
        for unit, per_step in (("frames", run.frames_per_step), ("clips", run.clips_per_step)):
            if sweep.budget.get(unit, per_step) < per_step:
                raise UserError(
                    f"budget.{unit} ({sweep.budget[unit]}) must be that of a step at least, in every cell: "
                    f"{per_step} {unit} at T {shape.num_frames}, B {shape.batch_size}"
                )
        if sweep.lr and sweep.lr.value is not None:
            clips = sweep.lr.clips or run.clips_per_step
            run = replace(run, lr=sweep.lr.at(run.clips_per_step, sweep.lr.value, clips))
        yield run


def _views(shape: Shape, shapes: Sequence[Shape], num_clips: int) -> tuple[tuple[int, int, int], ...]:
    """How a model is scored beside its own validation, of ``num_clips`` clips of a video.

    At every other length of the sweep in as many clips, and at its own in so many that it sees the frames
    that the longest does, at least.
    """
    longest = max(num_frames for num_frames, _, _ in shapes)
    others = sorted({other[:2] for other in shapes} - {shape[:2]})
    views = [(num_frames, stride, num_clips) for num_frames, stride in others]
    if shape.num_frames < longest:
        views.append(
            (shape.num_frames, shape.frame_stride, math.ceil(num_clips * longest / shape.num_frames))
        )
    return tuple(views)


def _before(
    sweep: SweepFile,
    stage: Search | Pretrain,
    overrides: dict[str, Any],
    arm: str,
    configs: tuple[Path, ...],
    layers: Sequence[Mapping[str, Any]],
) -> Run:
    """What is trained of an arm before the sweep, in the stage's one shape and with its budget."""
    shape = {"num_frames": stage.num_frames, "batch_size": stage.batch_size}
    if stage.frame_stride:
        shape["frame_stride"] = stage.frame_stride
    alone = replace(
        sweep,
        num_frames=None,
        span=None,
        batch_size=None,
        frames_per_step=None,
        cells=[shape],
        budget=stage.budget,
        lr=None,
        search=None,
        pretrain=None,
        overrides=overrides,
    )
    (run,) = _runs(alone, arm, configs, [*layers, overrides])
    return run


def _check_options(sweep: SweepFile, runs: Sequence[Run]) -> None:
    """Raise UserError for an option that `fit` has not, or that the sweep sets itself."""
    searched = sweep.search.options.values() if sweep.search else ()
    before = sweep.pretrain.overrides if sweep.pretrain else {}
    places = [
        ("overrides", sweep.overrides),
        ("pretrain.overrides", before),
        ("axes", sweep.axes),
        *(("search.options", of) for of in searched),
    ]
    own = replace(runs[0], weights=Path() if sweep.pretrain else None).options(Path())
    for place, options in places:
        for key in options:
            if place == "search.options" and key in (ACCUMULATE, FRAMES_PER_SECOND, "trainer.devices"):
                raise UserError(f"{place} ({key}) must leave out what sizes a step or a clip")
            if key in own or (place == "axes" and key in sweep.overrides):
                raise UserError(f"{place} ({key}) must leave to the sweep what it sets itself")
        try:
            check_names([f"--{key}" for key in options])
        except UserError as error:
            raise UserError(f"{place} must be options of videonorm fit: {error}") from error
