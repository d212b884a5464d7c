"""Filter response normalization with its thresholded linear unit."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from videonorm.layers.batch_norm import statistics_dtype
from videonorm.layers.norm import Activation, AffineNorm


class FilterResponseNorm3d(AffineNorm):
    """Filter response normalization and TLU (Singh & Krishnan, arXiv:1911.09737): of one clip and channel.

        y = weight[c] * x / sqrt(mean(x ** 2) + eps) + bias[c],    and with an activation    max(y, tau[c])

    The mean is taken over all of T, H, W, in fp32 whatever the dtype of x; nothing is centred. One clip will
    do, and training and evaluation are the same.

    The activation of this layer is its own: where "relu" is asked for there is the thresholded linear unit in
    its place, with a learnt ``tau`` that starts at 0, at the ReLU. As the ReLU does, it comes behind the
    residual, so that a block of zero gamma starts as its shortcut, rectified. Without an activation there is
    no tau.

    Args:
        num_channels: C.
        eps: added to the mean square. It is not learnt, as the paper has it for maps of a single pixel.
        activation: "relu", for the thresholded linear unit, or None.
    """

    activation_parameters: ClassVar[Mapping[str, float]] = {"tau": 0.0}
    tau: nn.Parameter | None

    def __init__(self, num_channels: int, *, eps: float = 1e-5, activation: Activation | None = None) -> None:
        super().__init__(num_channels, activation=activation)
        self.eps = eps

    def normalize(self, x: Tensor) -> Tensor:
        wide = x.to(statistics_dtype(x))
        rstd = torch.rsqrt(wide.square().mean((2, 3, 4), keepdim=True) + self.eps)
        return self.scale_and_shift(wide, rstd).type_as(x)

    def activate(self, y: Tensor) -> Tensor:
        return y if self.tau is None else torch.maximum(y, self.tau.type_as(y).view(-1, 1, 1, 1))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}"
