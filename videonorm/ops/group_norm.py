"""Group normalization, with the residual addition and ReLU after it: schema, reference, CPU, fake, autograd.

Source: Wu & He, "Group Normalization", arXiv:1803.08494. Equivalent to
``relu(F.group_norm(x, num_groups, weight, bias, eps) + residual)``, except that the statistics are fp32 for
every dtype, that y has the dtype and the memory format of x, and that autocast has no rule for it: as in
batch norm, bf16 x goes in with fp32 weight and bias, and bf16 y comes out.

Three operators: `group_norm`; `group_norm_apply`, the same with given statistics, for those who make y a
second time; `group_norm_backward`. For backward a norm keeps x and the statistics. Its ReLU's mask costs
nothing: after a residual it is y, which the next layer keeps as well; else the sign is computed again from x.

Shapes: x, y, residual (B, C, ...) with C channels in G groups; weight, bias (C,); mean, rstd (B, G).
CPU tensors go to torch's native kernels, as contiguous memory; CUDA tensors to `videonorm.kernels`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from videonorm.kernels import group_norm as kernels
from videonorm.ops.registration import needs_reference, refuse, register

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DTYPE_NAMES = ", ".join(map(str, DTYPES))


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_groups: int,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Normalize x over the C / G channels of a group and all of T, H, W; add the residual; rectify.

    Args:
        x: (B, C, T, H, W), or any (B, C, ...), B being 0 or more, in fp32, fp16, bf16 or fp64.
        weight: (C,), in fp32 or the dtype of x; None for 1.
        bias: likewise; None for 0.
        num_groups: G, a divisor of C.
        eps: added to the biased variance under the root.
        residual: of x's shape, added after the affine map.
        relu: apply ReLU at the end.

    Returns:
        y with the shape, dtype and memory format of x. Differentiable once; within torch.func's transforms
        and in forward mode, where the reference runs, any number of times.
    """
    return group_norm_and_statistics(x, weight, bias, num_groups, eps, residual, relu)[0]


def group_norm_and_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_groups: int,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`group_norm`, and the mean and rstd of each group: (B, G), at least fp32, without a gradient.

    Of them ``torch.ops.videonorm.group_norm_apply`` makes the same y again, to the bit.
    """
    _check(x, weight, bias, num_groups, residual)
    if residual is not None:
        residual = residual.type_as(x)  # `to` would write the dtype met in tracing into an exported program
    operator = group_norm_reference if needs_reference() else _group_norm
    y, mean, rstd = operator(x, weight, bias, residual, num_groups, eps, relu)
    return y, mean, rstd


def _check(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, residual: Tensor | None
) -> None:
    shape, dtype, device = x.shape, x.dtype, x.device
    if len(shape) < 2:
        raise ValueError(f"x (shape {tuple(shape)}) must have the dimensions (B, C, ...)")
    if dtype not in DTYPES:
        raise ValueError(f"x ({dtype}) must have one of the dtypes {DTYPE_NAMES}")
    if 0 in shape and 0 in shape[1:]:  # asked twice, as a slice of a Size takes longer
        raise ValueError(f"x (shape {tuple(shape)}) must not be empty, but for the number of clips")
    num_channels = shape[1]
    if num_groups < 1 or num_channels % num_groups:
        raise ValueError(f"num_groups ({num_groups}) must divide num_channels ({num_channels})")
    if weight is not None:
        _check_parameter("weight", weight, num_channels, dtype, device)
    if bias is not None:
        _check_parameter("bias", bias, num_channels, dtype, device)
    if residual is None:
        return
    if (got := residual.shape) != shape:
        raise ValueError(f"residual (shape {tuple(got)}) must have the shape of x ({tuple(shape)})")
    if residual.dtype not in DTYPES:
        raise ValueError(f"residual ({residual.dtype}) must have one of the dtypes {DTYPE_NAMES}")
    if residual.device != device:
        raise ValueError(f"residual (on {residual.device}) must be on the device of x ({device})")


def _check_parameter(
    name: str, parameter: Tensor, num_channels: int, dtype: torch.dtype, device: torch.device
) -> None:
    if parameter.shape != (num_channels,):
        raise ValueError(f"{name} (shape {tuple(parameter.shape)}) must have the shape ({num_channels},)")
    if (got := parameter.dtype) not in (torch.float32, dtype):
        raise ValueError(f"{name} ({got}) must have the dtype torch.float32 or that of x ({dtype})")
    if parameter.device != device:
        raise ValueError(f"{name} (on {parameter.device}) must be on the device of x ({device})")


# ------------------------------------------------------------------------------------------- the definition
# The references' signatures are the operators' schemas. They name no dtype but that of the statistics: what
# is traced in fp32 runs under autocast too.


def group_norm_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    num_groups: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in differentiable PyTorch, for any device and floating-point dtype: y, mean, rstd."""
    grouped = _grouped(x, num_groups)
    within_group = list(range(2, grouped.dim()))
    mean = grouped.mean(within_group, keepdim=True, dtype=_statistics_dtype(x))
    mean = mean + (grouped - mean).mean(within_group, keepdim=True)  # what a long sum has lost
    var = (grouped - mean).square().mean(within_group)
    mean, rstd = mean.flatten(1), torch.rsqrt(var + eps)
    return _apply_reference(x, weight, bias, residual, mean, rstd, eps, relu), mean, rstd


def _apply_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    relu: bool,
) -> Tensor:
    y = _standardized(x, mean, rstd)
    if weight is not None:
        y = y * _per_channel(weight, x)
    if bias is not None:
        y = y + _per_channel(bias, x)
    if residual is not None:
        y = y + residual
    if relu:
        y = torch.relu(y)
    return y.type_as(x)


def _backward_reference(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    y: Tensor | None,
    eps: float,
    relu: bool,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivative, written out. With g = grad_y * weight where y > 0 and means over the group:

    grad_x = rstd * (g - mean(g) - x_hat * mean(g * x_hat))

    Args:
        y: given where a ReLU follows a residual; nowhere else is there a grad_residual to be computed.
        wanted: which gradients to compute; the others come back empty.

    Returns:
        grad_x, grad_weight and grad_bias in the dtype of mean, grad_residual.
    """
    if relu and y is None:
        y = _apply_reference(x, weight, bias, None, mean, rstd, eps, relu)
    grad_z = grad_y if y is None else torch.ops.aten.threshold_backward(grad_y, y, 0)
    grad = grad_z.to(mean.dtype)
    x_hat = _standardized(x, mean, rstd)
    over_sites = [0, *range(2, x.dim())]
    grad_x, grad_weight, grad_bias, grad_residual = (mean.new_empty(0) for _ in wanted)
    if wanted[0]:
        g = grad if weight is None else grad * _per_channel(weight, x)
        centered = g - _mean_of_group(g, mean)
        grad_x = _as_in(x, _per_channel(rstd, x) * (centered - x_hat * _mean_of_group(g * x_hat, mean)))
    if wanted[1]:
        grad_weight = (grad * x_hat).sum(over_sites)
    if wanted[2]:
        grad_bias = grad.sum(over_sites)
    if wanted[3]:
        grad_residual = _as_in(x, grad_z)
    return grad_x, grad_weight, grad_bias, grad_residual


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _grouped(x: Tensor, num_groups: int) -> Tensor:
    """(B, C, ...) as (B, G, C / G, ...): a view in every memory format."""
    grouped: Tensor = x.unflatten(1, (num_groups, x.shape[1] // num_groups))  # type: ignore[no-untyped-call]
    return grouped


def _standardized(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """x_hat, in the dtype of the statistics."""
    return (x - _per_channel(mean, x)) * _per_channel(rstd, x)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,), or (B, G) for all channels of a group, to be broadcast over the sites of x (B, C, ...)."""
    if values.dim() == 2:
        values = values.repeat_interleave(x.shape[1] // values.shape[1], 1)
    return values.view(*values.shape, *(1 for _ in x.shape[2:]))


def _mean_of_group(values: Tensor, like: Tensor) -> Tensor:
    """The mean over each group of values (B, C, ...), with the groups of `like` (B, G), per channel."""
    grouped = _grouped(values, like.shape[1])
    return _per_channel(grouped.mean(list(range(2, grouped.dim()))), values)


def _as_in(x: Tensor, values: Tensor) -> Tensor:
    """A copy of `values` with the shape, dtype and strides of x."""
    return torch.empty_like(x).copy_(values.view(x.shape))


# ---------------------------------------------------------------------------------------------------- CPU
# torch's channels-last group norm on CPU computes E[x^2] - E[x]^2: in fp32 it loses 29 % at mean / std = 500
# (torch 2.15). So its contiguous kernel runs whatever the memory format of x is; as (B, C, sites) x has none.


def _rows(x: Tensor) -> Tensor:
    """(B, C, ...) as contiguous (B, C, sites)."""
    return x.contiguous().view(*x.shape[:2], math.prod(x.shape[2:]))


def _forward_cpu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    num_groups, eps, relu = options
    z, mean, rstd = _normalize_rows(_rows(x), weight, bias, num_groups, eps)
    # Not `view`: autograd would refuse an in-place operation on what it knows as a view.
    y = torch.ops.aten._unsafe_view(z, x.shape) if x.is_contiguous() else _as_in(x, z)
    if residual is not None:
        y.add_(residual)
    if relu:
        y.relu_()
    return y, mean, rstd


def _apply_cpu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, mean: Tensor, *rest: Any
) -> Tensor:
    # torch has no kernel that takes statistics: the forward's y, to the bit, is had by computing them again.
    _rstd, *options = rest
    return _forward_cpu(x, weight, bias, residual, mean.shape[1], *options)[0]


def _backward_cpu(
    grad_y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rstd, y, eps, relu, wanted = rest
    rows, num_groups = _rows(x), mean.shape[1]
    if y is not None:
        grad_y = torch.ops.aten.threshold_backward(grad_y, y, 0)
    grad_z = _rows(grad_y)
    if relu and y is None:
        # Into the memory of z: on a CPU, new memory costs more than the operation.
        z, _, _ = _normalize_rows(rows, weight, bias, num_groups, eps)
        grad_z = torch.ops.aten.threshold_backward.grad_input(grad_z, z, 0, grad_input=z)
    ones = x.new_ones(x.shape[1], dtype=mean.dtype)
    weight = ones if weight is None else weight.to(mean.dtype).contiguous()
    grads = torch.ops.aten.native_group_norm_backward(
        grad_z, rows, mean, rstd, weight, *rows.shape, num_groups, wanted[:3]
    )
    grad_x, grad_weight, grad_bias = (mean.new_empty(0) if grad is None else grad for grad in grads)
    if wanted[0]:
        grad_x = grad_x.view(x.shape) if x.is_contiguous() else _as_in(x, grad_x)
    if not wanted[3]:
        grad_residual = mean.new_empty(0)
    else:
        grad_residual = grad_y if grad_y.stride() == x.stride() else _as_in(x, grad_y)
    return grad_x, grad_weight, grad_bias, grad_residual


def _normalize_rows(
    rows: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    # A weight wider than x is what makes torch keep mean and rstd in the wider dtype.
    dtype = _statistics_dtype(rows)
    # torch 2.11 reads both as contiguous memory, whatever they are.
    weight = rows.new_ones(rows.shape[1], dtype=dtype) if weight is None else weight.to(dtype).contiguous()
    bias = torch.zeros_like(weight) if bias is None else bias.to(dtype).contiguous()
    z, mean, rstd = torch.ops.aten.native_group_norm(rows, weight, bias, *rows.shape, num_groups, eps)
    return z, mean, rstd


# --------------------------------------------------------------------------------------- fake and autograd


def _fake(
    x: Tensor, _weight: Any, _bias: Any, _residual: Any, num_groups: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty((x.shape[0], num_groups), dtype=_statistics_dtype(x))
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _fake_apply(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(
    _grad_y: Tensor, x: Tensor, _weight: Any, _bias: Any, mean: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, wanted = rest
    num_channels = x.shape[1]
    return (
        torch.empty_like(x) if wanted[0] else mean.new_empty(0),
        mean.new_empty(num_channels if wanted[1] else 0),
        mean.new_empty(num_channels if wanted[2] else 0),
        torch.empty_like(x) if wanted[3] else mean.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, residual, _num_groups, ctx.eps, ctx.relu = inputs
    y, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    mask_of_y = ctx.relu and residual is not None
    mask_of_x = ctx.relu and residual is None
    ctx.save_for_backward(x, weight, bias if mask_of_x else None, mean, rstd, y if mask_of_y else None)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _autograd(ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 7
    return *group_norm_gradients(ctx, grad_y, ctx.saved_tensors, ctx.relu), None, None, None


def group_norm_gradients(ctx: Any, grad_y: Tensor, kept: Any, relu: bool) -> tuple[Tensor | None, ...]:
    """grad_x, grad_weight, grad_bias, grad_residual, as wanted; kept is what `_setup_context` saves."""
    x_wanted, weight_wanted, bias_wanted, residual_wanted = ctx.needs_input_grad[:4]
    # Without a mask the residual's gradient is grad_y itself.
    wanted = [x_wanted, weight_wanted, bias_wanted, residual_wanted and relu]
    grad_x, grad_weight, grad_bias, grad_residual = group_norm_backward(grad_y, *kept, ctx.eps, relu, wanted)
    weight = kept[1]
    if weight_wanted and grad_weight.dtype != weight.dtype:  # `to` takes its time to find nothing to do
        grad_weight = grad_weight.to(weight.dtype)
    if bias_wanted and grad_bias.dtype != ctx.bias_dtype:
        grad_bias = grad_bias.to(ctx.bias_dtype)
    return (
        grad_x if x_wanted else None,
        grad_weight if weight_wanted else None,
        grad_bias if bias_wanted else None,
        (grad_residual if relu else grad_y) if residual_wanted else None,
    )


_group_norm = register(
    "group_norm",
    group_norm_reference,
    cpu=_forward_cpu,
    cuda=kernels.forward,
    fake=_fake,
    backward=_autograd,
    setup_context=_setup_context,
)
group_norm_apply = register(
    "group_norm_apply",
    _apply_reference,
    cpu=_apply_cpu,
    cuda=kernels.apply,
    fake=_fake_apply,
    backward=refuse(
        "videonorm::group_norm_apply is not differentiable; videonorm.ops.group_norm.group_norm is"
    ),
)
group_norm_backward = register(
    "group_norm_backward",
    _backward_reference,
    cpu=_backward_cpu,
    cuda=kernels.backward,
    fake=_fake_backward,
    backward=refuse(
        "videonorm::group_norm is differentiable once;"
        " videonorm.ops.group_norm.group_norm_reference has all derivatives"
    ),
)
