"""Max pooling."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videonorm.layers.recomputation import Recomputation, active_recomputation


class MaxPool3d(nn.MaxPool3d):
    """torch's max pool, which in ``recompute`` keeps its input, or a byte a window, and no int64 indices."""

    def forward(self, x: Tensor) -> Tensor:
        recomputation = active_recomputation()
        if self.return_indices or recomputation is None:
            y: Tensor = super().forward(x)
            return y
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation)
        windows = Windows(*(size if isinstance(size, tuple) else (size,) * 3 for size in sizes))
        y = _MaxPool.apply(x, super().forward, windows, recomputation)
        if y.requires_grad and recomputation.blocks:
            recomputation.offer(y, partial(_pool, windows=windows, sizes=y.shape[-3:], dtype=y.dtype), x)
        return y


class Windows(NamedTuple):
    """Of a pool: kernel_size, stride, padding and dilation over (T, H, W)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

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
    def forward(ctx: Any, x: Tensor, pool: Any, windows: Windows, recomputation: Recomputation) -> Tensor:
        y: Tensor = pool(x)
        ctx.windows, ctx.sizes, ctx.in_8_bits = windows, x.shape[-3:], recomputation.in_8_bits
        # Of values in 8 bits several may be the largest.
        ctx.save_for_backward(_largest(x, windows, y.shape[-3:])[1] if ctx.in_8_bits else x)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        sizes = grad_y.shape[-3:]
        where = kept if ctx.in_8_bits else _largest(kept, ctx.windows, sizes)[1]
        grad_x = _empty_like(where, ctx.sizes, grad_y.dtype).zero_()
        # To a value of several windows in their order, as torch adds.
        for number, of_x, of_y in ctx.windows.places(ctx.sizes, sizes):
            grad_x[of_x] += torch.where(where[of_y] == number, grad_y[of_y], 0)
        return grad_x, None, None, None


@torch.no_grad()
def _largest(x: Tensor, windows: Windows, sizes: torch.Size) -> tuple[Tensor, Tensor]:
    """The largest value of each window, and the number of the first place that has it.

    torch's own pool writes int64 indices, which are four times the bytes of a bf16 y, at the peak of memory.

    Args:
        sizes: (T, H, W) of the results.
    """
    y = _empty_like(x, sizes, x.dtype).fill_(-torch.inf)
    few = math.prod(windows.kernel) <= 256
    where = _empty_like(x, sizes, torch.uint8 if few else torch.int32).zero_()
    for number, of_x, of_y in windows.places(x.shape[-3:], sizes):
        where[of_y].masked_fill_(x[of_x] >= y[of_y], number)
        torch.maximum(x[of_x], y[of_y], out=y[of_y])
    return y, where


def _pool(x: Tensor, windows: Windows, sizes: torch.Size, dtype: torch.dtype) -> Tensor:
    """y again. On a CPU autocast pools in fp32."""
    return _largest(x, windows, sizes)[0].to(dtype)


def _empty_like(x: Tensor, sizes: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of other sizes (T, H, W), in the memory format of x."""
    last = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    memory_format = torch.channels_last_3d if last else torch.contiguous_format
    shape = (*x.shape[:-3], *sizes)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format)
