"""Batch normalization by parts of the batch."""

import torch
from torch import Tensor

from videonorm.layers.batch_norm import BatchNorm3d, batch_norm
from videonorm.layers.norm import Activation


class SubBatchNorm3d(BatchNorm3d):
    """Batch normalization over each of `num_splits` equal parts of the batch (sub- or ghost batch norm).

    Source: Wu et al., "A Multigrid Method for Efficiently Training Video Models", arXiv:1912.00998. Each
    split has running statistics, ``split_mean`` and ``split_var`` (S, C). Evaluation uses their union's:

        running_mean = mean(split_mean)
        running_var = mean(split_var) + mean((split_mean - running_mean) ** 2)

    Args:
        num_channels: C.
        num_splits: S, a divisor of the batch size; clips 0 to B / S - 1 are the first split.
        min_clips: the fewest clips in a split.
        others: as in BatchNorm3d.

    Raises:
        ValueError: ``num_splits (3) must divide batch_size (8)`` in training; too few clips in a split.
    """

    split_mean: Tensor
    split_var: Tensor
    _statistics_batch_name = "batch_size / num_splits"

    def __init__(
        self,
        num_channels: int,
        num_splits: int = 2,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        min_clips: int = 2,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, eps=eps, momentum=momentum, min_clips=min_clips, activation=activation)
        if num_splits < 1:
            raise ValueError(f"num_splits ({num_splits}) must be at least 1")
        self.num_splits = num_splits
        self.register_buffer("split_mean", torch.zeros(num_splits, num_channels))
        self.register_buffer("split_var", torch.ones(num_splits, num_channels))

    def reset_running_stats(self) -> None:
        super().reset_running_stats()
        if self.track_running_stats:
            self.split_mean.zero_()
            self.split_var.fill_(1)

    def statistics_batch(self, batch_size: int) -> int:
        if batch_size % self.num_splits:
            raise ValueError(f"num_splits ({self.num_splits}) must divide batch_size ({batch_size})")
        return batch_size // self.num_splits

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        share = self._count_batch()
        untracked = [None] * self.num_splits
        means, variances = (untracked, untracked) if share is None else (self.split_mean, self.split_var)
        splits = zip(x.chunk(self.num_splits), means, variances, strict=True)
        y = torch.cat([batch_norm(*split, self.weight, self.bias, self.eps, share) for split in splits])
        if share is not None:
            self.pool_splits()
        return y

    def pool_splits(self) -> None:
        """Make the statistics of evaluation the union's of the splits'."""
        mean = self.split_mean.mean(0)
        self.running_mean.copy_(mean)
        self.running_var.copy_(self.split_var.mean(0) + (self.split_mean - mean).square().mean(0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_splits={self.num_splits}"
