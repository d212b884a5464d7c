"""Dynamic Tanh: a squashing function in the place of a norm."""

import torch
from torch import Tensor, nn

from videonorm.layers.batch_norm import statistics_dtype
from videonorm.layers.norm import Activation, Norm


class DynamicTanh3d(Norm):
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
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def normalize(self, x: Tensor) -> Tensor:
        dtype = statistics_dtype(x)
        weight, bias = (parameter.to(dtype).view(-1, 1, 1, 1) for parameter in (self.weight, self.bias))
        return (weight * self.squash(x.to(dtype)) + bias).type_as(x)

    def squash(self, x: Tensor) -> Tensor:
        """The values between -1 and 1 that are mapped by weight and bias."""
        return torch.tanh(self.alpha.to(x.dtype) * x)
