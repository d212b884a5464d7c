"""Tensors kept in 8 bits a value, and masks in one, for as long as they wait for backward.

256 neighbours in memory share a range (ActNN, arXiv:2104.14129, does so too): a value is its number of steps
of (max - min) / 255 above their min. That is min, max and the mean of a channel far off zero to half a step.
The range is in fp32, or fp64 for fp64: 8 1/4 bits a value in all.

What is done does not depend on the number of clips: a plan of memory rests on as many operations for any.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SHARING = 256
"""Values with one range."""
STEPS = 255
VALUES_AT_ONCE = 2**22
"""Of a clip: while they become codes they take twice the bytes of bf16."""


@dataclass(frozen=True)
class Form:
    """What is to be known of a tensor beside its values.

    Attributes:
        channels_last: of (B, C, T, H, W), as in torch.channels_last_3d; anything else comes back contiguous.
    """

    shape: torch.Size
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, x: Tensor) -> "Form":
        last = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
        return cls(x.shape, x.dtype, last and not x.is_contiguous())

    def flat(self, x: Tensor) -> Tensor:
        """The values in the order of memory."""
        return (x.permute(0, 2, 3, 4, 1) if self.channels_last else x).reshape(-1)

    def restore(self, flat: Tensor) -> Tensor:
        """The tensor of values in the order of memory, of which there may be more at the end."""
        flat = flat[: self.shape.numel()]
        if not self.channels_last:
            return flat.view(self.shape)
        clips, channels, *sizes = self.shape
        return flat.view(clips, *sizes, channels).permute(0, 4, 1, 2, 3)


def quantize(x: Tensor, stochastic: bool = False) -> tuple[Tensor, Tensor]:
    """x in 8 bits, without a gradient: codes (N / 256, 256) uint8, and ranges (N / 256, 2), min and step.

    Args:
        stochastic: round up with the probability of the remainder, in place of to the nearest. It takes
            random numbers from torch's generator of the device.
    """
    with torch.no_grad():
        values = _in_rows(x, SHARING)
        low, high = torch.aminmax(values, dim=1, keepdim=True)
        low, high = (end.to(torch.promote_types(x.dtype, torch.float32)) for end in (low, high))
        step = (high - low) / STEPS
        step = torch.where(step == 0, 1, step)
        codes = torch.empty_like(values, dtype=torch.uint8)
        num_parts = max(1, x.shape[1:].numel() // VALUES_AT_ONCE)
        parts = (each.tensor_split(num_parts) for each in (codes, values, low, step))
        for part, part_values, part_low, part_step in zip(*parts, strict=True):
            part.copy_(_codes(part_values, part_low, part_step, stochastic))
        return codes, torch.cat([low, step], dim=1)


def _codes(values: Tensor, low: Tensor, step: Tensor, stochastic: bool) -> Tensor:
    """Codes and what becoming uint8 cuts off."""
    codes = (values - low).div_(step)
    if stochastic:
        return codes.add_(torch.rand_like(codes)).clamp_(max=STEPS)
    return codes.add_(0.5)


def dequantize(codes: Tensor, ranges: Tensor, form: Form) -> Tensor:
    """x again, but for at most half a step of each value (a step, if it was rounded at random) and rounding.

    Where 256 values were not all finite, all come back as NaN.
    """
    low, step = ranges[:, :1], ranges[:, 1:]
    values = torch.empty(codes.shape, dtype=form.dtype, device=codes.device)
    torch.addcmul(low, codes, step, out=values)
    return form.restore(values.view(-1))


def pack_mask(y: Tensor) -> Tensor:
    """A bit for each value, whether a ReLU that ends in y let it through: (N / 8,) uint8."""
    with torch.no_grad():
        passed = _in_rows((y <= 0).logical_not_(), 8)  # NaN passes
        return (passed * _powers(y.device)).sum(1, dtype=torch.uint8)


def unpack_mask(bits: Tensor, form: Form) -> Tensor:
    """Where the ReLU let values through: above 0, and NaN."""
    passed = (bits[:, None] & _powers(bits.device)).ne_(0)
    return form.restore(passed.view(torch.bool).view(-1))


def _powers(device: torch.device) -> Tensor:
    return 1 << torch.arange(8, dtype=torch.uint8, device=device)


def _in_rows(x: Tensor, length: int) -> Tensor:
    """The values in the order of memory in rows of so many, the last one filled up with the last of all."""
    flat = Form.of(x).flat(x)
    if x.shape[1:].numel() % length:  # also where the clips together fill the last row
        flat = torch.cat([flat, flat[-1:].expand(-len(flat) % length)])
    return flat.view(-1, length)
