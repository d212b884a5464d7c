"""EvoNorm-S0: a norm and an activation in one."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from videonorm.layers.batch_norm import statistics_dtype
from videonorm.layers.group_norm import OnIndivisible, number_of_groups
from videonorm.layers.norm import Activation, AffineNorm


class EvoNormS0(AffineNorm):
    """EvoNorm-S0 (Liu et al., "Evolving Normalization-Activation Layers", arXiv:2004.02967).

        y = weight[c] * x * sigmoid(v[c] * x) / sqrt(var + eps) + bias[c]

    The biased var is taken over the C / G channels of a group and all of T, H, W, in fp32 whatever the dtype
    of x. One clip will do, and training and evaluation are the same.

    The activation of this layer is its own: where "relu" is asked for there is x * sigmoid(v * x) in its
    place, before the residual, and none behind it. Without an activation nothing is normalized, as in the
    paper's code: y = weight[c] * x + bias[c], and there is no ``v``. ``v`` starts at 1.

    Args:
        num_channels: C.
        num_groups: G.
        eps: added to the variance.
        on_indivisible: as in GroupNorm3d.
        activation: "relu", for the layer's own, or None.

    Raises:
        ValueError: ``num_groups (32) must divide num_channels (48)``.
    """

    activation_parameters: ClassVar[Mapping[str, float]] = {"v": 1.0}
    v: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        *,
        eps: float = 1e-5,
        on_indivisible: OnIndivisible = "error",
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.num_groups = number_of_groups(num_channels, num_groups, None, on_indivisible)
        self.eps = eps

    def normalize(self, x: Tensor) -> Tensor:
        wide = x.to(statistics_dtype(x))
        if self.v is None:
            return self.scale_and_shift(wide).type_as(x)
        per_group = self.num_channels // self.num_groups
        groups = wide.reshape(wide.shape[0], self.num_groups, per_group, *wide.shape[2:])
        var = groups.var((2, 3, 4, 5), correction=0)
        rstd = torch.rsqrt(var + self.eps).repeat_interleave(per_group, 1)
        active = wide * torch.sigmoid(self.v.to(wide.dtype).view(-1, 1, 1, 1) * wide)
        return self.scale_and_shift(active, rstd[..., None, None, None]).type_as(x)

    def activate(self, y: Tensor) -> Tensor:
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_groups={self.num_groups}, eps={self.eps}"
