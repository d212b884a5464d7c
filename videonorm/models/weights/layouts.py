"""The layouts that are known, and which of them some weights have."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from videonorm.models.weights import (
    big_transfer,
    image_resnet,
    mmaction,
    pyslowfast,
    pytorchvideo,
    resnets_3d,
    timm_resnetv2,
    torchvision,
)


class Layout(Protocol):
    """What a module of this package knows of one project's files: what they call a network's tensors."""

    TITLE: str
    """Whose weights these are, such as "torchvision's VideoResNet"."""

    def matches(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether names (and, where two projects share them, shapes) are those of this layout."""

    def translate(self, weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The same tensors under the model's own names. One that it has no name for keeps its own.

        Raises:
            UserError: the model cannot compute what these weights were trained for, whatever their names.
        """


# The first that matches counts.
LAYOUTS: tuple[Layout, ...] = (
    torchvision,
    pytorchvideo,
    pyslowfast,
    mmaction,
    resnets_3d,
    image_resnet,
    timm_resnetv2,
    big_transfer,
)


def layout_of(weights: Mapping[str, Tensor]) -> Layout | None:
    """The layout of some weights; None if their names are those of none."""
    return next((layout for layout in LAYOUTS if layout.matches(weights)), None)
