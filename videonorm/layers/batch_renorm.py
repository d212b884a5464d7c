"""Batch renormalization."""

import torch
from torch import Tensor

from videonorm.layers.batch_norm import BatchNorm3d, batch_norm, statistics_dtype
from videonorm.layers.norm import Activation


class BatchRenorm3d(BatchNorm3d):
    """Batch renormalization (Ioffe, arXiv:1702.03275): batch norm that trains near what it is in evaluation.

        r = clip(std / running_std, 1 / r_max, r_max)
        d = clip((mean - running_mean) / running_std, -d_max, d_max)
        y = weight[c] * ((x - mean) / std * r + d) + bias[c]

    where mean, var and std = sqrt(var + eps) are the batch's, the running ones those from before it, and no
    gradient passes through r and d. Unclipped, y is x normalized by the running statistics. r_max goes from 1
    and d_max from 0, batch norm, to what is given here, in even steps from the first to the last of two
    batches, as counted by ``num_batches_tracked`` from 0; micro-batches that are accumulated count each.

    Evaluation, keys and tools are BatchNorm3d's, and the running variance is in the place of the paper's
    running standard deviation; the biased one of the batch enters it, as there. Of several processes each
    takes the statistics of its own batch; DDP gives the running ones of the first to all.

    At one clip (with ``min_clips: 1``) it is instance normalization at first, and from then on as near to the
    running statistics as r_max and d_max let it.

    Args:
        num_channels: C.
        r_max: at least 1.
        d_max: at least 0.
        r_max_steps, d_max_steps: (first, last) batch of the way there; (0, 0) is there from the beginning.
            The defaults are the paper's, for 130,000 steps or more: in a short training it would stay batch
            norm.
        momentum: the share of the newest batch in the running statistics, the paper's 0.01.
        others: as in BatchNorm3d.

    Raises:
        ValueError: r_max, d_max or steps out of range; in training with fewer than `min_clips` clips.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        r_max_steps: tuple[int, int] = (5_000, 40_000),
        d_max_steps: tuple[int, int] = (5_000, 25_000),
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        min_clips: int = 2,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, eps=eps, momentum=momentum, min_clips=min_clips, activation=activation)
        if r_max < 1:
            raise ValueError(f"r_max ({r_max}) must be at least 1")
        if d_max < 0:
            raise ValueError(f"d_max ({d_max}) must be at least 0")
        for name, (first, last) in (("r_max_steps", r_max_steps), ("d_max_steps", d_max_steps)):
            if not 0 <= first <= last:
                raise ValueError(f"{name} ({first}, {last}) must be two batches in order, from 0 on")
        self.r_max = r_max
        self.d_max = d_max
        self.r_max_steps = r_max_steps
        self.d_max_steps = d_max_steps

    def limits(self) -> tuple[Tensor, Tensor]:
        """r_max and d_max for the next batch: tensors, as a step must not wait for a device's counter."""
        r_max = 1 + (self.r_max - 1) * _share_of_the_way(self.num_batches_tracked, *self.r_max_steps)
        return r_max, self.d_max * _share_of_the_way(self.num_batches_tracked, *self.d_max_steps)

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        if self.running_mean is None or not x.shape[0]:
            return super()._normalize_by_batch(x)
        with torch.no_grad():
            wide = x.to(statistics_dtype(x))
            var, mean = torch.var_mean(wide, dim=[0, 2, 3, 4], correction=0)
            old_mean, old_var = self.running_mean.to(wide.dtype), self.running_var.to(wide.dtype)
            old_std = (old_var + self.eps).sqrt()
            r_max, d_max = (limit.to(wide.dtype) for limit in self.limits())
            r = ((var + self.eps).sqrt() / old_std).clamp(1 / r_max, r_max)
            d = ((mean - old_mean) / old_std).clamp(-d_max, d_max)
            share = self._count_batch()
            if share is not None:
                self.running_mean.copy_(torch.lerp(old_mean, mean, share))
                self.running_var.copy_(torch.lerp(old_var, var, share))
        return batch_norm(x, None, None, self.weight * r, self.weight * d + self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, "
            f"r_max_steps={self.r_max_steps}, d_max_steps={self.d_max_steps}"
        )


def _share_of_the_way(batch: Tensor, first: int, last: int) -> Tensor:
    """0 up to the first batch, 1 from the last one on."""
    if first == last:
        return (batch >= last).double()
    return ((batch - first).double() / (last - first)).clamp(0, 1)
