"""The gradient of a convolution's weight on a CPU, where oneDNN has it wrong.

Where a kernel is longer than what it is laid over (3 frames over 2, 3 pixels over 1, with zeros around them),
oneDNN's weight gradient in bf16 reads memory that nothing wrote, and writes beyond its own; from 5 taps on it
can do so in fp32 too (torch 2.11 to 2.14, on a processor with AVX-512). y and grad_x are right; so is that
gradient if the zeros stand in memory. So they are put there, for that gradient alone.

A model may hold any torch.nn.Conv3d. Therefore torch's own operator has this kernel for CPU tensors, from the
import of `videonorm.ops` on: beneath autograd, autocast and what torch.compile has made.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST_FAULTY_EXTENT = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 5}

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

_torchs = torch.library.get_kernel("aten::convolution_backward", "CPU")


def _guarded(
    keys: torch.DispatchKeySet,
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> Gradients:
    def gradients(x: Tensor, padding: Sequence[int], wanted: list[bool]) -> Gradients:
        options = stride, padding, dilation, transposed, output_padding, groups, wanted
        grads: Gradients = _torchs.call_boxed(keys, grad_y, x, weight, bias_sizes, *options)
        return grads

    if not wanted[1] or transposed or not x.numel():
        return gradients(x, padding, wanted)
    in_memory = _zeros_in_memory(x, weight, padding, dilation)
    if not any(in_memory):
        return gradients(x, padding, wanted)
    grad_x = gradients(x, padding, [True, False, False])[0] if wanted[0] else None
    sides = [size for size in reversed(in_memory) for _ in range(2)]
    rest = [0 if size else padding[index % len(padding)] for index, size in enumerate(in_memory)]
    return grad_x, *gradients(F.pad(x, sides), rest, [False, *wanted[1:]])[1:]


def _zeros_in_memory(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int]) -> list[int]:
    """How many zeros go on both sides of each dimension of x (B, C, ...): its padding, where faulty."""
    zeros = []
    for index, (size, taps) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        extent = dilation[index % len(dilation)] * (taps - 1) + 1  # a list of one stands for all
        shortest = SHORTEST_FAULTY_EXTENT.get(x.dtype, extent + 1)
        zeros.append(padding[index % len(padding)] if size < extent >= shortest else 0)
    return zeros


def probe() -> tuple[bool, bool]:
    """Whether the gradient of a bf16 weight of 3 frames over 2 is right: torch's own, and as it is here."""
    generator = torch.Generator().manual_seed(0)
    x, grad_y = torch.randn(2, 2, 16, 2, 4, 4, generator=generator).bfloat16()
    weight = torch.zeros(16, 16, 3, 3, 3, dtype=torch.bfloat16)
    options = [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, [False, True, False]
    exact = torch.ops.aten.convolution_backward(grad_y.double(), x.double(), weight.double(), None, *options)[
        1
    ]

    def is_right(operator: Any, *keys: torch.DispatchKeySet) -> bool:
        # What is freed here is what the operator will find in the memory that it asks for.
        del [torch.full((size,), torch.nan) for size in range(256, 2**15, 256) for _ in range(4)][:]
        grad = operator(*keys, grad_y, x, weight, None, *options)[1]
        return bool(((grad - exact).abs() <= 0.02 * exact.abs().max()).all())

    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return is_right(_torchs.call_boxed, cpu), is_right(torch.ops.aten.convolution_backward)


def _guard() -> torch.library.Library:
    """What holds our kernel in the place of torch's."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("convolution_backward", _guarded, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
    return library


@contextmanager
def unguarded() -> Iterator[None]:
    """In this context torch's own kernel runs, in all threads: for measurements without oneDNN."""
    global _library
    _library._destroy()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _library = _guard()


_library = _guard()
