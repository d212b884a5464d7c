"""Big Transfer's own .npz files, such as BiT-M-R50x1.npz: TensorFlow's names, filters (kH, kW, C_in, C_out).

resnet/root_block/standardized_conv2d/kernel, resnet/block1/unit01/{a, b, c}/{standardized_conv2d/kernel,
group_norm/gamma, group_norm/beta}, resnet/block1/unit01/a/proj/standardized_conv2d/kernel,
resnet/group_norm/{gamma, beta} and resnet/head/conv2d/{kernel, bias}, a 1 x 1 convolution.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.models.inflation import Inflation, inflate_network
from videonorm.models.weights.image_networks import require_big_transfer

TITLE = "Big Transfer"

PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
PLACES = {
    "root_block/standardized_conv2d": "stem",
    "group_norm": "final_norm",
    "head/conv2d": "head",
}
UNIT = re.compile(r"block(\d)/unit(\d+)/([abc])/(proj/standardized_conv2d|standardized_conv2d|group_norm)")


def matches(weights: Mapping[str, Tensor]) -> bool:
    return "resnet/root_block/standardized_conv2d/kernel" in weights


def translate(
    weights: Mapping[str, Tensor], model: nn.Module, inflation: Inflation = "center"
) -> dict[str, Tensor]:
    """See `Layout`; `inflation` as in `inflate`."""
    require_big_transfer(model)
    ours = {_name(name): _channels_first(weight) for name, weight in weights.items()}
    return inflate_network(ours, model, standardized="bit", inflation=inflation)


def _channels_first(weight: Tensor) -> Tensor:
    return weight.permute(3, 2, 0, 1) if weight.dim() == 4 else weight


def _name(name: str) -> str:
    place, _, part = name.removeprefix("resnet/").rpartition("/")
    if part not in PARTS:
        return name
    if place in PLACES:
        return f"{PLACES[place]}.{PARTS[part]}"
    if found := UNIT.fullmatch(place):
        block, unit, letter, kind = found.groups()
        number = "abc".index(letter) + 1
        layer = {"group_norm": f"norm{number}", "standardized_conv2d": f"conv{number}"}.get(kind, "shortcut")
        return f"stages.{int(block) - 1}.{int(unit) - 1}.{layer}.{PARTS[part]}"
    return name
