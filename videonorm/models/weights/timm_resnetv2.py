"""timm's resnetv2_50x1_bit and its siblings: BiT as timm keeps it.

stem.conv, stages.0.blocks.0.{norm1, conv1, norm2, conv2, norm3, conv3, downsample.conv}, norm, and head.fc, a
1 x 1 convolution. timm's other ResNetV2s have batch norms, or a stem of several convolutions.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.models.inflation import Inflation, inflate_network
from videonorm.models.weights.image_networks import require_big_transfer

TITLE = "timm's resnetv2_*_bit"


def matches(weights: Mapping[str, Tensor]) -> bool:
    names = {"stem.conv.weight", "stages.0.blocks.0.conv1.weight", "norm.weight"}
    return names <= weights.keys() and "norm.running_mean" not in weights


def translate(
    weights: Mapping[str, Tensor], model: nn.Module, inflation: Inflation = "center"
) -> dict[str, Tensor]:
    """See `Layout`; `inflation` as in `inflate`."""
    require_big_transfer(model)
    ours = {_name(name): weight for name, weight in weights.items()}
    return inflate_network(ours, model, standardized="timm_bit", inflation=inflation)


def _name(name: str) -> str:
    name = re.sub(r"^stages\.(\d+)\.blocks\.", r"stages.\1.", name)
    name = name.replace(".downsample.conv.", ".shortcut.")
    for theirs, ours in {"stem.conv.": "stem.", "norm.": "final_norm.", "head.fc.": "head."}.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
