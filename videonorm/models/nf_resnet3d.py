"""The 3D residual network without norms whose signal is scaled in their place: NF-ResNet.

Shapes: clips (B, 3, T, H, W) with any T >= 1; kernels and strides (T, H, W).
"""

from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers import WSConv3d
from videonorm.layers.ws_conv import RELU_GAIN
from videonorm.models.conv_norm import ConvFactory, Size, check_choice, finish, make_conv
from videonorm.models.resnet3d import KINDS, Depth, make_stages, strides_within

UnfactorizedKindName = Literal["r3d", "mc3", "c2d", "i3d", "slow", "r3d_pooled", "i3d_strided"]
ScaledVariant = Literal["nf", "nf_timm"]


class ScaledReLU(nn.Module):
    """gain * relu(x): with the gain of ReLU, 1.714, the variance of x ~ N(0, 1) stays 1."""

    def __init__(self, gain: float = RELU_GAIN) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.gain == 1 else F.relu(x) * self.gain

    def extra_repr(self) -> str:
        return f"gain={self.gain:.6g}"


class NormFreeBlock(nn.Module):
    """x + alpha * skip_gain * f(beta * act(x)), where f is convolutions with act between them.

    Where the shape changes, the shortcut is a 1 x 1 x 1 convolution of beta * act(x), behind an average pool
    where there is a stride.

    Attributes:
        beta: 1 / the standard deviation expected of x.
        skip_gain: a learnt number, which begins at 0 (SkipInit, arXiv:2002.10444) or at 1.
    """

    is_block: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernels: list[Size],
        stride: Size,
        *,
        alpha: float,
        conv: ConvFactory,
        activation: ScaledReLU,
        zero_init: bool,
    ) -> None:
        super().__init__()
        out_channels = 4 * channels if len(kernels) == 3 else channels
        widths = [in_channels, *[channels] * (len(kernels) - 1), out_channels]
        self.convs = nn.ModuleList(
            make_conv(conv, *channels_of, kernel, own_stride, bias=True)
            for channels_of, kernel, own_stride in zip(
                pairwise(widths), kernels, strides_within(kernels, stride), strict=True
            )
        )
        self.shortcut: nn.Module | None = None
        if stride != (1, 1, 1) or in_channels != out_channels:
            matched = make_conv(conv, in_channels, out_channels, (1, 1, 1), (1, 1, 1), bias=True)
            self.shortcut = matched if stride == (1, 1, 1) else nn.Sequential(*_average_pool(stride), matched)
        self.activation = activation
        self.alpha = alpha
        self.beta = 1.0
        self.skip_gain = nn.Parameter(torch.tensor(0.0 if zero_init else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(x) * self.beta
        if self.shortcut is not None:
            x = self.shortcut(y)
        first, *others = self.convs
        y = first(y)
        for conv in others:
            y = conv(self.activation(y))
        z: Tensor = x + y * (self.alpha * self.skip_gain)
        return z

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta:.6g}"


def _average_pool(stride: Size) -> tuple[nn.Module, nn.Module]:
    """Of windows of `stride`; those beyond the end, of a lone frame too, have the mean of what is there.

    So has AvgPool3d with ceil_mode, but for inputs smaller than a window, which it refuses.
    """
    beyond = [end for size in reversed(stride) for end in (0, size - 1)]
    return nn.ReplicationPad3d(tuple(beyond)), nn.AvgPool3d(stride, stride)  # type: ignore[arg-type]


class NFResNet3d(nn.Module):
    """NF-ResNet, for clips of any length: no norms, but an account of the variance of pre-activation blocks.

    Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
    arXiv:2101.08692. A branch is given x over the standard deviation that x is expected to have, and adds the
    variance alpha^2; the first block of a stage makes it 1 again, by its shortcut. All convolutions are
    weight-standardized and scaled by 1 / sqrt(fan-in) and a learnt gain, with biases. With `variant`
    "nf_timm", `kind` "c2d" and T = 1 it is equal to timm's NormFreeNet with SkipInit and `std_conv_eps` 1e-6.

    Its authors train it with adaptive gradient clipping (`videonorm.training.AdaptiveGradientClipping`,
    arXiv:2102.06171) once batches are large.

    Args:
        depth: blocks of the four stages as in ResNet3d.
        kind: where kernels reach over time, and what halves T: as in ResNet3d. Those that factorize
            convolutions have no such form.
        width: channels after the stem.
        dropout: probability, before the classifier.
        alpha: the share of each branch.
        zero_init_residual: every block starts as its shortcut, because its `skip_gain` starts at 0.
        variant: of WSConv3d: "nf", after which the activations have the gain of ReLU, or "nf_timm", whose
            convolutions have it.

    Attributes:
        kind: its name.
        head: the classifier, an nn.Linear.

    Shape:
        clips (B, 3, T, H, W) -> logits (B, num_classes).

    Raises:
        ValueError: an unknown depth, kind or variant.
    """

    def __init__(
        self,
        depth: Depth = 50,
        kind: UnfactorizedKindName = "slow",
        num_classes: int = 400,
        width: int = 64,
        dropout: float = 0.0,
        alpha: float = 0.2,
        zero_init_residual: bool = True,
        variant: ScaledVariant = "nf",
    ) -> None:
        super().__init__()
        check_choice("depth", depth, get_args(Depth))
        check_choice("kind", kind, get_args(UnfactorizedKindName))
        check_choice("variant", variant, get_args(ScaledVariant))
        self.kind = kind
        which = KINDS[kind]
        activation = ScaledReLU(RELU_GAIN if variant == "nf" else 1.0)

        conv = partial(WSConv3d, variant=variant)
        self.stem = make_conv(conv, 3, width, which.stem_kernel, which.stem_stride, bias=True)
        self.stem_pool = which.make_stem_pool()
        self.temporal_pool = which.make_temporal_pool()
        block = partial(
            NormFreeBlock, alpha=alpha, conv=conv, activation=activation, zero_init=zero_init_residual
        )
        self.stages, channels = make_stages(which, depth, width, block)
        variance = 1.0
        for stage in self.stages:
            for index, each in enumerate(stage.children()):
                each.beta = variance**-0.5
                variance = (1.0 if index == 0 else variance) + alpha**2
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        finish(self, recompute="none")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_pool(self.stem(x))
        first, *others = self.stages
        x = self.temporal_pool(first(x))
        for stage in others:
            x = stage(x)
        logits: Tensor = self.head(self.dropout(self.activation(x).mean(dim=(2, 3, 4))))
        return logits
