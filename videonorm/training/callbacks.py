"""What a run writes down: run.json, the last checkpoint, the scores of an evaluation."""

import csv
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from videonorm import __version__
from videonorm.data import Manifest, Split
from videonorm.errors import UserError
from videonorm.files import open_new, write_json
from videonorm.machine import commit, machine, versions
from videonorm.training.batch_sizes import norm_layers
from videonorm.training.classifier import TrainClips, VideoClassifier
from videonorm.training.datamodule import VideoDataModule
from videonorm.training.interruption import Stopped
from videonorm.training.throughput import TrainingClock, peak_memory_mib

SECONDS_BETWEEN_RECORDS = 2.0


def class_names(modules: Any) -> str | None:
    """The classes of some modules by name, for a person to read."""
    return " + ".join(sorted({type(module).__name__ for module in modules})) or None


class RunRecord(Callback):
    """Keeps run.json, and makes checkpoints self-contained.

    run.json is written when training starts (status "running"), every few seconds while it goes on, and at
    its end ("done", "failed" with the error, or "stopped" with the signal). Clips, seconds and validation
    scores go on over a resume. If the last step has not been validated when training ends, it is: a record's
    scores are those of the model it ends with.

    Args:
        backbone: the resolved ``{"class_path": ..., "init_args": ...}`` of the model. It goes into every
            checkpoint, with what is needed to prepare a clip for it, under the key "videonorm".
        seed: of the run.
    """

    def __init__(self, backbone: dict[str, Any] | None = None, seed: int | None = None) -> None:
        self.backbone = backbone
        self.seed = seed
        self.clock = TrainingClock()
        self.validation: dict[str, float | None] = dict.fromkeys(
            ["val_top1", "val_top5", "val_loss", "val_videos"]
        )
        self.validated_step: int | None = None
        self.constants: dict[str, Any] = {}
        self.written = 0.0

    # The record

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, data = _parts(trainer)
        sizes = classifier.batch_sizes
        device = trainer.strategy.root_device
        _say(trainer, f"{sizes}; learning rate {classifier.base_lr:.4g}")
        self.constants = {
            "norm": class_names(norm_layers(classifier.backbone)),
            "conv": class_names(m for m in classifier.backbone.modules() if isinstance(m, nn.Conv3d)),
            "num_frames": data.num_frames,
            "frame_stride": data.frame_stride,
            "batch_size": sizes.batch_size,
            "accumulate": sizes.accumulate,
            "world_size": sizes.world_size,
            "global_batch": sizes.global_batch,
            "statistics_batch": sizes.statistics_batch,
            "frames_per_step": sizes.frames_per_step,
            "seed": self.seed,
            "lr": classifier.base_lr,
            "num_classes": classifier.num_classes,
            "best_possible_top1": data.source.best_possible_top1(data.num_frames, data.frame_stride),
            "machine": machine(device),
            "versions": versions(),
            "commit": commit(),
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "running")
        self.clock.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TrainClips, batch_idx: int
    ) -> None:
        self.clock.step(len(batch.label) * trainer.world_size)
        if (clips_per_second := self.clock.clips_per_second) is not None:
            pl_module.log("clips_per_second", clips_per_second, prog_bar=True, batch_size=len(batch.label))
        if time.monotonic() - self.written > SECONDS_BETWEEN_RECORDS:
            self._write(trainer, "running")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = _parts(trainer)[0].scores.metrics()
        self.validation = {f"val_{name}": metrics[name] for name in ("top1", "top5", "loss", "videos")}
        self.validation["val_videos"] = int(metrics["videos"])
        self.validated_step = trainer.global_step
        self.clock.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.enable_validation and self.validated_step != trainer.global_step:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
        self.clock.stop()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "done")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.constants:
            self.clock.stop()
            if isinstance(exception, Stopped):
                self._write(trainer, "stopped", exception.signal.name)
            else:
                self._write(trainer, "failed", f"{type(exception).__name__}: {exception}")

    def _write(self, trainer: Trainer, status: str, error: str | None = None) -> None:
        if not trainer.is_global_zero:
            return
        classifier, data = _parts(trainer)
        write_json(
            Path(trainer.default_root_dir) / "run.json",
            {
                "status": status,
                "error": error,
                **self.constants,
                "step": trainer.global_step,
                "steps": trainer.global_step,
                "total_steps": classifier.total_steps,
                "clips_seen": self.clock.clips_seen,
                "frames_seen": self.clock.clips_seen * data.num_frames,
                **self.validation,
                "train_seconds": self.clock.train_seconds,
                "clips_per_second": self.clock.clips_per_second,
                "peak_memory_mib": peak_memory_mib(trainer.strategy.root_device),
                "bad_videos": len(data.bad_videos),
            },
        )
        self.written = time.monotonic()

    # The checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {
            "clock": self.clock.state_dict(),
            "validation": self.validation,
            "validated_step": self.validated_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clock.load_state_dict(state_dict["clock"])
        self.validation, self.validated_step = state_dict["validation"], state_dict["validated_step"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        _, data = _parts(trainer)
        checkpoint["videonorm"] = {
            "version": __version__,
            "backbone": self.backbone,
            "input": dataclasses.asdict(data.clip_spec),
            "class_names": data.source.class_names,
        }


class ProgressBar(RichProgressBar):
    """Lightning's, but for the number of epochs: training that is measured in steps has none."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}"


class BadVideoReport(Callback):
    """Brings the bad videos that the processes met together at the end of every epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _parts(trainer)[1].share_bad_videos()

    on_validation_epoch_end = on_test_epoch_end = on_predict_epoch_end = on_train_epoch_end


class LastCheckpoint(Checkpoint):
    """Writes checkpoints/last.ckpt every so many optimizer steps and at the end of training.

    `videonorm fit ... --ckpt_path last` goes on from it, in the middle of an epoch too, with the clips that
    the unbroken run would have seen.

    Args:
        every_n_train_steps: what a killed run loses at most.
    """

    def __init__(self, every_n_train_steps: int = 250) -> None:
        if every_n_train_steps < 1:
            raise UserError(f"every_n_train_steps ({every_n_train_steps}) must be at least 1")
        self.every_n_train_steps = every_n_train_steps
        self.due = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TrainClips, batch_idx: int
    ) -> None:
        last_of_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        last_of_all = trainer.global_step >= _parts(trainer)[0].total_steps
        # Only right after a step: gradients that are being accumulated are in no checkpoint.
        stepped = last_of_epoch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self.due |= stepped and trainer.global_step % self.every_n_train_steps == 0
        # Not before the validation that may follow: a run killed in it would go on without it.
        if self.due and stepped and not last_of_epoch and not last_of_all:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.due = False
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")


class EvaluationRecord(Callback):
    """Writes what `validate`, `test` and `predict` find, and the last validation of `fit`.

    validate.json, test.json: what ``VideoScores.metrics`` has, bad videos, views, checkpoint.
    val.csv (of `fit`), validate.csv, test.csv: a row a video with path, label, predicted class, rank of the
    label among the scores (see ``VideoScores.rank``) and loss. predictions.csv: path, label (empty where
    there is none), predicted class (of equal scores the lower) and the score of every class, with all its
    digits. A bad video has a row without results.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer, "validate", "val")
        elif not trainer.sanity_checking and trainer.is_global_zero:
            classifier, data = _parts(trainer)
            self._write_ranks(Path(trainer.default_root_dir) / "val.csv", classifier, data.manifests["val"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "test", "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        classifier, data = _parts(trainer)
        named = data.source.class_names or []
        names = [*named, *map(str, range(len(named), classifier.num_classes))]
        path = Path(trainer.default_root_dir) / "predictions.csv"
        scores = [[f"{score:.9g}" for score in row] for row in classifier.scores.probabilities.tolist()]
        _write_videos(path, classifier, data.manifests["test"], names, scores)
        _say(trainer, f"wrote {path}")

    def _write(self, trainer: Trainer, stage: str, split: Split) -> None:
        if not trainer.is_global_zero:
            return
        classifier, data = _parts(trainer)
        path = Path(trainer.default_root_dir) / f"{stage}.json"
        views = data.views(split)
        metrics = classifier.scores.metrics()
        content = {
            **metrics,
            "videos": int(metrics["videos"]),
            "bad_videos": len(data.bad_videos),
            "num_clips": views.num_clips,
            "num_crops": views.num_crops,
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        }
        write_json(path, content)
        self._write_ranks(path.with_suffix(".csv"), classifier, data.manifests[split])
        _say(trainer, f"wrote {path} and {path.with_suffix('.csv').name}")

    def _write_ranks(self, path: Path, classifier: VideoClassifier, manifest: Manifest) -> None:
        ranks, losses = classifier.scores.rank.tolist(), classifier.scores.loss.tolist()
        results = [[f"{rank:g}", str(loss)] for rank, loss in zip(ranks, losses, strict=True)]
        _write_videos(path, classifier, manifest, ["rank", "loss"], results)


def _write_videos(
    path: Path,
    classifier: VideoClassifier,
    manifest: Manifest,
    columns: Sequence[str],
    results: Sequence[Sequence[str]],
) -> None:
    """A CSV file with a row a video: path, label, predicted class and ``results``, empty for a bad video."""
    scored = classifier.scores.scored.tolist()
    predicted = classifier.scores.probabilities.argmax(dim=1).tolist()
    with open_new(path) as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", *columns])
        for entry, good, best, row in zip(manifest.entries, scored, predicted, results, strict=True):
            label = entry.label if manifest.labelled else ""
            writer.writerow([entry.path, label, *([best, *row] if good else [""] * (len(row) + 1))])


def _say(trainer: Trainer, sentence: str) -> None:
    if trainer.is_global_zero:
        print(sentence, flush=True)


def _parts(trainer: Trainer) -> tuple[VideoClassifier, VideoDataModule]:
    classifier, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(classifier, VideoClassifier) and isinstance(data, VideoDataModule)
    return classifier, data
