"""No normalization: the place of a norm, with its residual and its activation."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from videonorm.layers.norm import Norm


class NoNorm(Norm):
    """Only adds the residual and applies the activation: the convolution before it needs a bias."""

    needs_conv_bias: ClassVar[bool] = True

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = x if residual is None else (x + residual).type_as(x)
        return F.relu(y) if self.activation == "relu" else y
