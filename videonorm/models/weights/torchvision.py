"""torchvision's VideoResNet: r3d_18, mc3_18, r2plus1d_18 and deeper ones.

It numbers the parts of a convolution with its norm: stem.{0,1}, layer2.0.conv1.{0,1},
layer2.0.downsample.{0,1}. Factorized ones are stem.{0,1,3,4} and layer2.0.conv1.0.{0,1,3} with
layer2.0.conv1.1.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.models.resnet3d import ResNet3d
from videonorm.models.weights.equivalence import same_in_evaluation

TITLE = "torchvision's VideoResNet"

PARTS = {"0": "conv", "1": "norm"}
FACTORIZED_PARTS = {"0": "conv.0.conv", "1": "conv.0.norm", "3": "conv.1", "4": "norm"}


def matches(weights: Mapping[str, Tensor]) -> bool:
    return "stem.0.weight" in weights and any(name.startswith("layer1.0.conv1.") for name in weights)


def translate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    ours = dict(weights)
    if isinstance(model, ResNet3d):  # and not its own network
        factorized = "stem.3.weight" in weights
        ours = {_name(name, factorized): weight for name, weight in weights.items()}
    return same_in_evaluation(ours, model)


def _name(name: str, factorized: bool) -> str:
    if found := re.fullmatch(r"stem\.([0134])\.(\w+)", name):
        part, rest = found.groups()
        parts = FACTORIZED_PARTS if factorized else PARTS
        return f"stem.{parts.get(part, part)}.{rest}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(?:conv(\d)|downsample)\.([01])(?:\.([013]))?\.(\w+)", name):
        layer, block, conv, part, factor, rest = found.groups()
        where = "shortcut" if conv is None else f"branch.{int(conv) - 1}"
        place = PARTS[part] if factor is None else FACTORIZED_PARTS[factor]
        return f"stages.{int(layer) - 1}.{block}.{where}.{place}.{rest}"
    return re.sub(r"^fc\.", "head.", name)
