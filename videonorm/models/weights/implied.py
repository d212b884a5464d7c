"""The network that weights tell by themselves, where there is no doubt."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from videonorm.models.resnet3d import FIRST_BOTTLENECK_DEPTH, NUM_BLOCKS, KindName, ResNet3d
from videonorm.models.weights import pytorchvideo, torchvision
from videonorm.models.weights.layouts import layout_of

# Kinds whose weights have other shapes: by these, whatever a project's settings, one is told from the others.
KINDS: dict[str, tuple[KindName, ...]] = {
    torchvision.TITLE: ("r3d", "mc3", "r2plus1d"),
    pytorchvideo.TITLE: ("slow", "c2d", "i3d"),
}


def implied_backbone(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The {"class_path", "init_args"} of the ResNet3d that takes these weights, whole; None if none is."""
    layout = layout_of(weights)
    if layout is None:
        return None
    for kind in KINDS.get(layout.TITLE, ()):
        with torch.device("meta"):
            ours = layout.translate(weights, ResNet3d(10, kind))
        shapes = {name: tensor.shape for name, tensor in ours.items() if not name.endswith("_tracked")}
        depth, sizes = _depth(shapes), ("stem.norm.weight", "head.weight")
        if depth is None or not all(size in shapes for size in sizes):
            return None
        width, num_classes = (shapes[size][0] for size in sizes)
        with torch.device("meta"):
            model = ResNet3d(depth, kind, num_classes=num_classes, width=width)
        expected = {
            name: of.shape for name, of in model.state_dict().items() if not name.endswith("_tracked")
        }
        if shapes == expected:
            init_args = {"depth": depth, "kind": kind, "num_classes": num_classes, "width": width}
            return {"class_path": "videonorm.models.ResNet3d", "init_args": init_args}
    return None


def _depth(shapes: Mapping[str, torch.Size]) -> Any:
    blocks = {found[0] for name in shapes if (found := re.match(r"stages\.\d\.\d+\.", name))}
    numbers = tuple(sum(block.startswith(f"stages.{stage}.") for block in blocks) for stage in range(4))
    bottleneck = "stages.0.0.branch.2.norm.weight" in shapes
    of_both = [depth for depth, blocks_of in NUM_BLOCKS.items() if blocks_of == numbers]
    return next((depth for depth in of_both if (depth >= FIRST_BOTTLENECK_DEPTH) == bottleneck), None)
