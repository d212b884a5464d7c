"""The memory that kernels read and write, the same for every operator.

A kernel takes its first tensor in dense memory, contiguous or with the channels last, and all that belongs to
it site by site in the same order. What an operator is given may lie anywhere, and its results must lie as
``torch.empty_like`` of the first tensor would: only what differs is copied.
"""

import torch
from torch import Tensor

ACCESS_BYTES = 16  # the widest access of a thread


def dense(x: Tensor) -> Tensor:
    """x (N, C, ...) itself where it is contiguous or channels-last, else a copy in the nearer of the two."""
    if x.is_contiguous():
        return x
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):  # faster than to make a view
        return x
    channels_last = x.movedim(1, -1)
    if channels_last.is_contiguous():
        return x
    return channels_last.contiguous().movedim(-1, 1) if x.stride(1) == 1 else x.contiguous()


def in_order_of(like: Tensor, tensor: Tensor) -> Tensor:
    """The tensor with its numbers in memory in the order of `like`: itself where they are so already."""
    if tensor.stride() == like.stride() or (tensor.is_contiguous() and like.is_contiguous()):
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def aligned(tensor: Tensor) -> Tensor:
    """A dense tensor in memory that begins where the widest access may: itself where it does so already.

    Which kernels run, and so what they round, then depends on the shape alone, and not on where a view begins
    in a larger tensor. The caller holds it until the launch.
    """
    return tensor if tensor.data_ptr() % ACCESS_BYTES == 0 else tensor.clone()


# As all tensors are so in nearly every call, these ask before they call the others.


def aligned_dense(x: Tensor) -> Tensor:
    """`dense`, aligned."""
    if x.is_contiguous() and x.data_ptr() % ACCESS_BYTES == 0:
        return x
    return aligned(dense(x))


def aligned_in_order_of(like: Tensor, tensor: Tensor) -> Tensor:
    """`in_order_of`, aligned."""
    if tensor.stride() == like.stride() and tensor.data_ptr() % ACCESS_BYTES == 0:
        return tensor
    return aligned(in_order_of(like, tensor))


def in_one_run(vector: Tensor) -> Tensor:
    """A vector without gaps, aligned: itself where it is so already. The caller holds it until the launch."""
    if vector.is_contiguous() and vector.data_ptr() % ACCESS_BYTES == 0:
        return vector
    return aligned(vector.contiguous())
