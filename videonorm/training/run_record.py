"""What a run writes down of itself: run.json, config.yaml, and in its checkpoints what they need later."""

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from videonorm import __version__
from videonorm.files import write, write_json
from videonorm.layers import norm_layers
from videonorm.machine import commit, machine, versions
from videonorm.messages import counted
from videonorm.training.callbacks import parts, say
from videonorm.training.interruption import Stopped
from videonorm.training.schedule import Schedule
from videonorm.training.score_at_lengths import ScoreAtLengths
from videonorm.training.throughput import TrainingClock, peak_memory_mib

SECONDS_BETWEEN_RECORDS = 2.0
SHAPE = ("num_frames", "crop_size", "batch_size", "batches")  # batches that a device was given of a shape


def class_names(modules: Iterable[nn.Module]) -> str | None:
    """The classes of some modules by name, for a person to read."""
    return " + ".join(sorted({type(module).__name__ for module in modules})) or None


def _version(model: nn.Module) -> int:
    """A number that changes with every change of a weight."""
    return sum(parameter._version for parameter in model.parameters())


class RunRecord(Callback):
    """Keeps run.json, and makes checkpoints self-contained.

    run.json is written when training starts (status "running"), every few seconds while it goes on, and at
    its end ("done", "failed" with the error, or "stopped" with the signal). Clips, seconds and validation
    scores go on over a resume. If the last step has not been validated when training ends, it is: a record's
    scores are those of the model it ends with. ``ScoreAtLengths`` is called then. What another's data loader
    does not tell is null.

    Args:
        backbone: the resolved ``{"class_path": ..., "init_args": ...}`` of the model. It goes into every
            checkpoint, with what is needed to prepare a clip for it, under the key "videonorm".
        seed: of the run.
        settings: what a run that goes on must have in common (see ``resume.settled``), for the checkpoints.
        config: the resolved configuration, for config.yaml.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        config: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.seed = seed
        self.settings = dict(settings or {})
        self.config = config
        self.clock = TrainingClock()
        self.shapes: Counter[tuple[int, int, int]] = Counter()
        self.validation: dict[str, float | None] = dict.fromkeys(
            ["val_top1", "val_top5", "val_loss", "val_videos"]
        )
        self.validated_step: int | None = None
        self._validated_weights: int | None = None
        self.best: dict[str, float | None] = {"best_val_top1": None, "best_step": None}
        self.weights: dict[str, Any] | None = None  # that the run started with
        # Of the run that the checkpoint is of: what it was trained towards, and in what epochs.
        self.total_steps: int | None = None
        self.batches_per_epoch: int | None = None
        self.views: list[dict[str, Any]] = []  # what ScoreAtLengths has found
        self.peak_memory_mib: float | None = None  # of training, once it has ended
        self.constants: dict[str, Any] = {}
        self.written = 0.0
        self.is_done = False

    # The record

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, data = parts(trainer)
        device = trainer.strategy.root_device
        say(trainer, f"{classifier.batch_sizes}; learning rate {classifier.base_lr:.4g}")
        if classifier.start:
            say(trainer, str(classifier.start.report))
            self.weights = classifier.start.record()
        if classifier.execution.compile is not None:
            say(trainer, "the first step compiles the network, and takes so much longer")
        best_possible = data and data.source.best_possible_top1(
            data.num_frames, data.frame_stride, data.frames_per_second
        )
        self.constants = {
            "norm": class_names(norm_layers(classifier.backbone)),
            "conv": class_names(m for m in classifier.backbone.modules() if isinstance(m, nn.Conv3d)),
            "frame_stride": data and data.frame_stride,
            "frames_per_second": data and data.frames_per_second,
            "held_out": data and data.held_out,
            "seed": self.seed,
            "lr": classifier.base_lr,
            "schedule": classifier.schedule_name,
            "num_classes": classifier.num_classes,
            "weights": self.weights,
            "best_possible_top1": best_possible,
            "machine": machine(device),
            "versions": versions(),
            "commit": commit(),
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, data = parts(trainer)
        step, total_steps = trainer.global_step, classifier.total_steps
        if trainer.ckpt_path:
            say(trainer, f"going on at step {step} from {trainer.ckpt_path}")
            follows = isinstance(classifier.scheduler, Schedule) and classifier.time_budget is None
            if follows and self.total_steps not in (None, total_steps):
                was = f"was of {self.total_steps} until step {step}"
                say(trainer, f"the schedule is now of {total_steps} steps, and {was}")
        self.total_steps = total_steps
        unlike = math.isinf(trainer.num_training_batches) or (data is not None and data.plan is not None)
        batches = None if unlike else int(trainer.num_training_batches)
        if self.batches_per_epoch not in (None, batches):
            say(
                trainer,
                f"an epoch is now {batches} batches, and was {self.batches_per_epoch}: of other clips",
            )
        if batches and (left := batches % trainer.accumulate_grad_batches):
            last = f"{left} of {trainer.accumulate_grad_batches}, and weighs as much less"
            say(trainer, f"an epoch is {batches} batches: its last step has {last}")
        self.batches_per_epoch = self.constants["batches_per_epoch"] = batches
        if self.config is not None and trainer.is_global_zero:
            write(Path(trainer.default_root_dir) / "config.yaml", self.config)
        self._write(trainer, "running")
        if not trainer.fit_loop.done:
            self.clock.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        clips, _, frames, *_, crop_size = parts(trainer)[0].clips_shape
        on_all = clips * trainer.world_size
        self.clock.step(on_all, on_all * frames)
        self.shapes[frames, crop_size, clips] += 1
        if (clips_per_second := self.clock.clips_per_second) is not None:
            pl_module.log("clips_per_second", clips_per_second, prog_bar=True, batch_size=clips)
        if time.monotonic() - self.written > SECONDS_BETWEEN_RECORDS:
            self._write(trainer, "running")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = parts(trainer)[0].scores.metrics()
        self.validation = {f"val_{name}": metrics[name] for name in ("top1", "top5", "loss", "videos")}
        self.validation["val_videos"] = int(metrics["videos"])
        best = self.best["best_val_top1"]
        # best.ckpt is of the first validation of a step.
        if self.validated_step != trainer.global_step and (best is None or metrics["top1"] > best):
            self.best = {"best_val_top1": metrics["top1"], "best_step": trainer.global_step}
        self.validated_step, self._validated_weights = trainer.global_step, _version(pl_module)
        self.clock.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts(trainer)[0].execution.end()  # graphs hold memory, which scoring at other lengths may need
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        scorers = [callback for callback in callbacks if isinstance(callback, ScoreAtLengths)]
        changed = self._validated_weights not in (None, _version(pl_module))  # by weight averaging, say
        unknown = bool(scorers) and self._validated_weights is None  # were scored in another session
        if trainer.enable_validation and (changed or unknown or self.validated_step != trainer.global_step):
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
        self.clock.stop()
        self.peak_memory_mib = peak_memory_mib(trainer.strategy.root_device)  # of other clips it is another
        for scorer in scorers:
            for scores in scorer.score(trainer):
                self.views.append(scores.record())
                self._write(trainer, "running")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "done")
        self.is_done = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.is_done:
            return
        best, step = self.best["best_val_top1"], self.best["best_step"]
        scored = "not validated" if best is None else f"best val/top1 {best:.4f} at step {step}"
        say(trainer, f"{trainer.default_root_dir}: {counted(trainer.global_step, 'step')}, {scored}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not self.constants:
            return
        self.clock.stop()
        with contextlib.suppress(OSError):  # a full disk has ended the run: that is what is to be reported
            if isinstance(exception, Stopped):
                self._write(trainer, "stopped", exception.signal.name)
            else:
                self._write(trainer, "failed", f"{type(exception).__name__}: {exception}")

    def _write(self, trainer: Trainer, status: str, error: str | None = None) -> None:
        if not trainer.is_global_zero:
            return
        classifier, data = parts(trainer)
        sizes = classifier.batch_sizes
        write_json(
            Path(trainer.default_root_dir) / "run.json",
            {
                "status": status,
                "error": error,
                **sizes.as_record(),
                **self.constants,
                **classifier.execution.record(),
                "step": trainer.global_step,
                "steps": trainer.global_step,
                "total_steps": classifier.total_steps,
                "warmup_steps": classifier.warmup_steps,
                "clips_seen": self.clock.clips_seen,
                "frames_seen": self.clock.frames_seen,
                "shapes": [dict(zip(SHAPE, row, strict=True)) for row in self._shape_rows()],
                **self.validation,
                **self.best,
                "views": self.views,
                "train_seconds": self.clock.train_seconds,
                "clips_per_second": self.clock.clips_per_second,
                "peak_memory_mib": self.peak_memory_mib or peak_memory_mib(trainer.strategy.root_device),
                "bad_videos": data and len(data.bad_videos),
            },
        )
        self.written = time.monotonic()

    def _shape_rows(self) -> list[list[int]]:
        return [[*shape, batches] for shape, batches in self.shapes.items()]

    # The checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {
            "clock": self.clock.state_dict(),
            "shapes": self._shape_rows(),
            "validation": self.validation,
            "validated_step": self.validated_step,
            "best": self.best,
            "weights": self.weights,
            "total_steps": self.total_steps,
            "batches_per_epoch": self.batches_per_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clock.load_state_dict(state_dict["clock"])
        self.shapes = Counter({(*shape,): batches for *shape, batches in state_dict.get("shapes", [])})
        self.validation, self.validated_step = state_dict["validation"], state_dict["validated_step"]
        self.best = state_dict.get("best", self.best)  # earlier versions kept none
        self.weights = state_dict.get("weights")
        self.total_steps = state_dict.get("total_steps")
        self.batches_per_epoch = state_dict.get("batches_per_epoch")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        _, data = parts(trainer)
        about: dict[str, Any] = {"version": __version__, "backbone": self.backbone}
        if data:
            about["input"] = dataclasses.asdict(data.clip_spec)
            about["class_names"] = data.source.class_names
        checkpoint["videonorm"] = {**about, "settings": self.settings, "world_size": trainer.world_size}
