"""The base of convolutions whose filters are a function of the stored weight."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from videonorm.layers.saved_tensor_hooks import innermost_hooks


class WeightAtHand(NamedTuple):
    """An effective weight that was computed for the forward that runs now, and where: see `place`."""

    weight: Tensor
    place: object


class ReparametrizedConv3d(nn.Conv3d):
    """Conv3d that convolves with ``effective_weight()`` in place of ``weight``. Arguments as in nn.Conv3d."""

    weight_at_hand: WeightAtHand | None = None

    def effective_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that the convolution uses: an nn.Conv3d with it (and this bias) computes the same.

        Args:
            dtype: of the result; that of ``weight`` if None.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        dtype = autocast_dtype(x.device) or self.weight.dtype
        at_hand = self.weight_at_hand
        if at_hand is not None and at_hand.weight.dtype == dtype and at_hand.place == place():
            weight = at_hand.weight
        else:
            weight = self.effective_weight(dtype)
        y: Tensor = self._conv_forward(x, weight, self.bias)
        return y


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast, where it is on, makes a convolution compute in."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):  # there is none for meta tensors
        return torch.get_autocast_dtype(device.type)
    return None


def place() -> object:
    """What tells the inside of an activation checkpoint from its outside: the saved-tensor hooks in force.

    What a checkpoint computes in backward, when no group runs, it must have computed in forward too.
    """
    if torch.compiler.is_compiling():  # it knows checkpoints as such
        return None
    return innermost_hooks()
