"""The statistics batch: how many clips share the statistics of a norm in training."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from videonorm.layers.accumulated_batch_norm import AccumulatedBatchNorm3d


def statistics_batch(layer: nn.Module, batch_size: int, world_size: int, accumulate: int) -> int | None:
    """Clips over which a layer pools its statistics in training; None where no clip sees another.

    Ours say it themselves, torch's are known.

    Args:
        batch_size: clips of a device in one forward pass.
        world_size: devices.
        accumulate: forward passes of an optimizer step, all of which an AccumulatedBatchNorm3d pools.

    Raises:
        ValueError: the layer cannot split them.
    """
    if isinstance(layer, AccumulatedBatchNorm3d):
        batch_size *= accumulate
    ours: Any = getattr(layer, "statistics_batch", None)
    if ours is not None:
        return int(ours(batch_size))
    if isinstance(layer, nn.SyncBatchNorm):
        return batch_size * world_size
    return batch_size if isinstance(layer, _BatchNorm) else None
