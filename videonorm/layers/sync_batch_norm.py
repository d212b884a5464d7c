"""Batch normalization over the batches of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as CudaSyncBatchNorm

from videonorm.layers.batch_norm import BatchNorm3d, statistics_dtype
from videonorm.layers.norm import Activation


class SyncBatchNorm3d(BatchNorm3d):
    """Batch normalization over the clips of all processes; BatchNorm3d in evaluation or with one process.

    On CUDA it is torch's own synchronized batch norm. That one takes no CPU tensors: their statistics are
    summed by a differentiable all_reduce (gloo).

    Args:
        num_channels: C.
        min_clips: the fewest clips over all processes.
        process_group: the processes that share statistics; all of them if None.
        others: as in BatchNorm3d.
    """

    _statistics_batch_name = "batch_size * processes"

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        min_clips: int = 2,
        activation: Activation | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_channels, eps=eps, momentum=momentum, min_clips=min_clips, activation=activation)
        self.process_group = process_group

    def statistics_batch(self, batch_size: int) -> int:
        return batch_size * self._num_processes()

    def _num_processes(self) -> int:
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(self.process_group)

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        if self._num_processes() == 1:
            return super()._normalize_by_batch(x)
        return self._normalize_on_cuda(x) if x.is_cuda else self._normalize_by_all_reduce(x)

    def _normalize_on_cuda(self, x: Tensor) -> Tensor:
        dtype, share = statistics_dtype(x), self._count_batch()
        mean, var = (
            None if share is None else running.to(dtype) for running in (self.running_mean, self.running_var)
        )
        y: Tensor = CudaSyncBatchNorm.apply(
            x,
            self.weight.to(dtype),
            self.bias.to(dtype),
            mean,
            var,
            self.eps,
            share or 0.0,
            self.process_group or dist.group.WORLD,
            self._num_processes(),
        )
        if mean is not None and var is not None:
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)
        return y

    def _normalize_by_all_reduce(self, x: Tensor) -> Tensor:
        wide = x.double()  # torch's batch norm for CPU sums in fp64 too
        sites, per_channel = [0, 2, 3, 4], (-1, 1, 1, 1)
        count = wide.new_tensor([x.numel() / x.shape[1]])
        # Two reductions, so that the variance is a sum of squares about the common mean.
        total = self._sum(torch.cat([wide.sum(sites), count]))
        if total[-1] == 0:
            return super()._normalize_by_batch(x)
        mean, n = total[:-1] / total[-1], total[-1]
        centered = wide - mean.view(per_channel)
        var = self._sum(centered.square().sum(sites)) / n
        share = self._count_batch()
        if share is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), share)
        scale = self.weight * torch.rsqrt(var + self.eps)
        y: Tensor = centered * scale.view(per_channel) + self.bias.view(per_channel)
        return y.to(x.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = _SumOverProcesses.apply(values, self.process_group)
        return total


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce, whose derivative is all_reduce: every process's loss depends on every process's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
        ctx.process_group = process_group
        total = values.clone()
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None]:
        grad_values = grad_total.clone()
        dist.all_reduce(grad_values, group=ctx.process_group)
        return grad_values, None


def convert_sync_batch_norm(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replace every BatchNorm3d of ours in `model` by a SyncBatchNorm3d with the same parameters and buffers.

    Works in place and returns the model, or its replacement where the model itself is a BatchNorm3d.
    Subclasses of BatchNorm3d and torch's own batch norms stay.
    """
    if type(model) is BatchNorm3d:
        sync = SyncBatchNorm3d(
            model.num_channels,
            eps=model.eps,
            momentum=model.momentum,
            min_clips=model.min_clips,
            activation=model.activation,
            process_group=process_group,
        )
        sync.weight, sync.bias = model.weight, model.bias
        sync.track_running_stats = model.track_running_stats
        for name, buffer in model._buffers.items():
            sync.register_buffer(name, buffer)
        return sync.train(model.training)
    for name, child in model.named_children():
        model.add_module(name, convert_sync_batch_norm(child, process_group))
    return model
