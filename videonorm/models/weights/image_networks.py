"""What a network of ours must have to compute the same as one for images."""

from torch import nn

from videonorm.errors import UserError
from videonorm.layers import GroupNorm3d
from videonorm.models.resnet3d import ResNet3d
from videonorm.models.resnetv2_3d import ResNetV2_3d

NUM_GROUPS, EPS = 32, 1e-5  # of all the group norms of timm and BiT


def require_big_transfer(model: nn.Module) -> None:
    """Raise a UserError unless this is BiT's trunk with its norms. `inflate` sees to the convolutions."""
    if not isinstance(model, ResNetV2_3d):
        raise UserError(f"model ({type(model).__name__}) must be a ResNetV2_3d, the network of these weights")
    require_groups(model)


def require_image_resnet(model: nn.Module) -> None:
    """Raise a UserError unless this is a ResNet with the stem of one for images."""
    if not isinstance(model, ResNet3d) or isinstance(model.stem_pool, nn.Identity):
        raise UserError(
            f"model ({type(model).__name__}) must be a ResNet3d with a pool after its stem, as the network of"
            " these weights: of kind c2d, i3d or slow, say"
        )


def require_groups(model: nn.Module) -> None:
    """Raise a UserError for a group norm that has not 32 groups and eps 1e-5, which no name tells."""
    for norm in model.modules():
        if isinstance(norm, GroupNorm3d) and (norm.num_groups, norm.eps) != (NUM_GROUPS, EPS):
            raise UserError(
                f"norm ({type(norm).__name__}({norm.extra_repr()})) must be GroupNorm3d"
                f" of {NUM_GROUPS} groups and eps {EPS}, as in the network of these weights"
            )
