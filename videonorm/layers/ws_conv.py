"""Convolutions with weight standardization, and its two halves for ablation."""

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from videonorm.layers.reparametrized_conv import ReparametrizedConv3d
from videonorm.ops.weight_standardize import EpsPlacement, Formula, fan_in, weight_standardize

VariantName = Literal["bit", "orig", "bcn", "timm", "timm_bit", "nf", "nf_timm"]


class Variant(NamedTuple):
    """A formula by its numbers; with n the fan-in: eps * n**eps_power, multiplier * n**multiplier_power."""

    unbiased: bool
    eps: float
    eps_placement: EpsPlacement = "under_root"
    eps_power: float = 0.0
    multiplier: float = 1.0
    multiplier_power: float = 0.0
    has_gain: bool = False


RELU_GAIN = 1.7139588594436646  # 1 / std(relu(N(0, 1))) = sqrt(2 / (1 - 1 / pi))

VARIANTS: dict[str, Variant] = {
    "bit": Variant(unbiased=False, eps=1e-10),
    "orig": Variant(unbiased=True, eps=1e-5, eps_placement="on_std"),
    "bcn": Variant(unbiased=True, eps=1e-5),
    "timm": Variant(unbiased=False, eps=1e-6),
    "timm_bit": Variant(unbiased=False, eps=1e-8),
    # gain * rsqrt(max(n * var, eps)) = gain * n ** -0.5 * rsqrt(max(var, eps / n))
    "nf": Variant(False, 1e-4, "floor", eps_power=-1.0, multiplier_power=-0.5, has_gain=True),
    "nf_timm": Variant(False, 1e-6, multiplier=RELU_GAIN, multiplier_power=-0.5, has_gain=True),
}


class StandardizedConv3d(ReparametrizedConv3d):
    """The base of these convolutions. A subclass says by ``formula`` what becomes of its filters.

    Raises:
        ValueError: ``fan-in (1) must be at least 2 to standardize a filter``.
    """

    gain: nn.Parameter | None

    def __init__(self, *conv_args: Any, **conv_kwargs: Any) -> None:
        super().__init__(*conv_args, **conv_kwargs)
        if fan_in(self.weight) < 2:
            raise ValueError(f"fan-in ({fan_in(self.weight)}) must be at least 2 to standardize a filter")
        self.gain = None

    @property
    def fan_in(self) -> int:
        """Weights of a filter."""
        # Not of the weight: one that is parametrized is computed whenever it is asked for.
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    @property
    def formula(self) -> Formula:
        raise NotImplementedError

    def effective_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        return weight_standardize(self.weight, self.gain, self.formula, dtype)


class WSConv3d(StandardizedConv3d):
    """Conv3d whose filters are standardized before use: each output channel's filter is centred and scaled.

    With the mean and variance of the n = C_in / groups * k_T * k_H * k_W weights of an output channel:

    ========= =========================================== ==================================================
    variant   w_hat                                       source
    ========= =========================================== ==================================================
    bit       (w - mean) / sqrt(var + 1e-10)              code of Big Transfer, arXiv:1912.11370
    orig      (w - mean) / (std + 1e-5), unbiased         code of Weight Standardization, arXiv:1903.10520
    bcn       (w - mean) / sqrt(var + 1e-5), unbiased     code of Batch-Channel Normalization, same paper
    timm      (w - mean) / sqrt(var + 1e-6)               timm's StdConv2d
    timm_bit  (w - mean) / sqrt(var + 1e-8)               the same in timm's resnetv2_*_bit
    nf        gain (w - mean) / sqrt(max(n var, 1e-4))    code of NFNets, DeepMind
    nf_timm   gain 1.714 / sqrt(n) times timm's           timm's ScaledStdConv2d with ReLU
    ========= =========================================== ==================================================

    They are not interchangeable: at weight std 1e-3, 1e-5 under the root shrinks w_hat to 0.30 of what 1e-10
    gives, so a checkpoint must be run with its own variant. Use it only where a norm follows, as the scale of
    ``weight`` is lost.

    Args:
        variant: a row of the table. "nf" and "nf_timm" have a learnt ``gain`` (C_out,), initially 1.
        others: those of nn.Conv3d.

    Shape:
        (B, C_in, T, H, W) -> (B, C_out, T', H', W'). ``weight`` is stored as it is, not standardized.

    Raises:
        ValueError: ``fan-in (1) must be at least 2 to standardize a filter``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        *conv_args: Any,
        variant: VariantName = "bit",
        **conv_kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *conv_args, **conv_kwargs)
        if variant not in VARIANTS:
            raise ValueError(f"variant ({variant!r}) must be one of {get_args(VariantName)}")
        self.variant = variant
        if VARIANTS[variant].has_gain:
            self.gain = nn.Parameter(torch.ones(out_channels))
        _ = self.formula  # kept from now on: a compiled graph that came to keep it would be compiled twice

    @property
    def formula(self) -> Formula:
        made_of = self.variant, self.in_channels, self.groups, self.kernel_size
        if self._formula is None or self._formula[0] != made_of:
            v, n = VARIANTS[self.variant], self.fan_in
            eps, multiplier = v.eps * n**v.eps_power, v.multiplier * n**v.multiplier_power
            self._formula = (
                made_of,
                Formula(unbiased=v.unbiased, eps_placement=v.eps_placement, eps=eps, multiplier=multiplier),
            )
        return self._formula[1]

    _formula: tuple[object, Formula] | None = None  # and what it was made of: it is asked for at every step

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, variant={self.variant!r}"  # type: ignore[no-untyped-call]


class WSCenterOnlyConv3d(StandardizedConv3d):
    """Conv3d whose filters are centred, w - mean(w), and not scaled: one half of weight standardization.

    With `min_fan_in` 51 it is the convolution of MimicNorm (Fei et al., arXiv:2010.09278), whose code centres
    the stored weights after every step of SGD: the filters are the same.

    Args:
        min_fan_in: filters of fewer weights stay as they are.
        others: those of nn.Conv3d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        *conv_args: Any,
        min_fan_in: int = 0,
        **conv_kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *conv_args, **conv_kwargs)
        self.min_fan_in = min_fan_in

    @property
    def formula(self) -> Formula:
        return Formula(center=self.fan_in >= self.min_fan_in, scale=False)

    def extra_repr(self) -> str:
        options = f", min_fan_in={self.min_fan_in}" if self.min_fan_in else ""
        return f"{super().extra_repr()}{options}"  # type: ignore[no-untyped-call]


class WSScaleOnlyConv3d(StandardizedConv3d):
    """Conv3d whose filters are scaled, w / sqrt(var(w) + 1e-10), and not centred: the other half."""

    formula = Formula(center=False)
