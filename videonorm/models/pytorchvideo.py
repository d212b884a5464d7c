"""PyTorchVideo's own models with our norms and convolutions in them.

PyTorchVideo's `transforms` cannot be imported beside a current torchvision; its models can.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from videonorm.models.conv_norm import ConvFactory, NormFactory
from videonorm.models.conversion import convert

Name = Literal[
    "slow_r50",
    "c2d_r50",
    "i3d_r50",
    "r2plus1d_r50",
    "csn_r101",
    "x3d_xs",
    "x3d_s",
    "x3d_m",
    "x3d_l",
    "slowfast_r50",
    "slowfast_r101",
    "slowfast_16x8_r101_50_50",
]
ENDS_IN_SOFTMAX = ("r2plus1d", "x3d")


def from_pytorchvideo(
    name: Name, num_classes: int = 400, norm: NormFactory | None = None, conv: ConvFactory | None = None
) -> nn.Module:
    """Build the model that `pytorchvideo.models.hub` has under this name, untrained, for clips of any length.

    The state_dict has PyTorchVideo's keys (those of the norms are the new norm's), so that its checkpoints
    load. This differs from the hub:

    - The head pools over all of T, H and W instead of over a fixed window. At the size a model was made for
      that is the same; the max pool in time of c2d and i3d keeps a lone last frame.
    - r2plus1d and X3D give logits too: upstream they end in a softmax, in training as well.
    - SlowFast takes one clip like the others, of which the slow pathway sees every fourth frame.
    - The last norm of each block starts at gamma 0 whichever norm it is: upstream only batch norms do.

    Args:
        norm: makes a norm from a number of channels; None for torch's BatchNorm3d as upstream. X3D and
            SlowFast have channels that 32 does not divide: see `on_indivisible` of GroupNorm3d. No
            convolution gets a bias, not even before NoNorm.
        conv: makes a convolution from (in_channels, out_channels, kernel_size) and Conv3d's keywords; None
            for Conv3d. It goes where `convert` would put it.

    Shape:
        clips (B, 3, T, H, W) -> logits (B, num_classes).

    Raises:
        ValueError: an unknown name; a norm or a convolution that refuses its channels.
    """
    from pytorchvideo.models import hub  # two seconds, for which the other models need not wait
    from pytorchvideo.models.resnet import ResBlock

    if name not in get_args(Name):
        raise ValueError(f"name ({name}) must be one of {', '.join(get_args(Name))}")
    options: dict[str, Any] = {"model_num_class": num_classes}
    if name.startswith(ENDS_IN_SOFTMAX):
        options["head_activation"] = None
    if norm is not None:
        # The builders also pass eps and momentum, of batch norms and at torch's defaults.
        options["norm"] = lambda num_features, **_: norm(num_features)
    model: nn.Module = getattr(hub, name)(**options)
    _pool_everything(model)
    for module in model.modules():
        if isinstance(module, ResBlock):
            module.is_block = True  # the role that ours have by their class
    if norm is not None:
        _zero_last_gammas(model)
    if conv is not None:
        convert(model, conv=conv)
    return TwoPathways(model) if name.startswith("slowfast") else model


class TwoPathways(nn.Module):
    """SlowFast, arXiv:1812.03982, for one clip: T frames for the fast pathway, ceil(T / 4) for the slow one.

    These are spread evenly from the first frame to the last, as in PySlowFast and PyTorchVideo's examples.

    Shape:
        clips (B, 3, T, H, W) -> logits (B, num_classes).
    """

    def __init__(self, slowfast: nn.Module) -> None:
        super().__init__()
        self.blocks = slowfast.get_submodule("blocks")

    def forward(self, x: Tensor) -> Tensor:
        num_frames = x.shape[2]
        num_slow = (num_frames + 3) // 4
        slow = torch.arange(num_slow, device=x.device) * (num_frames - 1) // max(num_slow - 1, 1)
        pathways: Any = [x.index_select(2, slow), x]  # two tensors, of which the last blocks make one
        assert isinstance(self.blocks, nn.ModuleList)
        for block in self.blocks:
            pathways = block(pathways)
        logits: Tensor = pathways
        return logits


def _pool_everything(model: nn.Module) -> None:
    """Let no pool fix T, H or W. The average pools of these models are those of their heads."""
    for parent in model.modules():
        for key, child in parent.named_children():
            if isinstance(child, nn.AvgPool3d):
                setattr(parent, key, nn.AdaptiveAvgPool3d(1))
            elif isinstance(child, nn.MaxPool3d):
                child.ceil_mode = child.ceil_mode or child.kernel_size == (2, 1, 1)


def _zero_last_gammas(model: nn.Module) -> None:
    """Do for every norm that learns a gamma what PyTorchVideo does for the last batch norm of a block."""
    for module in model.modules():
        gamma = getattr(module, "weight", None)
        if getattr(module, "block_final_bn", False) and isinstance(gamma, nn.Parameter):
            nn.init.zeros_(gamma)
