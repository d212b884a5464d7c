"""The layouts that are known, and which of them some weights have."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.models.weights import big_transfer, image_resnet, pytorchvideo, timm_resnetv2, torchvision
from videonorm.models.weights.text import shortened


class Layout(Protocol):
    """What a module of this package knows of one project's files: their names, for the tensors of a network."""

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
    image_resnet,
    timm_resnetv2,
    big_transfer,
)


def layout_of(weights: Mapping[str, Tensor], source: str) -> Layout:
    """The layout of some weights.

    Args:
        source: where they come from, for messages.

    Raises:
        UserError: their names are those of none.
    """
    for layout in LAYOUTS:
        if layout.matches(weights):
            return layout
    known = ", ".join(layout.TITLE for layout in LAYOUTS)
    raise UserError(
        f"{source} ({shortened(list(weights))}) must have the names of {known}, or the model's own"
    )
