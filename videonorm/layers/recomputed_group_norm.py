"""Group normalization inside `recompute`: the same y, of which less is kept for backward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from videonorm.layers.recomputation import Recomputation
from videonorm.ops.eight_bits import Form, dequantize, pack_mask, quantize, unpack_mask
from videonorm.ops.group_norm import (
    group_norm,
    group_norm_and_statistics,
    group_norm_apply,
    group_norm_gradients,
)
from videonorm.ops.registration import needs_reference

Restore = Callable[..., Tensor]
"""x, of the tensors that are kept of it."""


def recomputed_group_norm(
    recomputation: Recomputation,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_groups: int,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`videonorm.ops.group_norm.group_norm`, with y made again in backward where `recomputation` says so."""
    tensors = (x, weight, bias, residual)
    is_learnt = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if not is_learnt or needs_reference():
        return group_norm(x, weight, bias, num_groups, eps, residual, relu)
    if residual is not None:
        residual = residual.type_as(x)
    y: Tensor = _RecomputedGroupNorm.apply(x, weight, bias, residual, num_groups, eps, relu, recomputation)
    return y


class _RecomputedGroupNorm(torch.autograd.Function):
    """The recipe has to be there when autograd keeps y, the mask of a ReLU: before the norm returns."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        num_groups: int,
        eps: float,
        relu: bool,
        recomputation: Recomputation,
    ) -> Tensor:
        y, mean, rstd = group_norm_and_statistics(x, weight, bias, num_groups, eps, residual, relu)
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.relu = eps, relu
        ctx.bias_dtype = None if bias is None else bias.dtype
        parts, ctx.restore = _kept(x, recomputation)
        if residual is None or recomputation.blocks:
            make = partial(_make, ctx.restore, len(parts), eps, relu)
            recomputation.offer(y, make, *parts, weight, bias, residual, mean, rstd)
        mask, ctx.mask_of = None, None
        if relu and recomputation.in_8_bits:
            mask, ctx.mask_of = pack_mask(y), Form.of(y)
        elif relu and residual is not None:
            mask = y
        ctx.save_for_backward(weight, bias, mean, rstd, mask, *parts)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * 8
        weight, bias, mean, rstd, y, *parts = ctx.saved_tensors
        relu = ctx.relu
        if ctx.mask_of is not None:
            grad_y, y, relu = torch.where(unpack_mask(y, ctx.mask_of), grad_y, 0), None, False
        kept = ctx.restore(*parts), weight, bias, mean, rstd, y
        return *group_norm_gradients(ctx, grad_y, kept, relu), *(None,) * 4


def _kept(x: Tensor, recomputation: Recomputation) -> tuple[tuple[Tensor, ...], Restore]:
    """What is kept of x, and what makes x of it."""
    if recomputation.in_8_bits and not recomputation.has_recipe(x):
        return quantize(x, recomputation.stochastic), partial(dequantize, form=Form.of(x))
    return (x,), _as_it_is


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _make(restore: Restore, num_parts: int, eps: float, relu: bool, *tensors: Tensor | None) -> Tensor:
    parts, others = tensors[:num_parts], tensors[num_parts:]
    y: Tensor = group_norm_apply(restore(*parts), *others, eps, relu)
    return y
