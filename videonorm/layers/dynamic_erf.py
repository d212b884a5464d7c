"""Derf: the error function in the place of a norm."""

import torch
from torch import Tensor, nn

from videonorm.layers.dynamic_tanh import DynamicTanh3d
from videonorm.layers.norm import Activation


class DynamicErf3d(DynamicTanh3d):
    """Dynamic erf, Derf (Chen et al., "Stronger Normalization-Free Transformers", arXiv:2512.10938).

        y = weight[c] * erf(alpha * x + shift) + bias[c]

    Args:
        num_channels: C.
        shift: what the learnt scalar ``shift``, of shape (1,), starts at.
        others: as in DynamicTanh3d.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        alpha: float = 0.5,
        shift: float = 0.0,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, alpha=alpha, activation=activation)
        self.shift = nn.Parameter(torch.full((1,), shift))

    def squash(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha.to(x.dtype) * x + self.shift.to(x.dtype))
