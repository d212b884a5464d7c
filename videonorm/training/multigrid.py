"""Multigrid training: most of it on short, small clips in large batches, the end of it at the full shape.

Source: Wu et al., "A Multigrid Method for Efficiently Training Video Models", arXiv:1912.00998.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

from videonorm.errors import UserError
from videonorm.training.batch_sizes import clips_sharing_statistics
from videonorm.training.callbacks import parts, say
from videonorm.training.classifier import VideoClassifier
from videonorm.training.datamodule import VideoDataModule
from videonorm.training.grids import LrRule, Plan, Shape, lay_out
from videonorm.training.schedule import Schedule, WarmupSteps

# Of a schedule without stages; those of PySlowFast's step schedules for Kinetics are about so.
CYCLES = 2
FINE_TUNE = 0.2


class ScaledSchedule(Schedule):
    """A schedule times what a plan makes of the learning rate."""

    def __init__(self, schedule: Schedule, plan: Plan) -> None:
        self.schedule, self.plan = schedule, plan
        self.warmup = getattr(schedule, "warmup", 0.0)

    def __repr__(self) -> str:
        return f"{self.schedule!r} x Multigrid"

    def factor(self, progress: float) -> float:
        return self.schedule.factor(progress) * self.plan.lr_factor(progress)


class Multigrid(Callback):
    """Changes T, B and crop_size of a `videonorm fit` as it goes on; with ``VideoDataModule`` alone.

    ``data.num_frames`` T, ``crop_size`` S and ``batch_size`` are the full shape: that of validation, and what
    a run is named and recorded by. A coarser shape t, s has round(T S^2 / (t s^2)) times as many clips, so
    that every step costs about the same.

    The long cycle goes through its shapes from coarse to full, as many optimizer steps each, and the learning
    rate goes with its batch. The short cycle changes crops and batch from one step to the next: step i has
    the crops of ``short_cycle[i mod 3]`` or, the third of its kinds, those of the long cycle; the learning
    rate stays. Coarse clips show what full ones do, or less of it: their frames are 1 to T / t times as far
    apart, drawn for each video, and they are cut out of pictures s / S to 1 times as large, drawn for each
    clip (``Crop.coarser``).

    An epoch is one pass over the videos whatever B, but for those at its end that fill no batch; the last one
    may lack a few batches more, for the phases to come out even. A step is one of the optimizer, whatever its
    shape; the batches that it accumulates have one shape. So ``max_epochs`` gives fewer steps than without
    (the paper has half as many epochs again), ``max_steps`` more epochs. Phases and schedule follow from the
    share of the steps that is done: a run that goes on keeps its length.

    Group norms, and all that treat clips one by one, are the same at any B. Batch norms pool the clips that
    there are: up to 8 times ``batch_size``, 16 times with the short cycle. The paper keeps them at 8 clips of
    the long cycle, and for that its code changes the kind of norm with B: split batches (sub-batch norm) or
    joined devices. Here no norm changes: ``SubBatchNorm3d`` has a number of splits, not of clips, and its
    splits grow with B, too. The running statistics that a network is judged with are of the last steps, as
    the momentum of its layers has it: those of the fine-tuning.

    PySlowFast counts phases in epochs and rounds them, goes on with the short cycle in the fine-tuning, lets
    the learning rate fall in the middle of it, begins the short cycle anew with each epoch, and draws a
    stride for each clip of a video. Factors, rounding, order, and learning rates in the cycles are the same.

    Args:
        long_cycle: factors of num_frames and crop_size of each of its shapes; none: no long cycle.
        short_cycle: factors of the full crop_size; none: no short cycle. The paper's are 0.5 and 0.7071.
        cycles: long cycles, of equal length; None: one in each stage of a ``WarmupSteps`` before fine-tuning;
            of other schedules two.
        fine_tune: share of the steps, the last ones, that have the full shape; None: the last stage of a
            ``WarmupSteps``, of other schedules 0.2.
        lr_rule: how the learning rate goes with the batch of the long cycle: linear, sqrt or constant.
    """

    def __init__(
        self,
        long_cycle: Sequence[tuple[float, float]] = (
            (0.25, 0.5**0.5),
            (0.5, 0.5**0.5),
            (0.5, 1.0),
            (1.0, 1.0),
        ),
        short_cycle: Sequence[float] = (),
        cycles: int | None = None,
        fine_tune: float | None = None,
        lr_rule: LrRule = "linear",
    ) -> None:
        if not long_cycle and not short_cycle:
            raise UserError("long_cycle ([]) or short_cycle ([]) must have at least one shape")
        for name, factors in {"long_cycle": chain(*long_cycle), "short_cycle": short_cycle}.items():
            for factor in factors:
                if not 0 < factor <= 1:
                    raise UserError(f"{name} ({factor:g}) must be above 0 and at most 1")
        if cycles is not None and cycles < 1:
            raise UserError(f"cycles ({cycles}) must be at least 1")
        if fine_tune is not None and not 0 <= fine_tune < 1:
            raise UserError(f"fine_tune ({fine_tune:g}) must be at least 0 and below 1")
        if lr_rule not in get_args(LrRule):
            raise UserError(f"lr_rule ({lr_rule}) must be linear, sqrt or constant")
        self.long_cycle = list(long_cycle)
        self.short_cycle = list(short_cycle)
        self.cycles = cycles
        self.fine_tune = fine_tune
        self.lr_rule = lr_rule
        # Of a training, what a run that goes on must have in common with it.
        self._of_whole: dict[str, int] = {}

    def check(self, trainer: Trainer) -> None:
        self._plan(trainer)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        classifier, data, schedule = self._parts(trainer)
        data.plan = self._plan(trainer)
        self._of_whole = {"total_steps": data.plan.total_steps, "clips_per_epoch": data.plan.clips}
        classifier.scheduler = ScaledSchedule(schedule, data.plan)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        classifier, data = parts(trainer)
        if data and data.plan:
            data.plan = None
            assert isinstance(classifier.scheduler, ScaledSchedule)
            classifier.scheduler = classifier.scheduler.schedule

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, data, _ = self._parts(trainer)
        assert data.plan is not None
        pooled = sorted({self._pooled(classifier, shape, trainer) or 0 for shape in data.plan.shapes})
        if not pooled[-1]:
            norms = "no norm pools clips, none changes"
        else:
            norms = f"batch norms pool {pooled[0]} to {pooled[-1]} clips, as many as there are"
        grids = list(dict.fromkeys(phase.shapes[-1] for phase in data.plan.phases))
        short = f", crops of {len(self.short_cycle) + 1} sizes in turn" if self.short_cycle else ""
        say(
            trainer,
            f"multigrid: {data.plan.total_steps} steps of {', '.join(map(str, grids))}{short}; {norms}",
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning counts the batches of an epoch once, unless it is told that loaders change.
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        trainer.fit_loop.setup_data()
        trainer.reload_dataloaders_every_n_epochs = 0  # type: ignore[attr-defined]

    def _plan(self, trainer: Trainer) -> Plan:
        classifier, data, schedule = self._parts(trainer)
        if trainer.max_steps < 0 and (trainer.max_epochs or -1) < 0:
            raise UserError(
                "trainer.max_steps (-1) or trainer.max_epochs (-1) must be set for Multigrid to follow"
            )
        limit = trainer.overfit_batches or trainer.limit_train_batches  # type: ignore[attr-defined]
        if (isinstance(limit, int) or limit != 1.0) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                f"trainer.limit_train_batches ({limit}) must be 1.0 with Multigrid: its batches are not alike"
            )
        full = Shape(data.num_frames, data.crop_size, data.batch_size)
        stages, fine_tune = self._stages(schedule)
        plan = Plan(
            lay_out(full, self.long_cycle, self.short_cycle, stages, fine_tune, self.lr_rule),
            videos=len(data.manifests["train"].entries) // trainer.world_size,
            clips_per_video=data.clips_per_video,
            frame_stride=data.frame_stride,
            frames_per_second=data.frames_per_second,
            accumulate=trainer.accumulate_grad_batches,
            max_steps=trainer.max_steps,
            max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
        )
        classifier.execution.check_shapes(len(plan.shapes), "Multigrid")
        for shape in plan.shapes:
            self._pooled(classifier, shape, trainer)
            if shape.batch_size * plan.accumulate > plan.clips:
                raise UserError(
                    f"batch_size ({data.batch_size}) must be so small that the {shape} of a step of Multigrid"
                    f"{f' x {plan.accumulate} accumulated' if plan.accumulate > 1 else ''} are at most the "
                    f"{plan.clips} of an epoch"
                )
        return plan

    def _stages(self, schedule: Schedule) -> tuple[list[float], float]:
        """Where the long cycles begin, and the share of fine-tuning."""
        milestones = schedule.milestones if isinstance(schedule, WarmupSteps) else ()
        stages = sorted({0.0, *(milestone for milestone in milestones if 0 < milestone < 1)})
        fine_tune = self.fine_tune
        if fine_tune is None:
            fine_tune = 1 - stages[-1] if stages[1:] else FINE_TUNE
        if self.cycles is None and stages[1:]:
            return [stage for stage in stages if stage < 1 - fine_tune], fine_tune
        cycles = self.cycles or CYCLES
        return [(1 - fine_tune) * number / cycles for number in range(cycles)], fine_tune

    def _pooled(self, classifier: VideoClassifier, shape: Shape, trainer: Trainer) -> int | None:
        sizes = shape.batch_size, trainer.world_size
        accumulate = trainer.accumulate_grad_batches
        return clips_sharing_statistics(classifier.backbone, *sizes, classifier.frozen, accumulate)

    def _parts(self, trainer: Trainer) -> tuple[VideoClassifier, VideoDataModule, Schedule]:
        classifier, data = parts(trainer)
        if data is None:
            raise UserError(
                "trainer.callbacks (Multigrid) must be left out of training on another's data loader"
            )
        schedule = classifier.scheduler
        if not isinstance(schedule, Schedule):
            name = "null" if schedule is None else "another's"
            raise UserError(
                f"model.scheduler ({name}) must be a schedule of videonorm.training for Multigrid to scale; "
                "WarmupSteps with milestones: [] is constant"
            )
        return classifier, data, schedule

    # The checkpoint

    def state_dict(self) -> dict[str, Any]:
        return self._of_whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, before in state_dict.items():
            now = self._of_whole.get(name, before)  # there is none but in training
            if now != before:
                raise UserError(
                    f"{name} ({now}) must be {before} in a run with Multigrid that goes on: its cycles are "
                    "of the whole training, with trainer.max_steps, max_epochs and data.source as they were"
                )
