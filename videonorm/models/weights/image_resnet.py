"""torchvision's and timm's ResNets for images: resnet50, resnet101, timm's resnet50_gn, and the basic ones.

The names are those that 3D-ResNets-PyTorch has too, of filters without time: conv1, bn1, layer2.0.conv1,
layer2.0.bn1, layer2.0.downsample.{0,1}, fc. What resnet50_gn calls bn are group norms.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from videonorm.models.inflation import Inflation, inflate_network
from videonorm.models.weights.equivalence import same_in_evaluation
from videonorm.models.weights.image_networks import require_groups, require_image_resnet
from videonorm.models.weights.resnets_3d import name_in_resnet3d

TITLE = "torchvision's and timm's ResNet for images"


def matches(weights: Mapping[str, Tensor]) -> bool:
    stem = weights.get("conv1.weight")
    return stem is not None and stem.dim() == 4 and "layer1.0.conv1.weight" in weights


def translate(
    weights: Mapping[str, Tensor], model: nn.Module, inflation: Inflation = "center"
) -> dict[str, Tensor]:
    """See `Layout`; `inflation` as in `inflate`."""
    require_image_resnet(model)
    if "bn1.running_mean" not in weights:
        require_groups(model)
    ours = {name_in_resnet3d(name): weight for name, weight in weights.items()}
    return same_in_evaluation(inflate_network(ours, model, inflation=inflation), model)
