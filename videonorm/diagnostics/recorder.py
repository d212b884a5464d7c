"""What all recorders have in common: when they are due, what they look at, and where it is written."""

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from videonorm.data.batches import train_clips
from videonorm.diagnostics.subject import Subject
from videonorm.diagnostics.undisturbed import undisturbed
from videonorm.errors import UserError
from videonorm.step_table import StepTable

Row = Mapping[str, float | int | str]
Batch = tuple[Tensor, Tensor]
PROBE = "probe"  # in a checkpoint


@runtime_checkable
class Clock(Protocol):
    """Of the seconds of training, in run.json, by which a TimeBudget ends it."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Recorder(Callback, ABC):
    """Measures a network every so many steps, and writes what it finds to tables in the run folder.

    It is due before the first update (step 0), before every update behind ``every_n_steps`` others, and at
    the end of training. What it looks at is the *probe*: the first batch that this device trains on, or the
    first ones, as augmented there; of several devices, that of the first. It stays the same for the whole
    run, in each checkpoint too, which becomes so much larger; once for all recorders. In memory it is kept on
    the CPU. It passes the network in the precision of training, but for fp16, in fp32.

    Training does not notice: weights, gradients, running statistics, optimizer, random numbers and modes are
    as they would be without, to the bit, and the clock of training stands still.

    A run that goes on from a checkpoint goes on with the tables: rows of later steps are replaced. Rows are
    on the disk when a checkpoint is, and every ten seconds at most in between. What is not finite is written
    as inf or nan.

    Args:
        every_n_steps: optimizer steps from one row of a table to the next.
        clips: at least as many make the probe, in whole batches.
    """

    tables: ClassVar[Mapping[str, tuple[str, ...]]]
    """Columns behind ``step`` by the name of the table, which is that of its file, too."""

    def __init__(self, every_n_steps: int, clips: int = 1) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("clips", clips)):
            if value < 1:
                raise UserError(f"{name} ({value}) must be at least 1")
        self.every_n_steps, self.clips = every_n_steps, clips
        self.probe: list[Batch] = []
        """Batches on the CPU."""
        self._recorded: int | None = None
        self._tables: dict[str, StepTable] = {}

    # What a recorder is

    @abstractmethod
    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        """The rows of each table. Whatever this does to buffers and random numbers is undone behind it."""

    def require(self, network: nn.Module) -> None:
        """Raise UserError for a network that this recorder finds nothing in; before anything is trained."""

    def is_due(self, step: int, ended: bool) -> bool:
        """Behind so many updates, which may be all of the training."""
        return ended or step % self.every_n_steps == 0

    @property
    def clips_of_probe(self) -> int:
        return sum(len(clips) for clips, _ in self.probe)

    def has_enough(self) -> bool:
        """Whether the probe is complete."""
        return self.clips_of_probe >= self.clips

    # When

    def check(self, trainer: Trainer) -> None:
        """Raise UserError if the training is none that this recorder can look at."""
        name, others = type(self).__name__, trainer.callbacks  # type: ignore[attr-defined]
        if sum(type(other) is type(self) for other in others) > 1:
            raise UserError(f"trainer.callbacks ({name}) must be there once, as its table is")
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UserError(
                f"trainer.strategy ({type(trainer.strategy).__name__}) must leave the whole network on each "
                f"device for trainer.callbacks ({name})"
            )
        network = trainer.lightning_module.backbone
        assert isinstance(network, nn.Module)
        self.require(network)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.probe, self._recorded, self._tables = [], None, {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder, resumes = Path(trainer.default_root_dir), trainer.ckpt_path is not None
        self._tables = {
            name: StepTable(folder / f"{name}.csv", ["step", *columns], resumes)
            for name, columns in self.tables.items()
        }
        for table in self._tables.values():
            table.drop_from(trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.has_enough():
            self._keep(trainer, batch)
        if self._is_to_record(trainer, ended=False):
            with _standing(trainer):
                self._record(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_to_record(trainer, ended=True):
            for clock in _clocks(trainer):
                clock.stop()
            self._record(trainer, pl_module)
        if not self.has_enough() and self._writes(trainer):
            warnings.warn(
                f"{type(self).__name__} has no table: training ended with {self.clips_of_probe} clips, which "
                "are too few",
                stacklevel=2,
            )
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk, maybe: that is what is to be reported
            self._save(trainer)

    # How

    def _is_to_record(self, trainer: Trainer, ended: bool) -> bool:
        step = trainer.global_step
        return step != self._recorded and self.has_enough() and self.is_due(step, ended)

    def _keep(self, trainer: Trainer, batch: Any) -> None:
        """Enter a batch into the probe; the same tensors as in that of another recorder."""
        place = len(self.probe)
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, Recorder) and len(other.probe) > place:
                self.probe.append(other.probe[place])
                return
        clips, labels = train_clips(batch)
        kept: Batch = clips.detach().cpu().clone(), labels.detach().cpu().clone()
        self.probe.append(trainer.strategy.broadcast(kept))

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device, step = trainer.strategy.root_device, trainer.global_step
        clips, labels = (tensor.to(device) for tensor in self.probe[0])
        with undisturbed(pl_module, device):
            found = self.measure(Subject(trainer, pl_module, clips, labels))
        self._recorded = step
        for name, rows in found.items():
            for row in rows:
                self._tables[name].add({"step": step, **row})
            if self._writes(trainer):
                self._tables[name].save_now_and_then()

    def _save(self, trainer: Trainer) -> None:
        if self._writes(trainer):
            for table in self._tables.values():
                table.save()

    @staticmethod
    def _writes(trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    # The checkpoint: not by state_dict, with which each recorder would keep a probe of its own

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[PROBE] = max(checkpoint.get(PROBE, []), self.probe, key=len)
        self._save(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.probe = list(checkpoint.get(PROBE, []))


def _clocks(trainer: Trainer) -> list[Clock]:
    clocks = [getattr(callback, "clock", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [clock for clock in clocks if isinstance(clock, Clock)]


@contextlib.contextmanager
def _standing(trainer: Trainer) -> Iterator[None]:
    """The clocks of a training in work stand still inside."""
    for clock in _clocks(trainer):
        clock.stop()
    yield
    for clock in _clocks(trainer):
        clock.start()
