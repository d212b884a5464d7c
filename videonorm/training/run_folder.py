"""The files of a run folder.

config.yaml       the resolved configuration
run.json          what was run, on what, and what came out (see ``RunRecord``)
metrics.csv       one row per logged step
val.csv           one row per video of the last validation (see ``EvaluationRecord``)
checkpoints/      last.ckpt to go on from, best.ckpt of the best validation
bad_videos.csv    videos that could not be decoded, and why
tensorboard/      TensorBoard events
"""

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from videonorm.evaluation.checkpoint import read_checkpoint
from videonorm.files import open_new

SECONDS_BETWEEN_SAVES = 10.0


class MetricsTable(Logger):
    """Writes metrics.csv: one row per logged step, a column per metric.

    Lightning's own CSVLogger deletes the rows of earlier sessions when a run is resumed.

    Args:
        folder: the run folder.
        resume: keep the rows that are there, but for those that come after the checkpoint.
    """

    def __init__(self, folder: str | Path, resume: bool = False) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []
        self.saved = time.monotonic()
        if resume and self.path.exists():
            with open(self.path, newline="") as file:
                self.kept = list(csv.DictReader(file))

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml and run.json have them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.rows:  # rows from here on come from steps that are now run again
            self.kept = [row for row in self.kept if int(row["step"]) < (step or 0)]
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(metrics)
        else:
            self.rows.append({"step": step, **metrics})
        if time.monotonic() - self.saved > SECONDS_BETWEEN_SAVES:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        rows = self.kept + self.rows
        if not rows:
            return
        columns = sorted({name for row in rows for name in row} - {"step", "epoch"})
        with open_new(self.path) as file:
            writer = csv.DictWriter(file, ["step", "epoch", *columns])
            writer.writeheader()
            writer.writerows(rows)
        self.saved = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; reads no code from one (``weights_only=True``)."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with open_new(path, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path, "ckpt_path")
