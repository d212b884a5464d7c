"""Filters of a 2D network as those of a 3D one, so that both compute the same for a clip that stands still.

Shapes: (C_out, C_in, kH, kW) becomes (C_out, C_in, kT, kH, kW).
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.layers import ReparametrizedConv3d, WSConv3d
from videonorm.layers.ws_conv import VariantName

Inflation = Literal["center", "repeat"]


def inflate_network(
    weights: Mapping[str, Tensor],
    model: nn.Module,
    *,
    standardized: VariantName | None = None,
    inflation: Inflation = "center",
) -> dict[str, Tensor]:
    """The tensors of a 2D network, which stand under the names of `model`, as `model` stores them.

    Filters of its convolutions are inflated, see `inflate`; a classifier that is a 1 x 1 convolution is the
    matrix of a linear one; all others pass through untouched.
    """
    modules = dict(model.named_modules())
    inflated = {}
    for name, weight in weights.items():
        module = modules.get(name.removesuffix(".weight"))
        if isinstance(module, nn.Conv3d) and weight.dim() == 4:
            weight = inflate(weight, module, standardized=standardized, inflation=inflation)
        elif isinstance(module, nn.Linear):
            weight = weight.flatten(1)
        inflated[name] = weight
    return inflated


def inflate(
    weight: Tensor,
    conv: nn.Conv3d,
    *,
    standardized: VariantName | None = None,
    inflation: Inflation = "center",
) -> Tensor:
    """The weight of a 3D convolution that does to a clip that stands still what the 2D one does to its frame.

    A plain convolution's response is equal; that of one with weight standardization, which takes every scale
    away, is equal but for a factor, the same for all of its channels, that the norm behind it takes out.

    Args:
        weight: (C_out, C_in, kH, kW), as the 2D network stores it.
        conv: the convolution that is to have it, of which the kernel's length kT and the kind are read. A
            plain one gets standardized filters as they come out of standardization.
        standardized: the formula by which the 2D network standardizes it (see WSConv3d); None if it does not.
            Where only conv does, the response is that of a 2D convolution that does it too.
        inflation: how a filter is spread over kT.

            - "center": it is the middle tap, the others are 0. With standardization it is centred before,
              lest they become -mean / std; the factor is sqrt(kT).
            - "repeat": all taps, each 1 / kT of it (I3D, arXiv:1705.07750, and the baseline of the GN paper).
              Standardization undoes the division, and the factor is kT.

            The default leaves a network as it was: every frame has the 2D network's features, also in a clip
            that moves. Repeated filters see the zeros beyond a clip's ends; in a batch norm's network that
            changes the frames near them, in one with group norms, whose statistics are taken over time, all.

    Raises:
        ValueError: an unknown inflation.
        UserError: both standardize, and not by the same formula.
    """
    if inflation not in get_args(Inflation):
        raise ValueError(f"inflation ({inflation}) must be one of {', '.join(get_args(Inflation))}")
    num_taps = conv.kernel_size[0]
    if not isinstance(conv, ReparametrizedConv3d):
        if standardized is not None:
            weight = _standardize(weight, standardized)
        return _spread(weight, num_taps, inflation, scale=1.0 if inflation == "center" else 1 / num_taps)
    if standardized is not None and getattr(conv, "variant", None) != standardized:
        name = type(conv).__name__ + (f" of variant {conv.variant}" if isinstance(conv, WSConv3d) else "")
        raise UserError(
            f"conv ({name}) must be WSConv3d of variant {standardized}, as in the network of these weights,"
            " or torch.nn.Conv3d, into which they are folded"
        )
    if inflation == "repeat" or num_taps == 1:
        return _spread(weight, num_taps, "repeat")
    # Its variance is 1 / kT of what it is in 2D, and would sink beneath eps without the scale.
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    centered = wide - wide.mean((1, 2, 3), keepdim=True)
    return _spread(centered, num_taps, "center", scale=math.sqrt(num_taps))


def _spread(weight: Tensor, num_taps: int, inflation: Inflation, scale: float = 1.0) -> Tensor:
    taps = torch.zeros(num_taps, dtype=weight.dtype, device=weight.device)
    taps[num_taps // 2 if inflation == "center" else slice(None)] = scale
    return weight.unsqueeze(2) * taps.view(-1, 1, 1)


def _standardize(weight: Tensor, variant: VariantName) -> Tensor:
    channels_out, channels_in, height, width = weight.shape
    conv = WSConv3d(channels_in, channels_out, (1, height, width), variant=variant, device="meta")
    conv.weight = nn.Parameter(weight.unsqueeze(2), requires_grad=False)
    return conv.effective_weight().squeeze(2)
