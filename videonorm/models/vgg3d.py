"""A 3D network without residuals, in which a norm has no shortcut to hide behind.

Shapes: clips (B, 3, T, H, W); kernels (T, H, W).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from videonorm import layers
from videonorm.layers import MaxPool3d, NoNorm, Recompute
from videonorm.models.conv_norm import ConvFactory, ConvNorm, NormFactory, finish

# Channels of each convolution in multiples of `width`, one tuple for each of the five stages.
STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((1,), (2,), (4, 4), (8, 8), (8, 8)),
    16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
}


class VGG3d(nn.Module):
    """VGG in 3D, for clips of any length.

    The stages are configurations A (depth 11) and D (depth 16) of VGG, arXiv:1409.1556, table 1, in which
    every convolution is 3 x 3 x 3 and every stage ends in a max pool, as in C3D, arXiv:1412.0767: the first
    pool leaves time alone, the other four halve it. Ours: the norms; pools that round up, so that any T, H
    and W >= 1 pass; and average pooling and one linear layer where VGG has three, whose first would fix T, H
    and W.

    Args:
        norm: makes a norm of `videonorm.layers` from a number of channels; None for none. Convolutions
            without a norm have biases.
        conv: makes a convolution from (in_channels, out_channels, kernel_size) and Conv3d's keywords.
        width: channels of the first stage, 64 in the paper.
        dropout: probability, before the classifier.
        recompute: keep fewer bytes for backward, at the price of making them again there: see
            `videonorm.layers.recompute`.

    Shape:
        clips (B, 3, T, H, W) -> logits (B, num_classes).

    Raises:
        ValueError: an unknown depth; a norm that is not one of `videonorm.layers`, or one that cannot be
            recomputed.
    """

    def __init__(
        self,
        depth: Literal[11, 16] = 11,
        num_classes: int = 400,
        norm: NormFactory | None = None,
        conv: ConvFactory = nn.Conv3d,
        width: int = 64,
        dropout: float = 0.5,
        recompute: Recompute = "none",
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth ({depth}) must be one of {', '.join(map(str, STAGES))}")
        self.stages = nn.ModuleList()
        channels = 3
        for index, multiples in enumerate(STAGES[depth]):
            stage: list[nn.Module] = []
            for multiple in multiples:
                stage.append(
                    ConvNorm(
                        channels,
                        multiple * width,
                        (3, 3, 3),
                        activation="relu",
                        norm=NoNorm if norm is None else norm,
                        conv=conv,
                    )
                )
                channels = multiple * width
            stage.append(MaxPool3d((1, 2, 2) if index == 0 else (2, 2, 2), ceil_mode=True))
            self.stages.append(nn.Sequential(*stage))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        self.recompute: Recompute = recompute
        finish(self, recompute)

    def forward(self, x: Tensor) -> Tensor:
        with layers.recompute(self.recompute):
            for stage in self.stages:
                x = stage(x)
        return self._end(x)

    def _end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(x.mean(dim=(2, 3, 4))))
        return logits

    def chain(self) -> list[Callable[[Tensor], Tensor]]:
        """`forward` as functions to call in turn, a layer each: see `videonorm.layers.accumulated_loss`."""
        return [*(layer for stage in self.stages for layer in stage.children()), self._end]
