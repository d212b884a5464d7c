"""PySlowFast's own networks: slow, c2d, i3d, x3d, slowfast.

s1.pathway0_stem.{conv, bn}, s2.pathway0_res0.{branch1, branch1_bn, branch2.a, branch2.a_bn, ...} and
head.projection; in slowfast s1.pathway1_stem and s1_fuse.{conv_f2s, bn} beside them. Of Sub-BN, where a file
has it (PySlowFast puts a plain one in its place when it saves), a_bn.{weight, bias} are the affine map and
a_bn.split_bn the statistics of the splits, of which a_bn.bn has the union.

The networks that it takes from PyTorchVideo have PyTorchVideo's names.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.models.resnet3d import ResNet3d
from videonorm.models.weights import pytorchvideo

TITLE = "PySlowFast"

STEM = {"conv": "conv", "bn": "norm"}
# X3D's: first 1 x 3 x 3, then 5 x 1 x 1.
X3D_STEM = {"conv_xy": "conv.conv_t", "conv": "conv.conv_xy", "bn": "norm"}
HEAD = {
    **{"projection": "proj", "conv_5": "pool.pre_conv", "conv_5_bn": "pool.pre_norm"},
    **{"lin_5": "pool.post_conv", "lin_5_bn": "pool.post_norm"},
}
SQUEEZE = {"fc1": "block.0", "fc2": "block.2"}


def matches(weights: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("s2.pathway0_res0.branch2.") for name in weights)


def translate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    names = list(model.state_dict())
    stages, head = [1, 2, 3, 4], 5
    if not isinstance(model, ResNet3d) and len(found := pytorchvideo.stage_blocks(names)) == len(stages):
        stages = found
        head = max(int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name)))
    whole = _without_splits(weights)
    two_pathways = "s1.pathway1_stem.conv.weight" in whole
    x3d = "s1.pathway0_stem.conv_xy.weight" in whole
    theirs = {_name(name, stages, head, two_pathways, x3d): weight for name, weight in whole.items()}
    return pytorchvideo.translate(theirs, model)


def _name(name: str, stages: list[int], head: int, two_pathways: bool, x3d: bool) -> str:
    """PyTorchVideo's name, for a network whose stages and head are those of its blocks."""
    found = re.fullmatch(r"s([1-5])(?:\.pathway(\d)_|_)(stem|res\d+|fuse)\.(.+)\.(\w+)", name)
    if not found:
        found = re.fullmatch(r"head\.(\w+)\.(\w+)", name)
        return f"blocks.{head}.{HEAD.get(found[1], found[1])}.{found[2]}" if found else name
    stage, pathway, place, layer, rest = found.groups()
    block = f"blocks.{([0, *stages])[int(stage) - 1]}"
    if place == "fuse":
        layer = {"conv_f2s": "conv_fast_to_slow", "bn": "norm"}.get(layer, layer)
        return f"{block}.multipathway_fusion.{layer}.{rest}"
    if two_pathways:
        block = f"{block}.multipathway_blocks.{pathway}"
    if place == "stem":
        return f"{block}.{(X3D_STEM if x3d else STEM).get(layer, layer)}.{rest}"
    return f"{block}.res_blocks.{place.removeprefix('res')}.{_in_block(layer, x3d)}.{rest}"


def _in_block(layer: str, x3d: bool) -> str:
    if found := re.fullmatch(r"branch1(_bn)?", layer):
        return "branch1_norm" if found[1] else "branch1_conv"
    if found := re.fullmatch(r"branch2\.([abc])(_bn)?", layer):
        unit, norm = found.groups()
        # X3D's norm_b is followed by the squeeze and excitation of every other block.
        return f"branch2.{'norm' if norm else 'conv'}_{unit}" + (".0" if x3d and norm and unit == "b" else "")
    if found := re.fullmatch(r"branch2\.se\.(fc[12])", layer):
        return f"branch2.norm_b.1.{SQUEEZE[found[1]]}"
    return layer


def _without_splits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of plain batch norms in place of Sub-BN's: the statistics of all its splits together."""
    whole = {}
    for name, weight in weights.items():
        if found := re.fullmatch(r"(.*bn)\.(bn|split_bn)\.(\w+)", name):
            norm, which, statistic = found.groups()
            if which == "bn":
                whole[f"{norm}.{statistic}"] = _of_all_splits(weights, norm, statistic, weight)
        else:
            whole[name] = weight
    return whole


def _of_all_splits(weights: Mapping[str, Tensor], norm: str, statistic: str, union: Tensor) -> Tensor:
    """Of the splits, as these are what training keeps: their union may be of an earlier evaluation."""
    if statistic not in ("running_mean", "running_var") or f"{norm}.split_bn.running_mean" not in weights:
        return union
    means = weights[f"{norm}.split_bn.running_mean"].view(-1, len(union))  # (splits, channels)
    if statistic == "running_mean":
        return means.mean(0)
    variances = weights[f"{norm}.split_bn.running_var"].view_as(means)
    return variances.mean(0) + means.var(0, correction=0)
