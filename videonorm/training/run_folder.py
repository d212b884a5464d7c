"""The files of a run folder and how they are written: under a temporary name beside them, then renamed.

config.yaml       the resolved configuration
run.json          what was run, on what, and what came out (see ``RunRecord``)
metrics.csv       one row per logged step
checkpoints/      last.ckpt to go on from, best.ckpt of the best validation
bad_videos.csv    videos that could not be decoded, and why
tensorboard/      TensorBoard events
"""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from videonorm.errors import UserError

SECONDS_BETWEEN_SAVES = 10.0


@contextmanager
def written_whole(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is complete; an exception leaves what was there before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Of text: a video's name may hold any byte.
        newline, encoding, errors = (None,) * 3 if "b" in mode else ("", "utf-8", "surrogateescape")
        with open(temporary, mode, newline=newline, encoding=encoding, errors=errors) as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a record; a number that is not finite, such as the loss of a run that diverged, becomes null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}
    with written_whole(path) as file:
        json.dump(finite, file, indent=2)
        file.write("\n")


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
        with written_whole(self.path) as file:
            writer = csv.DictWriter(file, ["step", "epoch", *columns])
            writer.writeheader()
            writer.writerows(rows)
        self.saved = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; reads no code from one (``weights_only=True``)."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with written_whole(path, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint onto the CPU.

    Raises:
        UserError: there is no such file, or it is no checkpoint of `videonorm fit`.
    """
    if not Path(path).is_file():
        raise UserError(f"ckpt_path ({path}) must be an existing file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage makes torch.load fail in any way
        raise UserError(f"ckpt_path ({path}) must be a readable checkpoint") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "global_step"} <= checkpoint.keys():
        raise UserError(f"ckpt_path ({path}) must be a checkpoint that videonorm fit has written")
    return checkpoint
