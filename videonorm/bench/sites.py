"""Where networks have norms, and which filters their convolutions have: read off the models themselves."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videonorm.layers import Norm
from videonorm.models import ResNet3d, VGG3d

Stages = tuple[tuple[torch.Size, ...], ...]


def new_model(net: str, **parts: Any) -> nn.Module:
    """A network by its kind and depth, as r3d-18, on torch's default device; `parts` are the class's own."""
    kind, _, depth = net.partition("-")
    make: Callable[..., nn.Module] = VGG3d
    if kind != "vgg3d":
        make, parts = ResNet3d, {"kind": kind, **parts}
    return make(depth=int(depth), **parts)


class Site(NamedTuple):
    """A norm's place in a network: the shape (C, T, H, W) of a clip there, and what the norm has to do."""

    shape: tuple[int, int, int, int]
    op: str


class _Recorder(Norm):
    """A norm that does nothing but to tell of its input."""

    sites: Counter[Site]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        op = "gn" + ("" if residual is None else "_add") + ("_relu" if self.activation else "")
        _, channels, frames, height, width = x.shape
        self.sites[Site((channels, frames, height, width), op)] += 1
        return x


def norm_sites(net: str, num_frames: int, crop_size: int) -> Counter[Site]:
    """The sites of a network for a clip of this size, and how many norms each of them has."""
    sites: Counter[Site] = Counter()

    def norm(num_channels: int) -> _Recorder:
        recorder = _Recorder(num_channels)
        recorder.sites = sites
        return recorder

    with torch.device("meta"), torch.no_grad():
        new_model(net, norm=norm)(torch.empty(1, 3, num_frames, crop_size, crop_size))
    return sites


def filter_stages(net: str, width: int) -> Stages:
    """The shapes of the convolutions' weights: the stem's, and those of each stage."""
    stages: dict[str, list[torch.Size]] = {}
    with torch.device("meta"):
        model = new_model(net, width=width)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            stage = name.split(".")[:2] if name.startswith("stages") else ["stem"]
            stages.setdefault(".".join(stage), []).append(module.weight.shape)
    return tuple(map(tuple, stages.values()))
