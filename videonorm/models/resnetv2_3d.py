"""The 3D residual network of pre-activation blocks: the trunk of Big Transfer (BiT), inflated.

Shapes: clips (B, 3, T, H, W) with any T >= 1; kernels and strides (T, H, W).
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from videonorm import layers
from videonorm.layers import GroupNorm3d, MaxPool3d, Recompute, WSConv3d
from videonorm.models.conv_norm import (
    ConvFactory,
    NormFactory,
    Size,
    check_choice,
    finish,
    make_conv,
    make_norm,
    needs_bias,
)
from videonorm.models.resnet3d import KINDS, blocks_in_turn, make_stages

BottleneckDepth = Literal[50, 101, 152]
ImageKindName = Literal["c2d", "i3d", "slow"]


class PreActivationBottleneck(nn.Module):
    """x + conv3(norm3(conv2(norm2(conv1(norm1(x)))))), each norm with its ReLU; nothing follows the sum.

    Where the shape changes, the shortcut is a convolution of norm1(x). "Identity Mappings in Deep Residual
    Networks", arXiv:1603.05027, with the stride on the 3 x 3 convolution as in BiT, arXiv:1912.11370.
    """

    is_block: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernels: list[Size],
        stride: Size,
        *,
        norm: NormFactory,
        conv: ConvFactory,
    ) -> None:
        super().__init__()
        out_channels = 4 * channels
        first, second, third = kernels
        self.norm1 = make_norm(norm, in_channels, "relu")
        bias = needs_bias(self.norm1)
        self.conv1 = make_conv(conv, in_channels, channels, first, (1, 1, 1), bias)
        self.norm2 = make_norm(norm, channels, "relu")
        self.conv2 = make_conv(conv, channels, channels, second, stride, bias)
        self.norm3 = make_norm(norm, channels, "relu")
        self.conv3 = make_conv(conv, channels, out_channels, third, (1, 1, 1), bias)
        self.shortcut: nn.Conv3d | None = None
        if stride != (1, 1, 1) or in_channels != out_channels:
            self.shortcut = make_conv(conv, in_channels, out_channels, (1, 1, 1), stride, bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.conv2(self.norm2(self.conv1(y)))
        y = self.conv3(self.norm3(y))
        z: Tensor = x + y
        return z


class ResNetV2_3d(nn.Module):
    """BiT's pre-activation network, arXiv:1912.11370, for clips of any length.

    With `kind` "c2d" and T = 1 it is equal to timm's resnetv2_50x1_bit and its siblings: GroupNorm of 32
    groups and weight standardization everywhere, the stem among them; a stem pool padded with the constant 0,
    which is not the same as a padded max pool, since no ReLU comes before it; a norm before the head. Its
    blocks end in no norm, so that there is no gamma to start at zero.

    Args:
        depth: blocks of the four stages as in ResNet3d.
        kind: where the kernels reach over time, and whether T is halved after stage 1: as in ResNet3d.
        norm: makes a norm of `videonorm.layers` from a number of channels.
        conv: makes a convolution from (in_channels, out_channels, kernel_size) and Conv3d's keywords.
        width: channels after the stem; 64 times BiT's factor, 192 for R50x3.
        dropout: probability, before the classifier.
        recompute: keep fewer bytes for backward, at the price of making them again there: see
            `videonorm.layers.recompute`.

    Attributes:
        head: the classifier, an nn.Linear.

    Shape:
        clips (B, 3, T, H, W) -> logits (B, num_classes).

    Raises:
        ValueError: an unknown depth or kind; a norm that is not one of `videonorm.layers`, or one that cannot
            be recomputed.
    """

    def __init__(
        self,
        depth: BottleneckDepth = 50,
        kind: ImageKindName = "slow",
        num_classes: int = 400,
        norm: NormFactory = GroupNorm3d,
        conv: ConvFactory = WSConv3d,
        width: int = 64,
        dropout: float = 0.0,
        recompute: Recompute = "none",
    ) -> None:
        super().__init__()
        check_choice("depth", depth, get_args(BottleneckDepth))
        check_choice("kind", kind, get_args(ImageKindName))
        which = KINDS[kind]

        stem_bias = needs_bias(make_norm(norm, width))
        self.stem = make_conv(conv, 3, width, which.stem_kernel, (1, 2, 2), stem_bias)
        self.stem_pool = nn.Sequential(
            nn.ConstantPad3d((1, 1, 1, 1, 0, 0), 0.0), MaxPool3d((1, 3, 3), (1, 2, 2))
        )
        self.temporal_pool = which.make_temporal_pool()

        block = partial(PreActivationBottleneck, norm=norm, conv=conv)
        self.stages, channels = make_stages(which, depth, width, block)
        self.final_norm = make_norm(norm, channels, "relu")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

        self.recompute: Recompute = recompute
        finish(self, recompute)

    def forward(self, x: Tensor) -> Tensor:
        with layers.recompute(self.recompute):
            x = self._begin(x)
            first, *others = self.stages
            x = self.temporal_pool(first(x))
            for stage in others:
                x = stage(x)
            return self._end(x)

    def _begin(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem_pool(self.stem(x))
        return y

    def _end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.final_norm(x).mean(dim=(2, 3, 4))))
        return logits

    def chain(self) -> list[Callable[[Tensor], Tensor]]:
        """`forward` as functions to call in turn, a block each: see `videonorm.layers.accumulated_loss`."""
        return [self._begin, *blocks_in_turn(self.stages, self.temporal_pool), self._end]
