"""The five batch sizes of a run, told apart.

Clips per device and step, accumulated steps, devices, their product (what the optimizer sees), and the
statistics batch (what batch normalization sees). The GN paper's "batch" is the last one (arXiv:1803.08494,
section 4.1).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from lightning.pytorch import Trainer
from torch import nn

from videonorm.errors import UserError
from videonorm.layers.statistics_batch import statistics_batch
from videonorm.messages import counted


def clips_sharing_statistics(
    model: nn.Module,
    batch_size: int | None,
    world_size: int,
    frozen: Iterable[nn.Module] = (),
    accumulate: int = 1,
) -> int | None:
    """Clips over which the model's norms pool their statistics in training; the fewest, if they differ.

    Those in ``frozen`` parts pool none. None where no clip sees another, or the batch size is not known.

    Raises:
        UserError: a layer cannot be trained with so few clips, or cannot split them.
    """
    if batch_size is None:
        return None
    shared: list[int] = []
    left_out = {module for part in frozen for module in part.modules()}
    for module in model.modules():
        if module in left_out:
            continue
        try:
            clips = statistics_batch(module, batch_size, world_size, accumulate)
        except ValueError as error:
            raise UserError(str(error)) from error
        if clips is None:
            continue
        if clips < getattr(module, "min_clips", 0):
            raise UserError(
                f"batch_size ({batch_size}) must give {type(module).__name__} at least "
                f"{module.min_clips} clips to take statistics of, not {clips}; set min_clips: {clips} to "
                "train it all the same"
            )
        shared.append(clips)
    return min(shared, default=None)


def check_epoch(videos: int, batch_size: int, clips_per_video: int, trainer: Trainer) -> None:
    """Raise UserError if an epoch of ``videos`` has no batch, or fewer than a step accumulates."""
    batches = videos // trainer.world_size // (batch_size // clips_per_video)
    if not batches:
        devices = f" x {trainer.world_size} devices" if trainer.world_size > 1 else ""
        clips = f" times {clips_per_video} clips_per_video" if clips_per_video > 1 else ""
        raise UserError(
            f"batch_size ({batch_size}){devices} must be at most the number of training videos "
            f"({videos}){clips}"
        )
    limit = trainer.overfit_batches or trainer.limit_train_batches  # type: ignore[attr-defined]
    taken = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    check_accumulation(trainer.accumulate_grad_batches, taken)


def check_accumulation(accumulate: int, batches: float) -> None:
    """Raise UserError if a step is asked for more ``batches`` than an epoch has: it would be made of fewer.

    Lightning steps at the end of an epoch with what it has. A last step of fewer batches is no mistake: their
    gradients are divided by ``accumulate`` all the same, so that it weighs as much less.
    """
    if accumulate > batches:
        raise UserError(
            f"trainer.accumulate_grad_batches ({accumulate}) must be at most the batches of an epoch "
            f"({batches:g}), as a step ends with its epoch"
        )


@dataclass(frozen=True)
class BatchSizes:
    """The five batch sizes of a run, and the frames that one optimizer step is made of.

    What another's data loader does not tell is None, and so is what follows from it.

    Args:
        batch_size: clips per device in one forward pass.
        accumulate: forward passes whose gradients one optimizer step adds up.
        world_size: devices.
        statistics_batch: clips that share batch-norm statistics; None without any.
        num_frames: frames of a clip.
    """

    batch_size: int | None
    accumulate: int
    world_size: int
    statistics_batch: int | None
    num_frames: int | None

    @classmethod
    def of(
        cls,
        backbone: nn.Module,
        *,
        batch_size: int | None,
        accumulate: int,
        world_size: int,
        num_frames: int | None,
        frozen: Iterable[nn.Module] = (),
    ) -> "BatchSizes":
        statistics_batch = clips_sharing_statistics(backbone, batch_size, world_size, frozen, accumulate)
        return cls(batch_size, accumulate, world_size, statistics_batch, num_frames)

    @property
    def global_batch(self) -> int | None:
        """Clips per optimizer step."""
        return None if self.batch_size is None else self.batch_size * self.accumulate * self.world_size

    @property
    def frames_per_step(self) -> int | None:
        """Frames per optimizer step."""
        clips, frames = self.global_batch, self.num_frames
        return None if clips is None or frames is None else clips * frames

    def as_record(self) -> dict[str, int | None]:
        """All of them by name."""
        derived = {"global_batch": self.global_batch, "frames_per_step": self.frames_per_step}
        return {**asdict(self), **derived}

    def __str__(self) -> str:
        devices, clips, frames = counted(self.world_size, "device"), self.global_batch, self.frames_per_step
        if self.batch_size is None or clips is None:
            return f"? clips a device x {self.accumulate} accumulated x {devices}"
        of_frames = "" if frames is None else f" = {counted(frames, 'frame')}"
        shared = (
            "no norm pools clips" if self.statistics_batch is None else f"norms pool {self.statistics_batch}"
        )
        return (
            f"{counted(self.batch_size, 'clip')} a device x {self.accumulate} accumulated x {devices} = "
            f"{counted(clips, 'clip')}{of_frames} a step; {shared}"
        )
