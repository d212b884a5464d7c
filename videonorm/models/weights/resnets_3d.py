"""3D-ResNets-PyTorch: conv1, bn1, layer1.0.{conv1, bn1, conv2, bn2, downsample.0, downsample.1}, fc.

2D networks of others have the same names; these convolutions are 3D.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.models.weights.equivalence import same_in_evaluation

TITLE = "3D-ResNets-PyTorch"

PARTS = {"conv": "conv", "bn": "norm", "0": "conv", "1": "norm"}


def matches(weights: Mapping[str, Tensor]) -> bool:
    stem = weights.get("conv1.weight")
    return stem is not None and stem.ndim == 5 and "layer1.0.bn1.weight" in weights


def translate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return same_in_evaluation({name_in_resnet3d(name): weight for name, weight in weights.items()}, model)


def name_in_resnet3d(name: str) -> str:
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"stem.{PARTS[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
        layer, block, part, number, rest = found.groups()
        return f"stages.{int(layer) - 1}.{block}.branch.{int(number) - 1}.{PARTS[part]}.{rest}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", name):
        layer, block, part, rest = found.groups()
        return f"stages.{int(layer) - 1}.{block}.shortcut.{PARTS[part]}.{rest}"
    return re.sub(r"^fc\.", "head.", name)
