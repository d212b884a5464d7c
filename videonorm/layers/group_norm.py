"""Group normalization and its two ends, layer normalization (G = 1) and instance normalization (G = C)."""

from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from videonorm.layers.leaf import is_traced, leaf
from videonorm.layers.norm import Activation, AffineNorm
from videonorm.layers.parameter import parameter
from videonorm.layers.recomputation import active_recomputation
from videonorm.layers.recomputed_group_norm import recomputed_group_norm
from videonorm.ops.group_norm import group_norm

OnIndivisible = Literal["error", "divisor"]


class GroupNorm3d(AffineNorm):
    """Group normalization (Wu & He, arXiv:1803.08494): statistics of each clip and group, none of the batch.

        y = weight[c] * (x - mean) / sqrt(var + eps) + bias[c]

    mean and the biased var are taken over the C / G channels of a group and all of T, H, W, in fp32 whatever
    the dtype of x. The residual and the activation are part of the same operator.

    Args:
        num_channels: C.
        num_groups: G. G = C is instance normalization.
        channels_per_group: C / G, in place of num_groups.
        eps: added to the variance.
        on_indivisible: what happens where G does not divide C into groups: "error"; or "divisor", which takes
            the largest divisor of C that is at most G and leaves at least 2 channels a group (one alone is
            instance normalization, which G = 32 would silently be at C = 32). The layer's representation
            has the groups that it has.
        activation: "relu" or None.

    Raises:
        ValueError: ``num_groups (32) must divide num_channels (48)``.
    """

    is_recomputable: ClassVar[bool] = True
    """Whether `recompute` can make the output again."""

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        *,
        channels_per_group: int | None = None,
        eps: float = 1e-5,
        on_indivisible: OnIndivisible = "error",
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.num_groups = number_of_groups(num_channels, num_groups, channels_per_group, on_indivisible)
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x):
            return leaf(self, x, residual)
        recomputation = active_recomputation()
        normalize = group_norm if recomputation is None else partial(recomputed_group_norm, recomputation)
        weight, bias, relu = parameter(self, "weight"), parameter(self, "bias"), self._activation == "relu"
        return normalize(x, weight, bias, self.num_groups, self.eps, residual, relu)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_groups={self.num_groups}, eps={self.eps}"


class LayerNorm3d(GroupNorm3d):
    """Layer normalization over (C, T, H, W) of each clip, affine by channel: GroupNorm3d with G = 1."""

    def __init__(self, num_channels: int, *, eps: float = 1e-5, activation: Activation | None = None) -> None:
        super().__init__(num_channels, 1, eps=eps, activation=activation)


class InstanceNorm3d(GroupNorm3d):
    """Instance normalization over (T, H, W) of each clip and channel: GroupNorm3d with G = C."""

    def __init__(self, num_channels: int, *, eps: float = 1e-5, activation: Activation | None = None) -> None:
        super().__init__(num_channels, num_channels, eps=eps, activation=activation)


def number_of_groups(
    num_channels: int, num_groups: int, channels_per_group: int | None, on_indivisible: OnIndivisible
) -> int:
    """G as GroupNorm3d's arguments say it, which has the errors of them."""
    name, value = "num_groups", num_groups
    if channels_per_group is not None:
        name, value = "channels_per_group", channels_per_group
    if value < 1:
        raise ValueError(f"{name} ({value}) must be at least 1")
    if on_indivisible not in ("error", "divisor"):
        raise ValueError(f"on_indivisible ({on_indivisible!r}) must be 'error' or 'divisor'")
    if channels_per_group is not None:
        num_groups = -(-num_channels // channels_per_group)
    if on_indivisible == "divisor":
        return _largest_divisor(num_channels, num_groups)
    if num_channels % value:
        raise ValueError(f"{name} ({value}) must divide num_channels ({num_channels})")
    return num_groups


def _largest_divisor(num_channels: int, num_groups: int) -> int:
    """The largest divisor of C that is at most G and leaves at least 2 channels a group, or else 1."""
    largest = max(1, min(num_groups, num_channels // 2))
    return next(divisor for divisor in range(largest, 0, -1) if num_channels % divisor == 0)
