"""Max pooling."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers.recomputation import Recomputation, active_recomputation
from videonorm.ops.registration import needs_reference


class MaxPool3d(nn.MaxPool3d):
    """torch's max pool, which in ``recompute`` keeps its input, or a byte a window, and no int64 indices."""

    def forward(self, x: Tensor) -> Tensor:
        recomputation = active_recomputation()
        is_kept = torch.is_grad_enabled() and x.requires_grad
        if self.return_indices or recomputation is None or not is_kept or needs_reference():
            y: Tensor = super().forward(x)
            return y
        kernel, stride = _triple(self.kernel_size), _triple(self.stride)
        windows = Windows(kernel, stride, _triple(self.padding), _triple(self.dilation), self.ceil_mode)
        y = _MaxPool.apply(x, windows, recomputation)
        if recomputation.blocks:
            make = partial(_pool, windows=windows, sizes=y.shape[-3:], dtype=y.dtype)
            recomputation.offer(y, make, x, longest=2)  # y is small, and a chain made for it alone is not
        return y


class Windows(NamedTuple):
    """Of a pool: its options, sizes over (T, H, W)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    def places(self, x: torch.Size, y: torch.Size) -> Iterator[tuple[int, Any, Any]]:
        """The places in a window, the last one first: its number, and slices of x and of y.

        The slice of x has the values that are at this place of their window, and that of y these windows:
        those at the edge need not have it.

        Args:
            x, y: sizes (T, H, W).
        """
        places = list(product(*map(range, self.kernel)))
        for number in reversed(range(len(places))):
            of_x, of_y = [], []
            for index, place in enumerate(places[number]):
                stride, shift = self.stride[index], place * self.dilation[index] - self.padding[index]
                first = max(0, -(shift // stride))
                behind = max(first, min(y[index], (x[index] - 1 - shift) // stride + 1))
                of_y.append(slice(first, behind))
                of_x.append(slice(first * stride + shift, max(0, (behind - 1) * stride + shift + 1), stride))
            yield number, (..., *of_x), (..., *of_y)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Windows, recomputation: Recomputation) -> Tensor:
        y = F.max_pool3d(x, *windows)
        ctx.windows, ctx.sizes, ctx.in_8_bits = windows, x.shape[-3:], recomputation.in_8_bits
        ctx.by_place = ctx.in_8_bits or (recomputation.blocks and _indices_outweigh(x, y.shape[-3:]))
        # Of values in 8 bits several may be the largest.
        ctx.save_for_backward(_largest(x, windows, y.shape[-3:])[1] if ctx.in_8_bits else x)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        sizes = grad_y.shape[-3:]
        if not ctx.by_place:
            _, indices = torch.ops.aten.max_pool3d_with_indices(kept.detach(), *ctx.windows)
            back = torch.ops.aten.max_pool3d_with_indices_backward
            return back(grad_y, kept.to(grad_y.dtype), *ctx.windows, indices), None, None
        where = kept if ctx.in_8_bits else _largest(kept, ctx.windows, sizes)[1]
        grad_x = _empty_like(where, ctx.sizes, grad_y.dtype).zero_()
        # To a value of several windows in their order, as torch adds.
        for number, of_x, of_y in ctx.windows.places(ctx.sizes, sizes):
            grad_x[of_x].add_(torch.where(where[of_y] == number, grad_y[of_y], 0))
        return grad_x, None, None


@torch.no_grad()
def _largest(x: Tensor, windows: Windows, sizes: torch.Size) -> tuple[Tensor, Tensor]:
    """The largest value of each window, and the number of the place that torch's pool takes it from.

    Args:
        sizes: (T, H, W) of the results.
    """
    y = _empty_like(x, sizes, x.dtype).fill_(-torch.inf)
    few = math.prod(windows.kernel) <= 256
    where = _empty_like(x, sizes, torch.uint8 if few else torch.int32).zero_()
    for number, of_x, of_y in windows.places(x.shape[-3:], sizes):
        here, largest = x[of_x], y[of_y]
        # Of equals torch takes the first, of NaNs the last.
        stays = (here < largest).logical_or_(largest.isnan())
        where[of_y].masked_fill_(stays.logical_not_(), number)
        torch.maximum(here, largest, out=largest)
    return y, where


def _pool(x: Tensor, windows: Windows, sizes: torch.Size, dtype: torch.dtype) -> Tensor:
    """y again. On a CPU autocast pools in fp32."""
    y = _largest(x, windows, sizes)[0] if _indices_outweigh(x, sizes) else F.max_pool3d(x, *windows)
    return y.to(dtype)


def _indices_outweigh(x: Tensor, sizes: torch.Size) -> bool:
    """Whether the int64 indices that torch's pool writes, if for a moment, are more bytes than x.

    That is at the peak of memory; elsewhere they are faster than a pass for each place of a window.
    """
    return 8 * math.prod(sizes) > x.itemsize * math.prod(x.shape[-3:])


def _empty_like(x: Tensor, sizes: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of other sizes (T, H, W), in the memory format of x."""
    last = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    memory_format = torch.channels_last_3d if last else torch.contiguous_format
    shape = (*x.shape[:-3], *sizes)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format)


def _triple(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,) * 3
