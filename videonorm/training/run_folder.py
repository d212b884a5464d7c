"""The files of a run folder, one run at a time.

config.yaml       the resolved configuration
run.json          what was run, on what, and what came out (see ``RunRecord``)
metrics.csv       one row per logged step
activations.csv   and other tables of recorders, named as their modules (see ``videonorm.diagnostics``)
val.csv           one row per video of the last validation (see ``EvaluationRecord``)
scores.npz        the scores of every video by clips of several lengths, if asked for (see ``ScoreAtLengths``)
checkpoints/      last.ckpt to go on from, best.ckpt of the best validation
bad_videos.csv    videos that could not be decoded, and why
tensorboard/      TensorBoard events
.lock             held by the `fit` that is writing there

`validate`, `test` and `predict` add their results to the folder of the checkpoint that they judge.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import read_checkpoint, write_checkpoint
from videonorm.files import NO_LOCKS, hold
from videonorm.step_table import StepTable


def folder_of(checkpoint: str | Path) -> Path:
    """The run folder that a checkpoint is of; that which it lies in, where it has left its run."""
    folder = Path(checkpoint).absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def check_unused(folder: Path) -> None:
    """Raise UserError if a folder has a run that a new one would replace."""
    if (folder / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"trainer.default_root_dir ({folder}) must be a folder without a run; "
            "--ckpt_path last goes on with the one that is there"
        )


class FolderLock(Callback):
    """Holds the run folder for one `fit` from before the first file is written until the process ends.

    Args:
        folder: the run folder.
        resumes: whether the run goes on with one that is there.
    """

    def __init__(self, folder: Path, resumes: bool) -> None:
        self.folder, self.resumes = folder, resumes
        self._lock: IO[str] | None = None

    def take(self, trainer: Trainer) -> None:
        """Lock the folder, or raise UserError; called once all else is found to be right."""
        if not trainer.is_global_zero:
            return
        try:
            self._lock = hold(self.folder / ".lock")
        except BlockingIOError as error:
            raise UserError(
                f"trainer.default_root_dir ({self.folder}) {error.strerror}, which trains there; "
                "give another, or wait for its end"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warnings.warn(f"{self.folder} has no locks: nothing keeps two runs apart there", stacklevel=2)
        if not self.resumes:
            check_unused(self.folder)  # another may have ended since the first look

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.close()


class MetricsTable(Logger):
    """Writes metrics.csv: one row per logged step, a column per metric.

    Lightning's own CSVLogger deletes the rows of earlier sessions when a run is resumed.

    Args:
        folder: the run folder.
        resume: keep the rows that are there, but for those that come after the checkpoint.
    """

    def __init__(self, folder: str | Path, resume: bool = False) -> None:
        super().__init__()
        self.table = StepTable(Path(folder) / "metrics.csv", ["step", "epoch"], resume)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.table.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml and run.json have them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        rows, step = self.table.rows, step or 0
        if rows and rows[-1]["step"] == step:
            rows[-1].update(metrics)
        else:
            if not rows:
                self.table.drop_from(step)
            self.table.add({"step": step, **metrics})
        self.table.save_now_and_then()

    @rank_zero_only
    def save(self) -> None:
        self.table.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # After a failure, maybe of the disk: that is what is to be reported.
        with contextlib.suppress(OSError) if status != "success" else contextlib.nullcontext():
            self.save()


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; reads no code from one (``weights_only=True``)."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        write_checkpoint(path, checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path, "ckpt_path")
