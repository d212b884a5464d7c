"""MMAction2's recognizers: backbone.layer1.0.conv1.{conv, bn} and cls_head.fc_cls.

ResNet3dSlowOnly, ResNet3d (i3d), ResNet3dCSN (ir) and ResNet2Plus1d, whose convolutions are
conv1.conv.{conv_s, bn_s, conv_t} and conv1.bn. Their batch norms have eps 1e-3 in CSN and, but for bn_s, in
ResNet2Plus1d.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.models.resnet3d import ResNet3d
from videonorm.models.weights import pytorchvideo
from videonorm.models.weights.equivalence import same_in_evaluation

TITLE = "MMAction2"

FACTORIZED_PARTS = {
    "conv.conv_s": "conv.0.conv",
    "conv.bn_s": "conv.0.norm",
    "conv.conv_t": "conv.1",
    "bn": "norm",
}


def matches(weights: Mapping[str, Tensor]) -> bool:
    return any(re.fullmatch(r"(backbone\.)?layer1\.0\.conv1\.bn\.weight", name) for name in weights)


def translate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    bare = {name.removeprefix("backbone."): weight for name, weight in weights.items()}
    if "conv1.conv.conv_s.weight" in bare:
        ours = {_factorized(name): weight for name, weight in bare.items()}
        return same_in_evaluation(ours, model, lambda norm: 1e-5 if norm.endswith("conv.0.norm") else 1e-3)
    separated = "layer1.0.conv2.0.conv.weight" in bare  # CSN
    ours = {_name(name): weight for name, weight in bare.items()}
    if isinstance(model, ResNet3d):
        if model.kind == "i3d":  # of the same names and shapes
            raise UserError("kind (i3d) must be i3d_strided for weights of MMAction2's i3d")
        ours = pytorchvideo.to_resnet3d(ours)
    return same_in_evaluation(ours, model, lambda norm: 1e-3 if separated else 1e-5)


def _factorized(name: str) -> str:
    """ResNet3d's name."""
    if found := re.fullmatch(r"conv1\.(.+)\.(\w+)", name):
        return f"stem.{FACTORIZED_PARTS.get(found[1], found[1])}.{found[2]}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(?:conv(\d)|downsample)\.(.+)\.(\w+)", name):
        layer, block, conv, part, rest = found.groups()
        where = "shortcut" if conv is None else f"branch.{int(conv) - 1}"
        return f"stages.{int(layer) - 1}.{block}.{where}.{FACTORIZED_PARTS.get(part, part)}.{rest}"
    return re.sub(r"^cls_head\.fc_cls\.", "head.", name)


def _name(name: str) -> str:
    """PyTorchVideo's name, in slow and csn."""
    if found := re.fullmatch(r"conv1\.(conv|bn)\.(\w+)", name):
        return f"blocks.0.{_part(found[1])}.{found[2]}"
    # CSN's depthwise convolution is the only one of a sequence.
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(?:conv([123])(?:\.0)?|downsample)\.(conv|bn)\.(\w+)", name):
        layer, block, conv, part, rest = found.groups()
        where = f"branch1_{_part(part)}" if conv is None else f"branch2.{_part(part)}_{'abc'[int(conv) - 1]}"
        return f"blocks.{layer}.res_blocks.{block}.{where}.{rest}"
    return re.sub(r"^cls_head\.fc_cls\.", "blocks.5.proj.", name)


def _part(name: str) -> str:
    return "norm" if name == "bn" else name
