"""Batch-channel normalization."""

from typing import Literal

import torch
from torch import Tensor, nn

from videonorm.layers.batch_norm import BatchNorm3d, batch_norm, statistics_dtype
from videonorm.layers.group_norm import OnIndivisible, number_of_groups
from videonorm.layers.leaf import is_traced, leaf
from videonorm.layers.norm import Activation, Norm
from videonorm.ops.group_norm import group_norm


class EstimatedBatchNorm3d(BatchNorm3d):
    """Batch norm by running statistics, in training too, with no gradient through them: one clip will do.

    In training the batch enters the running statistics first, its variance about the mean from before it; or
    about its own where it is all that they are of (a share of 1).
    """

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        share = self._count_batch()
        mean, var = self.running_mean, self.running_var
        if share is not None and x.shape[0] > 0:
            with torch.no_grad():
                wide, sites = x.to(statistics_dtype(x)), [0, 2, 3, 4]
                old_mean, old_var, new_mean = mean.to(wide.dtype), var.to(wide.dtype), wide.mean(sites)
                about = new_mean if share == 1 else old_mean
                # New tensors: those that an earlier call left to its backward stay as they were.
                mean = torch.lerp(old_mean, new_mean, share)
                var = torch.lerp(old_var, (wide - about.view(-1, 1, 1, 1)).square().mean(sites), share)
                self.running_mean.copy_(mean)
                self.running_var.copy_(var)
        return batch_norm(x, mean, var, self.weight, self.bias, self.eps)


class BatchChannelNorm3d(Norm):
    """Batch-channel normalization (Qiao et al., arXiv:1903.10520): batch norm by channel, then group norm.

        z = batch_norm(x), affine by channel: ``batch_norm.weight`` and ``batch_norm.bias``, (C,)
        y = group_norm(z), affine by group:   ``weight`` and ``bias``, (G,)

    "batch", the large-batch form, takes BatchNorm3d for the first step. "estimated", the micro-batch form,
    normalizes by running statistics in training too, with no gradient through them: one clip will do.

    Args:
        num_channels: C.
        num_groups: G, a divisor of C.
        on_indivisible: as in GroupNorm3d.
        statistics: "batch" or "estimated".
        momentum: the share of the newest batch in the running statistics; None for the mean over all batches.
            In the micro-batch form it is the "moving speed" of the paper's code, which begins there at 0 and
            waits for the trainer to set it: at 0 the layer is a group norm for ever. To change it while
            training, set ``batch_norm.momentum``.
        eps: added to the variances.
        min_clips: as in BatchNorm3d; of no use in the micro-batch form.
        activation: "relu" or None.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        *,
        statistics: Literal["batch", "estimated"] = "batch",
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        min_clips: int = 2,
        on_indivisible: OnIndivisible = "error",
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        if statistics not in ("batch", "estimated"):
            raise ValueError(f"statistics ({statistics!r}) must be 'batch' or 'estimated'")
        self.batch_norm = (
            BatchNorm3d(num_channels, eps=eps, momentum=momentum, min_clips=min_clips)
            if statistics == "batch"
            else EstimatedBatchNorm3d(num_channels, eps=eps, momentum=momentum, min_clips=1)
        )
        self.num_groups = number_of_groups(num_channels, num_groups, None, on_indivisible)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.num_groups))
        self.bias = nn.Parameter(torch.zeros(self.num_groups))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x):
            return leaf(self, x, residual)
        z = self.batch_norm(x)
        channels_per_group = self.num_channels // self.num_groups
        weight = self.weight.repeat_interleave(channels_per_group)
        bias = self.bias.repeat_interleave(channels_per_group)
        relu = self.activation == "relu"
        return group_norm(z, weight, bias, self.num_groups, self.eps, residual, relu)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_groups={self.num_groups}, eps={self.eps}"
