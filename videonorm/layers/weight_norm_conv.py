"""Convolution with weight normalization."""

from typing import Any

import torch
from torch import Tensor, nn

from videonorm.layers.reparametrized_conv import ReparametrizedConv3d


class WeightNormConv3d(ReparametrizedConv3d):
    """Conv3d with weight normalization (Salimans & Kingma, arXiv:1602.07868): a filter's length is a weight.

        w_hat[o] = gain[o] * w[o] / ||w[o]||

    The norm is over C_in / groups, k_T, k_H, k_W, in fp32; nothing is centred. ``gain`` (C_out,) begins as
    ||w[o]||, so that the layer begins as a plain convolution. After initializing or loading ``weight`` alone,
    call ``reset_gain``. Takes nn.Conv3d's arguments.
    """

    def __init__(self, *conv_args: Any, **conv_kwargs: Any) -> None:
        super().__init__(*conv_args, **conv_kwargs)
        self.gain = nn.Parameter(torch.empty(self.out_channels))
        self.reset_gain()

    def reset_gain(self) -> None:
        """Make ``effective_weight()`` equal ``weight``."""
        with torch.no_grad():
            self.gain.copy_(_lengths(self.weight).flatten())

    def effective_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        weight = self.weight  # once: one that is parametrized is computed whenever it is asked for
        lengths = _lengths(weight)
        w_hat = weight * (self.gain.to(lengths.dtype).view_as(lengths) / lengths)
        return w_hat.to(dtype or weight.dtype)


def _lengths(weight: Tensor) -> Tensor:
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    lengths: Tensor = torch.linalg.vector_norm(wide, dim=(1, 2, 3, 4), keepdim=True)
    return lengths
