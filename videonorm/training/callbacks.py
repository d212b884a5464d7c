"""What a run does beside training: the last checkpoint, how often it logs, the bar, the bad videos."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar

from videonorm.errors import UserError
from videonorm.training.classifier import VideoClassifier
from videonorm.training.datamodule import VideoDataModule


def say(trainer: Trainer, sentence: str) -> None:
    """Print a line, once of all processes."""
    if trainer.is_global_zero:
        print(sentence, flush=True)


def parts(trainer: Trainer) -> tuple[VideoClassifier, VideoDataModule | None]:
    """The model, and our data module; None where the clips are another's."""
    classifier, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    assert isinstance(classifier, VideoClassifier)
    return classifier, data if isinstance(data, VideoDataModule) else None


class ProgressBar(RichProgressBar):
    """Lightning's, but for the number of epochs: training that is measured in steps has none."""

    @property
    def total_train_batches(self) -> int | float:
        """Of an epoch, or of what is left of it in steps; of a resumed epoch those before it went on too."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return trainer.num_training_batches
        before = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        left: int = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return min(trainer.num_training_batches, before + left)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}"


class ModelLine(Callback):
    """Says how large the model is, in place of Lightning's table, which knows no FLOPs of it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
        total, trained = sum(n for n, _ in sizes), sum(n for n, of_trained in sizes if of_trained)
        name = type(parts(trainer)[0].backbone).__name__
        say(trainer, f"{name}: {total:,} parameters, {'all' if trained == total else f'{trained:,}'} trained")


class LogInterval(Callback):
    """Logs every 50 steps, as Lightning does, but ten times an epoch and a run at least."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        of_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        steps = min(of_epoch, float(trainer.estimated_stepping_batches))
        trainer.log_every_n_steps = 50 if math.isinf(steps) else max(1, min(50, int(steps // 10)))  # type: ignore[attr-defined]


class BadVideoReport(Callback):
    """Brings the bad videos that the processes met together at the end of every epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _, data = parts(trainer)
        if data:
            data.share_bad_videos()

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
        self.changed = False
        """Whether the network is another than that of the checkpoint that the run went on from."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.changed = True
        last_of_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        total_steps = parts(trainer)[0].total_steps
        last_of_all = total_steps is not None and trainer.global_step >= total_steps
        # Only right after a step: gradients that are being accumulated are in no checkpoint.
        stepped = last_of_epoch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self.due |= stepped and trainer.global_step % self.every_n_train_steps == 0
        # Not before the validation that may follow: a run killed in it would go on without it.
        if self.due and stepped and not last_of_epoch and not last_of_all:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.changed:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.due = False
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
