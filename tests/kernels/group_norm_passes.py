"""Inputs of the kernels of group_norm.cu, and both of its passes on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.kernels import group_norm as kernels

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
FUSED = {"plain": (False, False), "relu": (True, False), "add": (False, True), "add_relu": (True, True)}


def make_inputs(shape, dtype, memory_format, mean=30.0) -> list[Tensor]:
    """x, weight, bias, residual and grad_y; weight and bias are fp32."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x, residual, grad_y = (
        t.to(dtype).contiguous(memory_format=memory_format)
        for t in (mean + randn(*shape), randn(*shape), randn(*shape))
    )
    return [x, (1 + randn(shape[1])).float(), randn(shape[1]).float(), residual, grad_y]


def run(shim, x, weight, bias, residual, grad_y, num_groups, relu, eps=1e-5) -> list[Tensor]:
    """y, grad_x, grad_weight, grad_bias, grad_residual: both passes, with what autograd would save."""
    y, mean, rstd = kernels.forward(shim, x, weight, bias, residual, num_groups, eps, relu)
    masked = relu and residual is not None
    grads = kernels.backward(
        shim,
        grad_y,
        x,
        weight,
        bias,
        mean,
        rstd,
        y if masked else None,
        eps,
        relu,
        [True, True, True, masked],
    )
    again = kernels.apply(shim, x, weight, bias, residual, mean, rstd, eps, relu)
    torch.testing.assert_close(again, y, rtol=0, atol=0, equal_nan=True)
    return [y, *grads[:3], grads[3] if masked else grad_y]


def check(shim, shape, num_groups, dtype, memory_format, fused, assert_at_most_twice, mean=30.0) -> None:
    """The error of every result is at most twice that of PyTorch's own operations in the same dtype."""
    relu, add = FUSED[fused]
    x, weight, bias, residual, grad_y = make_inputs(shape, dtype, memory_format, mean)

    def eager(to):
        leaves = [t.to(to).requires_grad_() for t in (x, weight, bias, residual)]
        z = F.group_norm(leaves[0].contiguous(), num_groups, leaves[1], leaves[2], 1e-5)
        z = z + leaves[3] if add else z
        y = F.relu(z) if relu else z
        grads = torch.autograd.grad(y, leaves[: 3 + add], grad_y.to(to))
        return [y, *grads], z

    # A value that rounding moves across the kink has either gradient: leave those out.
    grad_y = grad_y * (eager(torch.float64)[1].abs() > 0.1)
    got = run(shim, x, weight, bias, residual if add else None, grad_y, num_groups, relu)
    for values in zip(got, eager(dtype)[0], eager(torch.float64)[0], strict=False):
        assert_at_most_twice(*values)
    for tensor in (got[0], got[1]):
        assert (tensor.dtype, tensor.stride()) == (x.dtype, x.stride())
