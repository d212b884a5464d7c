"""3D residual networks, nine kinds of them, with norm and convolution as parts.

Shapes: clips (B, 3, T, H, W) with any T >= 1; kernels and strides (T, H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from videonorm import layers
from videonorm.layers import BatchNorm3d, MaxPool3d, NoNorm, Recompute
from videonorm.models.conv_norm import (
    ConvFactory,
    ConvNorm,
    NormFactory,
    Size,
    check_choice,
    finish,
    make_norm,
)

Depth = Literal[10, 18, 34, 50, 101, 152]
KindName = Literal[
    "r3d", "r2plus1d", "mc3", "c2d", "i3d", "slow", "r3d_pooled", "r2plus1d_pooled", "i3d_strided"
]
NormPlacement = Literal["all", "last_only", "logits"]

NUM_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
FIRST_BOTTLENECK_DEPTH = 50


@dataclass(frozen=True)
class Pool:
    """A max pool that is padded as its kernel overlaps."""

    kernel: Size
    stride: Size

    def make(self) -> MaxPool3d:
        return MaxPool3d(self.kernel, self.stride, tuple(size // 2 for size in self.kernel))


@dataclass(frozen=True)
class Kind:
    """What tells one kind of 3D residual network from another.

    Attributes:
        stem_kernel, stem_stride: of the first convolution.
        temporal_kernels: kT for each of the four stages, repeated over the stage's blocks.
        temporal_place: which convolutions of a block get it: the 3 x 3 ones, or the block's first whatever
            its size.
        temporal_stride: of the first block of stages 2 to 4; the spatial stride there is 2.
        factorized: convolutions over time and space are split in two, R(2+1)D: with as many channels between
            them, for all of a "block", as its first 3 x 3 convolution asks for, or each "convolution" as
            it asks for itself, the stem and the 1 x 1 of the shortcuts, which are split too, among them.
        stem_pool: follows the stem.
        temporal_pool: a 2 x 1 x 1 max pool follows stage 1.
    """

    stem_kernel: Size
    temporal_kernels: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    temporal_place: Literal["spatial", "first"]
    temporal_stride: int = 1
    factorized: Literal["block", "convolution"] | None = None
    stem_stride: Size = (1, 2, 2)
    stem_pool: Pool | None = None
    temporal_pool: bool = False

    def block_kernels(self, bottleneck: bool, stage: int, block: int) -> list[Size]:
        """The kernels of one block, such as 3x1x1, 1x3x3, 1x1x1."""
        choices = self.temporal_kernels[stage]
        time = choices[block % len(choices)]
        spaces = [1, 3, 1] if bottleneck else [3, 3]
        if self.temporal_place == "spatial":
            return [(time if space == 3 else 1, space, space) for space in spaces]
        return [(time if index == 0 else 1, space, space) for index, space in enumerate(spaces)]

    def make_stem_pool(self) -> nn.Module:
        return self.stem_pool.make() if self.stem_pool else nn.Identity()

    def make_temporal_pool(self) -> nn.Module:
        # ceil_mode keeps a lone frame, and the last one of an odd number.
        return MaxPool3d((2, 1, 1), ceil_mode=True) if self.temporal_pool else nn.Identity()


POOL_IN_SPACE = Pool((1, 3, 3), (1, 2, 2))
I3D_KERNELS = ((3,), (3, 1), (3, 1), (1, 3))
KINDS: dict[str, Kind] = {
    "r3d": Kind((3, 7, 7), ((3,), (3,), (3,), (3,)), "spatial", temporal_stride=2),
    "r2plus1d": Kind((3, 7, 7), ((3,), (3,), (3,), (3,)), "spatial", temporal_stride=2, factorized="block"),
    "mc3": Kind((3, 7, 7), ((3,), (1,), (1,), (1,)), "spatial"),
    "c2d": Kind((1, 7, 7), ((1,), (1,), (1,), (1,)), "first", stem_pool=POOL_IN_SPACE, temporal_pool=True),
    "i3d": Kind((5, 7, 7), I3D_KERNELS, "first", stem_pool=POOL_IN_SPACE, temporal_pool=True),
    "slow": Kind((1, 7, 7), ((1,), (1,), (3,), (3,)), "first", stem_pool=POOL_IN_SPACE),
    "r3d_pooled": Kind(
        (7, 7, 7),
        ((3,), (3,), (3,), (3,)),
        "spatial",
        temporal_stride=2,
        stem_pool=Pool((3, 3, 3), (2, 2, 2)),
    ),
    "r2plus1d_pooled": Kind(
        (3, 7, 7),
        ((3,), (3,), (3,), (3,)),
        "spatial",
        temporal_stride=2,
        factorized="convolution",
        stem_pool=POOL_IN_SPACE,
    ),
    "i3d_strided": Kind(
        (5, 7, 7),
        I3D_KERNELS,
        "first",
        stem_stride=(2, 2, 2),
        stem_pool=Pool((1, 3, 3), (2, 2, 2)),
        temporal_pool=True,
    ),
}


class ResidualBlock(nn.Module):
    """x + branch(x), then ReLU. Sum and ReLU belong to the branch's last norm, so that they can be fused."""

    is_block: ClassVar[bool] = True

    def __init__(self, branch: list[ConvNorm], shortcut: ConvNorm | None) -> None:
        super().__init__()
        self.branch = nn.ModuleList(branch)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.shortcut is None else self.shortcut(x)
        *inner, last = self.branch
        for layer in inner:
            x = layer(x)
        y: Tensor = last(x, residual)
        return y


class ResNet3d(nn.Module):
    """A 3D residual network for clips of any length.

    Depths 10, 18 and 34 have basic blocks, 50, 101 and 152 bottlenecks (four times as many channels out as
    within). All depths go with all kinds:

    - `r3d`, `r2plus1d`, `mc3`: "A Closer Look at Spatiotemporal Convolutions", arXiv:1711.11248, as in
      torchvision's `VideoResNet`, with whose r3d_18, r2plus1d_18 and mc3_18 these are equal. `r3d` and
      `r2plus1d` halve T in stages 2, 3 and 4. The deeper ones are `VideoResNet` with its `Bottleneck`. Depth
      10 has one block a stage, as in 3D-ResNets-PyTorch.
    - `c2d`, `i3d`, `slow`: Non-local networks, arXiv:1711.07971, table 1, and the slow pathway of SlowFast,
      arXiv:1812.03982, as in PyTorchVideo, with whose c2d_r50, i3d_r50 and slow_r50 these are equal for even
      T. `c2d` and `i3d` halve T after stage 1; an odd T keeps its last frame there, which PyTorchVideo drops.
      The basic blocks are PySlowFast's `BasicTransform`: kT x 3 x 3, then 1 x 3 x 3.
    - `r3d_pooled`: the ResNet of 3D-ResNets-PyTorch, arXiv:1711.09577, with shortcuts B. `r2plus1d_pooled`
      (depths 18 and 34) and `i3d_strided`: MMAction2's ResNet2Plus1d and its ResNet3d for I3D, which also
      halves T in the stem's convolution and in its pool.

    Args:
        norm: makes a norm of `videonorm.layers` from a number of channels.
        conv: makes a convolution from (in_channels, out_channels, kernel_size) and Conv3d's keywords.
        width: channels after the stem, 64 in all the papers.
        dropout: probability, before the classifier.
        zero_init_residual: every block starts as its shortcut, because the gamma of its last norm starts at
            0, whichever norm that is.
        norm_placement: "last_only" has a single norm, after the last block (Bjorck et al., arXiv:1806.02375),
            and biases in all convolutions; "logits" a single norm too, of the logits without gamma and
            beta to learn (MimicNorm, arXiv:2010.09278, whose code has a learnt scale in each branch besides).
        recompute: keep fewer bytes for backward, at the price of making them again there: see
            `videonorm.layers.recompute`. A graph of torch.fx has not got it: call that in the context.

    Attributes:
        kind: its name.
        head: the classifier, an nn.Linear.

    Shape:
        clips (B, 3, T, H, W) -> logits (B, num_classes).

    Raises:
        ValueError: an unknown depth, kind, placement or `recompute`; a norm that is not one of
            `videonorm.layers`; or one that cannot be recomputed.
    """

    def __init__(
        self,
        depth: Depth = 18,
        kind: KindName = "r3d",
        num_classes: int = 400,
        norm: NormFactory = BatchNorm3d,
        conv: ConvFactory = nn.Conv3d,
        width: int = 64,
        dropout: float = 0.0,
        zero_init_residual: bool = True,
        norm_placement: NormPlacement = "all",
        recompute: Recompute = "none",
    ) -> None:
        super().__init__()
        check_choice("depth", depth, get_args(Depth))
        check_choice("kind", kind, get_args(KindName))
        check_choice("norm_placement", norm_placement, get_args(NormPlacement))
        self.kind = kind
        which = KINDS[kind]
        bottleneck = depth >= FIRST_BOTTLENECK_DEPTH
        inner_norm = norm if norm_placement == "all" else NoNorm

        self.stem = ConvNorm(
            3,
            width,
            which.stem_kernel,
            which.stem_stride,
            activation="relu",
            mid_channels=_stem_mid_channels(which, width),
            norm=inner_norm,
            conv=conv,
        )
        self.stem_pool = which.make_stem_pool()
        self.temporal_pool = which.make_temporal_pool()

        block = partial(
            _residual_block,
            bottleneck=bottleneck,
            factorized=which.factorized,
            norm=inner_norm,
            conv=conv,
        )
        self.stages, channels = make_stages(which, depth, width, block)
        self.final_norm = make_norm(norm, channels) if norm_placement == "last_only" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        self.logits_norm = _logits_norm(norm, num_classes) if norm_placement == "logits" else nn.Identity()

        self.recompute: Recompute = recompute
        finish(self, recompute)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    _zero_gamma(module)

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
        if isinstance(self.logits_norm, nn.Identity):
            return logits
        y: Tensor = self.logits_norm(logits[..., None, None, None])
        return y.flatten(1)

    def chain(self) -> list[Callable[[Tensor], Tensor]]:
        """`forward` as functions to call in turn, a block each: see `videonorm.layers.accumulated_loss`."""
        return [self._begin, *blocks_in_turn(self.stages, self.temporal_pool), self._end]


def blocks_in_turn(stages: nn.ModuleList, temporal_pool: nn.Module) -> list[nn.Module]:
    """Every block of the stages, and behind those of the first the pool."""
    first, *others = (list(stage.children()) for stage in stages)
    return [*first, temporal_pool, *(block for stage in others for block in stage)]


def make_stages(
    kind: Kind, depth: Depth, width: int, block: Callable[[int, int, list[Size], Size], nn.Module]
) -> tuple[nn.ModuleList, int]:
    """The four stages, and the channels that the last one gives.

    Args:
        block: makes one from in_channels, channels, of which a bottleneck gives four times as many, kernels
            and stride.
    """
    bottleneck = depth >= FIRST_BOTTLENECK_DEPTH
    stages = nn.ModuleList()
    in_channels = width
    for stage, num_blocks in enumerate(NUM_BLOCKS[depth]):
        channels = width * 2**stage
        blocks = []
        for index in range(num_blocks):
            halve = stage > 0 and index == 0
            stride = (kind.temporal_stride, 2, 2) if halve else (1, 1, 1)
            blocks.append(block(in_channels, channels, kind.block_kernels(bottleneck, stage, index), stride))
            in_channels = channels * 4 if bottleneck else channels
        stages.append(nn.Sequential(*blocks))
    return stages, in_channels


def strides_within(kernels: list[Size], stride: Size) -> list[Size]:
    """Of a block's convolutions: the first 3 x 3 one has the stride of the block."""
    strided = [space for _, space, _ in kernels].index(3)
    return [stride if index == strided else (1, 1, 1) for index in range(len(kernels))]


def _residual_block(
    in_channels: int,
    channels: int,
    kernels: list[Size],
    stride: Size,
    *,
    bottleneck: bool,
    factorized: Literal["block", "convolution"] | None,
    norm: NormFactory,
    conv: ConvFactory,
) -> ResidualBlock:
    out_channels = channels * 4 if bottleneck else channels
    of_block = _mid_channels(in_channels, channels, 9)  # torchvision's, the same for all its convolutions

    branch, fan_in = [], in_channels
    for index, (kernel, own_stride) in enumerate(zip(kernels, strides_within(kernels, stride), strict=True)):
        fan_out = out_channels if index == len(kernels) - 1 else channels
        mid_channels = None
        if factorized and kernel == (3, 3, 3):
            mid_channels = of_block if factorized == "block" else _mid_channels(fan_in, fan_out, 9)
        branch.append(
            ConvNorm(
                fan_in,
                fan_out,
                kernel,
                own_stride,
                activation="relu",
                mid_channels=mid_channels,
                norm=norm,
                conv=conv,
            )
        )
        fan_in = fan_out
    shortcut = None
    if stride != (1, 1, 1) or in_channels != out_channels:
        of_shortcut = _mid_channels(in_channels, out_channels, 1) if factorized == "convolution" else None
        shortcut = ConvNorm(
            in_channels,
            out_channels,
            (1, 1, 1),
            stride,
            mid_channels=of_shortcut,
            norm=norm,
            conv=conv,
        )
    return ResidualBlock(branch, shortcut)


def _mid_channels(in_channels: int, out_channels: int, space: int) -> int:
    """So that the two factors have as many weights as the convolution, arXiv:1711.11248.

    Args:
        space: H x W of its kernel; kT is 3.
    """
    return 3 * space * in_channels * out_channels // (space * in_channels + 3 * out_channels)


def _stem_mid_channels(kind: Kind, width: int) -> int | None:
    if kind.factorized == "block":
        return max(45 * width // 64, 1)  # torchvision's 45 for 64; the rule would give 83
    return _mid_channels(3, width, 49) if kind.factorized else None


def _logits_norm(norm: NormFactory, num_classes: int) -> nn.Module:
    """Its gamma and beta stay 1 and 0."""
    return make_norm(norm, num_classes).requires_grad_(False)


def _zero_gamma(block: ResidualBlock) -> None:
    """Start the block as its shortcut. A frozen norm's gamma is a buffer: it could never leave 0."""
    last = block.branch[-1]
    assert isinstance(last, ConvNorm)
    gamma = getattr(last.norm, "weight", None)
    if isinstance(gamma, nn.Parameter):
        nn.init.zeros_(gamma)
