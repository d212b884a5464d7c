"""PyTorchVideo's networks, as in its hub: slow, c2d, i3d, r2plus1d, csn, x3d, slowfast.

A stage is blocks.2.res_blocks.0.{branch1_conv, branch1_norm, branch2.conv_a, branch2.norm_a, ...}. i3d and c2d
have a pool, which is a block without weights, between the stages: their head is blocks.6, that of the others
blocks.5.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from videonorm.models.resnet3d import ResNet3d

TITLE = "PyTorchVideo"


def matches(weights: Mapping[str, Tensor]) -> bool:
    return any(re.match(r"blocks\.1\.(multipathway_blocks\.0\.)?res_blocks\.0\.", name) for name in weights)


def translate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    if not isinstance(model, ResNet3d):  # its own network, with whichever norms and convolutions
        return dict(weights)
    stages = {block: stage for stage, block in enumerate(stage_blocks(weights))}
    return {_name(name, stages): weight for name, weight in weights.items()}


def stage_blocks(names: Iterable[str]) -> list[int]:
    """Which of the blocks are stages."""
    found = (re.match(r"blocks\.(\d+)\.(?:multipathway_blocks\.0\.)?res_blocks\.", name) for name in names)
    return sorted({int(match[1]) for match in found if match})


def _name(name: str, stages: Mapping[int, int]) -> str:
    if found := re.fullmatch(
        r"blocks\.(\d+)\.res_blocks\.(\d+)\.branch(?:1_|2\.)(conv|norm)(?:_([abc]))?\.(\w+)", name
    ):
        block_index, block, part, unit, rest = found.groups()
        where = "shortcut" if unit is None else f"branch.{'abc'.index(unit)}"
        return f"stages.{stages[int(block_index)]}.{block}.{where}.{part}.{rest}"
    name = re.sub(r"^blocks\.0\.(conv|norm)\.", r"stem.\1.", name)
    return re.sub(r"^blocks\.\d+\.proj\.", "head.", name)
