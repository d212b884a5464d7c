"""What the tests of group norm have in common."""

import torch
from torch import Tensor

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
OP = torch.ops.videonorm.group_norm.default
APPLY_OP = torch.ops.videonorm.group_norm_apply.default


def make_inputs(shape, mean=30.0, dtype=torch.float64, memory_format=torch.contiguous_format):
    """x, weight, bias, residual and grad_y, all of them exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    tensors = (mean + randn(*shape), 1 + randn(shape[1]), randn(shape[1]), randn(*shape), randn(*shape))
    return [
        t.to(dtype).contiguous(memory_format=memory_format) if t.dim() == 5 else t.to(dtype) for t in tensors
    ]


def assert_same_gradients(
    got: Tensor, want: Tensor, leaves: list[Tensor], grad_y: Tensor, **tolerances
) -> None:
    """Of two values of a function, with respect to its leaves."""
    grads, wanted = (torch.autograd.grad(y, leaves, grad_y) for y in (got, want))
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other, **tolerances)
