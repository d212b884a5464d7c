"""One forward and backward that leaves no trace, except that all kernels are ready."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def warmup(model: nn.Module, x: Tensor) -> None:
    """Run the model forward and backward once, so that every kernel that it needs is compiled and loaded.

    A kernel is compiled at its first use. While a CUDA graph is captured that is not possible, and in a
    measurement not wanted. Call it as the model will be called: in the same mode, under the same autocast,
    with an x of the same shape, dtype and memory format.

        with torch.autocast("cuda", torch.bfloat16):
            videonorm.warmup(model, x)

    Our kernels may be loaded in one thread while another captures a graph. PyTorch's own first uses in a
    thread (a handle of cuBLAS, a plan of cuDNN) may end a capture that is not ``capture_error_mode=
    "thread_local"``: warm up all models before the first capture begins.

    Parameters, their ``.grad``, buffers such as batch norm's running statistics, the mode and PyTorch's
    random number generators are afterwards as they were. The backward is left out where no gradient is
    wanted, such as under ``torch.no_grad()``.

    Args:
        model: on any device; on the CPU nothing is compiled, and it simply runs.
        x: one batch (B, C, T, H, W), or whatever the model takes, on the model's device.
    """
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {tensor.device for tensor in (x, *model.parameters()) if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            for parameter, _ in grads:
                parameter.grad = None
            y = model(x.detach().requires_grad_(x.requires_grad))
            outputs = [leaf for leaf in tree_leaves(y) if isinstance(leaf, Tensor) and leaf.requires_grad]
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
        with torch.no_grad():
            for module, name, buffer, kept in buffers:
                setattr(module, name, buffer.copy_(kept))
