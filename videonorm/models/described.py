"""Converted networks by description: class path and arguments, as a recipe or a checkpoint names a network.

A network whose own constructor takes norm and convolution is described by these; any other by what is done to
it here.
"""

from torch import nn

from videonorm.models.conv_norm import ConvFactory, NormFactory
from videonorm.models.conversion import convert
from videonorm.models.folding import CLIPS, fold


def converted(
    network: nn.Module, norm: NormFactory | None = None, conv: ConvFactory | None = None
) -> nn.Module:
    """`network` after `convert`, see there."""
    convert(network, norm=norm, conv=conv)
    return network


def folded(network: nn.Module, clips_shape: tuple[int, int, int, int, int] = CLIPS) -> nn.Module:
    """`network` after `fold`, see there; in the mode that it was in."""
    trained = network.training
    fold(network.eval(), clips_shape)
    return network.train(trained)
