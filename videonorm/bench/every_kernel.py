"""Every kernel of ours on tensors so small that compute-sanitizer is soon done with it.

`python -m videonorm.bench.every_kernel [DEVICE]` runs them with vectors of different widths, one chunk and
several, few sites and odd ones, forward and backward. It measures nothing: `videonorm bench all` has the
sanitizers watch it, and the tests hold what the kernels compute.
"""

import sys

import torch

from videonorm.machine import choose_device
from videonorm.ops import use
from videonorm.ops.group_norm import group_norm
from videonorm.ops.weight_standardize import Formula, weight_standardize_layers

LAST, DENSE = torch.channels_last_3d, torch.contiguous_format
NORMS = (  # (N, C, T, H, W), groups
    ((2, 64, 2, 5, 5), 32, torch.bfloat16, LAST),
    ((1, 2048, 1, 3, 3), 32, torch.bfloat16, LAST),  # channels in several blocks
    ((2, 16, 3, 40, 40), 4, torch.bfloat16, LAST),  # sites in several chunks
    ((2, 54, 2, 5, 5), 6, torch.bfloat16, LAST),  # channels that no vector divides
    ((3, 15, 5, 3, 7), 5, torch.float32, LAST),
    ((2, 24, 2, 8, 8), 1, torch.float16, LAST),
    ((2, 24, 2, 8, 8), 8, torch.float16, DENSE),
    ((3, 15, 5, 3, 7), 5, torch.bfloat16, DENSE),
)
FILTERS = ((5, 3, 3, 1, 1), (32, 64, 1, 1, 1), (16, 3, 3, 7, 7))


def norms(device: torch.device) -> None:
    """Group norm of every shape, with and without residual and ReLU."""
    for shape, num_groups, dtype, memory_format in NORMS:
        x, residual, grad_y = (
            torch.randn(shape, device=device).to(dtype).contiguous(memory_format=memory_format)
            for _ in range(3)
        )
        weight, bias = (torch.rand(shape[1], device=device) for _ in range(2))
        for leaf in (x, residual, weight, bias):
            leaf.requires_grad_()
        for add in (False, True):
            for relu in (False, True):
                y = group_norm(x, weight, bias, num_groups, residual=residual if add else None, relu=relu)
                torch.autograd.grad(y, [x, weight, bias, *([residual] if add else [])], grad_y)


def filters(device: torch.device) -> None:
    """Weight standardization, of all filters in one launch."""
    weights = [torch.randn(size, device=device).requires_grad_() for size in FILTERS]
    gains = [torch.rand(len(weight), device=device).requires_grad_() for weight in weights]
    for dtype in (torch.float32, torch.bfloat16):
        results = weight_standardize_layers(weights, gains, [Formula(eps=1e-5)] * len(weights), dtype)
        torch.autograd.grad(results, [*weights, *gains], [torch.ones_like(result) for result in results])


def main(name: str) -> None:
    """Raises:
    UserError: there is no such device.
    """
    device = choose_device(name)
    torch.manual_seed(0)
    with use("cuda"):  # on a GPU no reference, if a kernel cannot be had
        norms(device)
        filters(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["auto"])
