"""Dynamic Tanh: a squashing function in the place of a norm."""

import torch
from torch import Tensor, nn

from videonorm.layers.batch_norm import statistics_dtype
from videonorm.layers.norm import Activation, AffineNorm


class DynamicTanh3d(AffineNorm):
    """Dynamic Tanh (Zhu et al., "Transformers without Normalization", arXiv:2503.10622): no statistics.

        y = weight[c] * tanh(alpha * x) + bias[c]

    Every value by itself, in fp32 whatever the dtype of x: one clip or many, training or evaluation are the
    same to it.

    Args:
        num_channels: C.
        alpha: what the learnt scalar ``alpha``, of shape (1,), starts at.
        activation: "relu" or None.
    """

    def __init__(
        self, num_channels: int, *, alpha: float = 0.5, activation: Activation | None = None
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.alpha = nn.Parameter(torch.full((1,), alpha))

    def normalize(self, x: Tensor) -> Tensor:
        return self.scale_and_shift(self.squash(x.to(statistics_dtype(x)))).type_as(x)

    def squash(self, x: Tensor) -> Tensor:
        """The values between -1 and 1 that are mapped by weight and bias."""
        return torch.tanh(self.alpha.to(x.dtype) * x)
