"""Batch normalization whose channels are pushed apart on purpose."""

import torch
from torch import Tensor

from videonorm.layers.batch_norm import BatchNorm3d, statistics_dtype
from videonorm.layers.norm import Activation


class ImposedBatchNorm3d(BatchNorm3d):
    """Batch norm whose channels are given means and scales, the same for all of training.

        y = weight[c] * (scale[c] * (x - mean[c]) / sqrt(var[c] + eps) + shift[c]) + bias[c]

    ``shift`` is drawn from N(0, spread_of_means^2), the logarithm of ``scale`` from N(0, spread_of_scales^2),
    and both are kept in checkpoints. Far from 0 and 1 they are what elimination singularities look like:
    channels that a ReLU passes never, or always. It is a network made worse on purpose, for the study of
    these, after an experiment of Qiao et al., arXiv:1903.10520, of which the spreads are known and not the
    formula. With spreads of 0 it is BatchNorm3d to the bit. As many numbers are drawn whatever the spreads,
    so that networks of one seed begin with the same weights.

    Args:
        num_channels: C.
        spread_of_means: standard deviation of ``shift``, in those of a normalized channel; 0 or more.
        spread_of_scales: standard deviation of log ``scale``; 0 or more.
        others: as in BatchNorm3d.

    Raises:
        ValueError: a spread is below 0; in training with fewer than `min_clips` clips.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        spread_of_means: float,
        spread_of_scales: float,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        min_clips: int = 2,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, eps=eps, momentum=momentum, min_clips=min_clips, activation=activation)
        for name, spread in (("spread_of_means", spread_of_means), ("spread_of_scales", spread_of_scales)):
            if not spread >= 0:
                raise ValueError(f"{name} ({spread}) must be at least 0")
        self.register_buffer("shift", torch.randn(num_channels) * spread_of_means)
        self.register_buffer("scale", torch.exp(torch.randn(num_channels) * spread_of_scales))

    def affine_map(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.to(statistics_dtype(self.weight))  # its products would be rounded in bf16
        return weight * self.scale, weight * self.shift + self.bias
