"""Precise batch norm: the statistics of a population for evaluation, in place of a moving average.

Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3. A moving average is of
batches that earlier weights saw, with the newest weighed most. Here batches pass through fixed weights, in
training mode, and the statistics of a batch norm become the moments of all the values that it was given:

    running_mean = mean(x)        over all batches, clips, T, H and W
    running_var  = var(x)         unbiased, as in a moving average of torch's

so that a smaller batch weighs as much less. Moments are taken and merged in float64, about their means (Chan,
Golub & LeVeque, "Algorithms for computing the sample variance", 1983), over all processes too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from videonorm.layers.sub_batch_norm import SubBatchNorm3d


class Moments:
    """Of S parts of C channels: count (S, 1), mean and sum of squares about it (S, C), in float64."""

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros(1, 1, dtype=torch.float64)

    def add(self, x: Tensor, num_parts: int) -> None:
        """Enter a batch (B, C, ...), whose first B / S clips are the first part."""
        if not len(x):
            return
        wide = x.detach().double().reshape(num_parts, len(x) // num_parts, *x.shape[1:])
        var, mean = torch.var_mean(wide, dim=[1, *range(3, wide.dim())], correction=0)
        count = wide[0, :, 0].numel()
        self._merge(mean.new_full((num_parts, 1), count), mean, var * count)

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        if not self.count.any():
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def over_processes(self) -> None:
        """Make them those of all processes' batches, on every process."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        total = torch.cat([self.count, self.count * self.mean], dim=1)
        dist.all_reduce(total)
        count, mean = total[:, :1], total[:, 1:] / total[:, :1]
        squares = self.squares + self.count * (self.mean - mean).square()
        dist.all_reduce(squares)
        self.count, self.mean, self.squares = count, mean, squares

    @property
    def var(self) -> Tensor:
        """Unbiased."""
        return self.squares / (self.count - 1).clamp(min=1)


def estimated_batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """Those that keep running statistics in training, by name: ours, torch's, that in a BatchChannelNorm3d.

    No frozen one, and none whose ``track_running_stats`` is off, as tools that freeze leave it.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
    }


@contextmanager
def precise_statistics(network: nn.Module) -> Iterator[dict[str, _BatchNorm]]:
    """Have the batches that pass through `network` inside settle the statistics of its batch norms.

        with precise_statistics(network), torch.no_grad():
            for clips in batches:
                network(clips)

    Gives the batch norms by name: those of `estimated_batch_norms` that ``network.train()`` puts in training
    mode, in which all else is inside, too. Statistics are replaced at the end, on all processes by those of
    all their batches, which each must have as many of; after an exception they are as before. Momentum,
    num_batches_tracked, weights and the mode of each module are as before.

    A SubBatchNorm3d has the moments of each of its splits, and their union's for evaluation. The micro-batch
    form of BatchChannelNorm3d trains by running statistics, BatchRenorm3d by both: what comes behind them is
    given batches that are normalized by those from before.

    Raises:
        ValueError: the network has no such batch norm, or one was given no batch.
    """
    name = type(network).__name__
    modes = {module: module.training for module in network.modules()}
    network.train()
    norms = {of: norm for of, norm in estimated_batch_norms(network).items() if norm.training}
    moments = {of: Moments() for of in norms}
    hooks = [
        norm.register_forward_hook(_recorder(moments[of], getattr(norm, "num_splits", 1)), with_kwargs=True)
        for of, norm in norms.items()
    ]
    try:
        if not norms:
            raise ValueError(f"network ({name}) must have batch norms with running statistics")
        for norm in norms.values():
            norm.track_running_stats = False
        yield norms
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms.values():
            norm.track_running_stats = True
        for module, training in modes.items():
            module.training = training
    for of in norms:
        if not moments[of].count.any():
            raise ValueError(f"network ({name}) must give {of} a batch to estimate from")
    with torch.no_grad():
        for of, norm in norms.items():
            moments[of].over_processes()
            _settle(norm, moments[of])


def _recorder(moments: Moments, num_parts: int) -> Any:
    # Behind the norm, which has refused by then what it cannot split.
    def record(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> None:
        moments.add(args[0] if args else kwargs["input" if "input" in kwargs else "x"], num_parts)

    return record


def _settle(norm: _BatchNorm, moments: Moments) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    if isinstance(norm, SubBatchNorm3d):
        norm.split_mean.copy_(moments.mean)
        norm.split_var.copy_(moments.var)
        norm.pool_splits()
    else:
        norm.running_mean.copy_(moments.mean[0])
        norm.running_var.copy_(moments.var[0])
