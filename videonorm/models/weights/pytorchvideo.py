"""PyTorchVideo's networks, as in its hub: slow, c2d, i3d, r2plus1d, csn, x3d, slowfast.

A stage is blocks.2.res_blocks.0.{branch1_conv, branch1_norm, branch2.conv_a, branch2.norm_a, ...}, and has
multipathway_blocks.{0, 1} before res_blocks in slowfast. i3d, c2d and slowfast have a block without weights,
a pool, before the head: that is blocks.6, and blocks.5 in the others. The conv_t and conv_xy of r2plus1d and
x3d are what comes first and second, whatever their kernels: 1 x 3 x 3 and 5 x 1 x 1 in the stem of x3d.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.models.resnet3d import ResNet3d
from videonorm.models.weights.equivalence import same_in_evaluation

TITLE = "PyTorchVideo"


def matches(weights: Mapping[str, Tensor]) -> bool:
    return bool(stage_blocks(weights))


def translate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    ours = dict(weights)
    if isinstance(model, ResNet3d):  # and not its own network, with whichever norms and convolutions
        if model.kind == "i3d_strided":  # a network of weights of the same names and shapes
            raise UserError("kind (i3d_strided) must be i3d for weights of PyTorchVideo and PySlowFast")
        ours = to_resnet3d(weights)
    return same_in_evaluation(ours, model)


def to_resnet3d(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PyTorchVideo's names to those of ResNet3d."""
    stages = {block: stage for stage, block in enumerate(stage_blocks(weights))}
    return {_name(name, stages): weight for name, weight in weights.items()}


def stage_blocks(names: Iterable[str]) -> list[int]:
    """Which of a network's blocks are stages: not its stem, its head, nor a pool between."""
    found = (re.match(r"blocks\.(\d+)\.(?:multipathway_blocks\.\d\.)?res_blocks\.", name) for name in names)
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
