"""What a network has learnt of the videos that it is trained on, beside what it makes of others."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer

from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject, wide


class Generalization(Recorder):
    """generalization.csv: one row, at the end of training.

    - ``train_loss``, ``train_top1``: mean cross-entropy, in nats, and accuracy of the network in evaluation
      mode on the first training clips, as they were augmented. The loss that training logs is another: of
      weights that still move, with the statistics of its batches and with dropout.
    - ``val_loss``: of the last validation; nan if there was none
    - ``gap`` = val_loss - train_loss

    Cost, once: a forward of so many clips, and their memory on the CPU; they are in the checkpoints, too.

    Args:
        clips: at least as many training clips are looked at, in whole batches.
    """

    tables = {"generalization": ("train_loss", "train_top1", "val_loss", "gap")}

    def __init__(self, clips: int = 128) -> None:
        super().__init__(every_n_steps=1, clips=clips)

    def is_due(self, step: int, ended: bool) -> bool:
        return False  # but in on_fit_end: `videonorm fit` may validate once more behind the last step

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._tables and self.has_enough():  # none of a run that was over before
            self._record(trainer, pl_module)
            self._save(trainer)

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        device = subject.trainer.strategy.root_device
        subject.module.eval()
        losses, right, count = 0.0, 0, 0
        with torch.no_grad(), subject.precision():
            for clips, labels in self.probe:
                logits = wide(subject.network(clips.to(device))).cpu()
                losses += float(F.cross_entropy(logits, labels, reduction="sum"))
                classes = labels.argmax(dim=1) if labels.dim() > 1 else labels
                right += int((logits.argmax(dim=1) == classes).sum())
                count += len(clips)
        train_loss = losses / count
        val_loss = float(subject.trainer.callback_metrics.get("val/loss", math.nan))
        row = {
            "train_loss": train_loss,
            "train_top1": right / count,
            "val_loss": val_loss,
            "gap": val_loss - train_loss,
        }
        return {"generalization": [row]}
