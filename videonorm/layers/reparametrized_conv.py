"""The base of convolutions whose filters are a function of the stored weight."""

import torch
from torch import Tensor, nn


class ReparametrizedConv3d(nn.Conv3d):
    """Conv3d that convolves with ``effective_weight()`` in place of ``weight``. Arguments as in nn.Conv3d."""

    def effective_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that the convolution uses: an nn.Conv3d with it (and this bias) computes the same.

        Args:
            dtype: of the result; that of ``weight`` if None.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        under_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if under_autocast else None
        y: Tensor = self._conv_forward(x, self.effective_weight(dtype), self.bias)
        return y
