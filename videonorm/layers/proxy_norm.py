"""Group normalization with proxy-normalized activations."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.layers.batch_norm import statistics_dtype
from videonorm.layers.group_norm import GroupNorm3d, OnIndivisible
from videonorm.layers.leaf import is_traced, leaf
from videonorm.layers.norm import Activation
from videonorm.ops.group_norm import group_norm

NUM_SAMPLES = 200


class ProxyNorm3d(GroupNorm3d):
    """Group norm and Proxy Normalization (Labatie et al., arXiv:2106.03743), as in the code of its authors.

        z    = relu(group_norm(x)), with weight and bias
        p[c] = relu(weight[c] * ((1 + proxy_scale[c]) * s + proxy_mean[c]) + bias[c])
        y    = (z - mean(p[c])) / sqrt(var(p[c]) + proxy_eps)

    with s the 200 quantiles sqrt(2) * erfinv((2 i + 1) / 200 - 1) of a normal distribution, i = 0 to 199:
    what batch norm would take away of z is told by a proxy for the normalized x, and not by other clips. One
    clip will do, and training and evaluation are the same. ``proxy_mean`` and ``proxy_scale`` are learnt,
    from 0.

    It is the activation that is normalized, right behind the norm. So without an activation this is group
    norm, and there are no proxies; and so it is where a residual comes between norm and ReLU, of whose sum
    the proxy knows nothing: in the last norm of a block of ResNet3d, but nowhere in ResNetV2_3d.

    The authors give proxy_mean and proxy_scale a weight decay, and weight and bias none; here the parameters
    of a norm are treated alike.

    Args:
        num_channels: C.
        num_groups: G.
        proxy_eps: added to the proxy's variance.
        others: as in GroupNorm3d.

    Raises:
        ValueError: ``num_groups (32) must divide num_channels (48)``.
    """

    is_recomputable: ClassVar[bool] = False
    activation_parameters: ClassVar[Mapping[str, float]] = {"proxy_mean": 0.0, "proxy_scale": 0.0}
    proxy_mean: Tensor
    proxy_scale: Tensor
    quantiles: Tensor

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        *,
        channels_per_group: int | None = None,
        eps: float = 1e-5,
        proxy_eps: float = 0.03,
        on_indivisible: OnIndivisible = "error",
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            num_channels,
            num_groups,
            channels_per_group=channels_per_group,
            eps=eps,
            on_indivisible=on_indivisible,
            activation=activation,
        )
        self.proxy_eps = proxy_eps
        # Kept, for an exported program has no erfinv; not in checkpoints, as it is always the same.
        i = torch.arange(NUM_SAMPLES, dtype=torch.float64)
        quantiles = math.sqrt(2) * torch.erfinv((2 * i + 1) / NUM_SAMPLES - 1)
        self.register_buffer("quantiles", quantiles.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x):
            return leaf(self, x, residual)
        if self.activation is None:
            return super().forward(x, residual)
        if residual is not None:
            # Zeros for gradients: parameters that have none, DDP takes for a mistake.
            bias = self.bias + 0 * (self.proxy_mean + self.proxy_scale)
            return group_norm(x, self.weight, bias, self.num_groups, self.eps, residual, relu=True)
        z = group_norm(x, self.weight, self.bias, self.num_groups, self.eps, relu=True)
        mean, var = self._proxy_moments(statistics_dtype(x))
        return ((z - mean) * torch.rsqrt(var + self.proxy_eps)).type_as(z)

    def _proxy_moments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of the proxy's activations, (C, 1, 1, 1)."""
        weight, bias, proxy_mean, proxy_scale = (
            parameter.to(dtype).view(-1, 1, 1, 1, 1)
            for parameter in (self.weight, self.bias, self.proxy_mean, self.proxy_scale)
        )
        samples = (1 + proxy_scale) * self.quantiles.to(dtype) + proxy_mean
        proxy = F.relu(weight * samples + bias)
        var, mean = torch.var_mean(proxy, dim=-1, correction=0)
        return mean, var

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, proxy_eps={self.proxy_eps}"
