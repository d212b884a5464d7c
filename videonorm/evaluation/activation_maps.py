"""Where in a clip a network sees a class: Grad-CAM (Selvaraju et al., arXiv:1610.02391), by torchcam."""

import importlib.util
import logging
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.errors import UserError


class ActivationMaps(NamedTuple):
    """Of V clips for one class."""

    values: Tensor  # (V, T, H, W), from 0 to 1, the largest of all clips; 0: nothing speaks for the class
    layer: str  # whose activations they weigh


def check_torchcam() -> None:
    """Raise UserError if the extra [explain] is not installed."""
    if importlib.util.find_spec("torchcam") is None:
        raise UserError("torchcam must be installed to explain: pip install 'videonorm[explain]'")


def activation_maps(
    network: nn.Module, clips: Tensor, label: int, layer: str | None = None
) -> ActivationMaps:
    """The layer's channels, each weighted by the mean gradient of the class's logit, summed and cut off at 0.

    In a network that ends in a global mean and a linear layer, the weights for the layer before these are
    the linear layer's. A map is scaled up to the clip's frames and pixels, by trilinear interpolation.

    Args:
        clips: (V, 3, T, H, W), on the network's device; one goes through it at a time.
        layer: as in ``network.named_modules()``; by default the last one that keeps places apart.

    Raises:
        UserError: there is no such layer, or the logit does not depend on it.
    """
    check_torchcam()
    from torchcam.methods import GradCAM

    logging.getLogger("torchcam").setLevel(logging.ERROR)  # or it would say that it has chosen a layer
    maps = []
    try:
        with GradCAM(network, layer, input_shape=tuple(clips.shape[1:])) as extract, torch.enable_grad():
            for clip in clips:
                (of_clip,) = extract(label, network(clip[None]), normalized=False)
                maps.append(of_clip)
            (name,) = extract.target_names
    except (ValueError, RuntimeError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"layer ({layer}) must be one that class activation maps can be made of: {error}"
        ) from error
    if maps[0].dim() != 4:
        raise UserError(f"layer ({name}) must have outputs (B, C, T, H, W), to be drawn over frames")
    values = F.interpolate(torch.stack(maps), size=clips.shape[2:], mode="trilinear")[:, 0]
    return ActivationMaps(values / values.amax().clamp(min=torch.finfo(values.dtype).tiny), name)
