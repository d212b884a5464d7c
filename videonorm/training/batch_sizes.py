"""The five batch sizes of a run, told apart.

Clips per device and step, accumulated steps, devices, their product (what the optimizer sees), and the
statistics batch (what batch normalization sees). The GN paper's "batch" is the last one (arXiv:1803.08494,
section 4.1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from videonorm.errors import UserError

TORCH_NORMS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm, SyncBatchNorm, InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Whether the module has the role of a norm layer: ours say so themselves, torch's are known."""
    return getattr(module, "is_norm", False) or isinstance(module, TORCH_NORMS)


def norm_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The norm layers of a model. A norm that is built from other norms counts once."""
    for child in [model] if is_norm(model) else model.children():
        if is_norm(child):
            yield child
        else:
            yield from norm_layers(child)


def clips_sharing_statistics(model: nn.Module, batch_size: int, world_size: int) -> int | None:
    """Clips over which the model's norms pool their statistics in training; the fewest, if they differ.

    Ours say it themselves (``statistics_batch``, ``min_clips``), torch's are known. None where no clip sees
    another.

    Raises:
        UserError: a layer cannot be trained with so few clips, or cannot split them.
    """
    shared: list[int] = []
    module: Any
    for module in model.modules():
        if hasattr(module, "statistics_batch"):
            try:
                clips = module.statistics_batch(batch_size)
            except ValueError as error:
                raise UserError(str(error)) from error
            if clips < module.min_clips:
                raise UserError(
                    f"batch_size ({batch_size}) must give {type(module).__name__} at least "
                    f"{module.min_clips} clips to take statistics of, not {clips}; set min_clips: {clips} to "
                    "train it all the same"
                )
            shared.append(clips)
        elif isinstance(module, nn.SyncBatchNorm):
            shared.append(batch_size * world_size)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            shared.append(batch_size)
    return min(shared, default=None)


@dataclass(frozen=True)
class BatchSizes:
    """The five batch sizes of a run, and the frames that one optimizer step is made of.

    Args:
        batch_size: clips per device in one forward pass.
        accumulate: forward passes whose gradients one optimizer step adds up.
        world_size: devices.
        statistics_batch: clips that share batch-norm statistics; None without any.
        num_frames: frames of a clip.
    """

    batch_size: int
    accumulate: int
    world_size: int
    statistics_batch: int | None
    num_frames: int

    @classmethod
    def of(
        cls, backbone: nn.Module, *, batch_size: int, accumulate: int, world_size: int, num_frames: int
    ) -> "BatchSizes":
        statistics_batch = clips_sharing_statistics(backbone, batch_size, world_size)
        return cls(batch_size, accumulate, world_size, statistics_batch, num_frames)

    @property
    def global_batch(self) -> int:
        """Clips per optimizer step."""
        return self.batch_size * self.accumulate * self.world_size

    @property
    def frames_per_step(self) -> int:
        """Frames per optimizer step."""
        return self.global_batch * self.num_frames

    def __str__(self) -> str:
        shared = (
            "no norm pools clips" if self.statistics_batch is None else f"norms pool {self.statistics_batch}"
        )
        return (
            f"{self.batch_size} clips a device x {self.accumulate} accumulated x {self.world_size} devices = "
            f"{self.global_batch} clips = {self.frames_per_step} frames a step; {shared}"
        )
