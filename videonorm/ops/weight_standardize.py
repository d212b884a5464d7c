"""Weight standardization of convolution filters: schema, reference, implementation, fake, autograd.

Source: Qiao et al., "Weight Standardization", arXiv:1903.10520, and the formulas that other code calls by
that name (layers/ws_conv.py lists them). Every filter, a slice weight[o] of n numbers, is mapped to

    w_hat = multiplier * gain[o] * (w - mean(w)) * r

where, with the biased or unbiased variance `var` of the filter, r is by `eps_placement`

    "under_root"   1 / sqrt(var + eps)
    "on_std"       1 / (sqrt(var) + eps)
    "floor"        1 / sqrt(max(var, eps))

Without `center` the mean is not subtracted; without `scale` r is 1. The arithmetic is fp32 (fp64 for fp64
weights), and the memory format of the weight is kept.

Shapes: weight (C_out, C_in / groups, k_T, k_H, k_W) or any (C_out, ...); gain, mean, var (C_out,).
CPU and CUDA run the same composite of PyTorch operations.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from videonorm.ops.registration import register

EpsPlacement = Literal["under_root", "on_std", "floor"]


def weight_standardize(
    weight: Tensor,
    gain: Tensor | None = None,
    *,
    center: bool = True,
    scale: bool = True,
    unbiased: bool = False,
    eps: float = 1e-10,
    eps_placement: EpsPlacement = "under_root",
    multiplier: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standardize every filter of a convolution weight. The defaults are Big Transfer's (arXiv:1912.11370).

    Args:
        weight: (C_out, C_in / groups, k_T, k_H, k_W), or any (C_out, ...) with at least 2 numbers a filter.
        gain: (C_out,) or None for 1.
        center: subtract the filter's mean.
        scale: divide by the filter's standard deviation (about its mean, with and without `center`).
        unbiased: divide the sum of squares by n - 1 instead of n.
        eps: in squared weight units; in weight units for "on_std".
        eps_placement: where eps enters, see above.
        multiplier: a constant factor of every filter.
        dtype: of the result; that of weight if None. An autocast convolution's own dtype saves its cast.

    Returns:
        w_hat with the shape and memory format of weight. Differentiable once.
    """
    if weight.dim() < 2 or not weight.is_floating_point():
        raise ValueError(
            f"weight (shape {tuple(weight.shape)}, {weight.dtype}) must be (C_out, ...) in floating point"
        )
    if fan_in(weight) < 2:
        raise ValueError(f"fan-in ({fan_in(weight)}) must be at least 2 to standardize a filter")
    if gain is not None and gain.shape != weight.shape[:1]:
        raise ValueError(f"gain (shape {tuple(gain.shape)}) must have the shape ({weight.shape[0]},)")
    if gain is not None and gain.device != weight.device:
        raise ValueError(f"gain (on {gain.device}) must be on the device of weight ({weight.device})")
    if eps_placement not in get_args(EpsPlacement):
        raise ValueError(f"eps_placement ({eps_placement!r}) must be one of {get_args(EpsPlacement)}")
    w_hat: Tensor = torch.ops.videonorm.weight_standardize(
        weight, gain, center, scale, unbiased, eps, eps_placement, multiplier, dtype or weight.dtype
    )[0]
    return w_hat


def fan_in(weight: Tensor) -> int:
    """n = C_in / groups * k_T * k_H * k_W: how many numbers a filter has."""
    return math.prod(weight.shape[1:])


def weight_standardize_reference(
    weight: Tensor,
    gain: Tensor | None,
    center: bool,
    scale: bool,
    unbiased: bool,
    eps: float,
    eps_placement: str,
    multiplier: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in differentiable PyTorch, with the operator's own signature: w_hat, mean, var."""
    w = weight.to(_compute_dtype(weight))
    var, mean = torch.var_mean(w, dim=_filter(w), correction=int(unbiased), keepdim=True)
    w_hat = (w - mean if center else w) * multiplier
    if scale:
        w_hat = w_hat * _inverse_std(var, eps, eps_placement)
    if gain is not None:
        w_hat = w_hat * _per_filter(gain, w)
    return w_hat.to(dtype), mean.flatten(), var.flatten()


def _forward(
    weight: Tensor,
    gain: Tensor | None,
    center: bool,
    scale: bool,
    unbiased: bool,
    eps: float,
    eps_placement: str,
    multiplier: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in few passes. torch's var_mean would walk the filters number by number on CPU."""
    w = weight.to(_compute_dtype(weight))
    mean = w.mean(_filter(w), keepdim=True)
    centered = w - mean
    var = centered.square().mean(_filter(w), keepdim=True)
    if unbiased:
        var *= fan_in(weight) / (fan_in(weight) - 1)
    factor = torch.full_like(var, multiplier)
    if scale:
        factor *= _inverse_std(var, eps, eps_placement)
    if gain is not None:
        factor *= _per_filter(gain, w)
    w_hat = centered.mul_(factor) if center else w * factor
    return w_hat.to(dtype), mean.flatten(), var.flatten()


def _backward(
    grad_w_hat: Tensor,
    weight: Tensor,
    gain: Tensor | None,
    mean: Tensor,
    var: Tensor,
    center: bool,
    scale: bool,
    unbiased: bool,
    eps: float,
    eps_placement: str,
    multiplier: float,
) -> tuple[Tensor, Tensor]:
    """The derivative, written out. With g = grad_w_hat * multiplier * gain, u = w - mean, k = n or n - 1:

        grad_w = r (g - mean(g)) + 2 / k * dr/dvar * sum(g u) * (w - mean)

    Without `center`, u = w and mean(g) is left out; without `scale`, r = 1 and dr/dvar = 0.
    """
    w, grad = weight.to(mean.dtype), grad_w_hat.to(mean.dtype)
    mean, var = _per_filter(mean, w), _per_filter(var, w)
    centered = w - mean
    projection = (grad * (centered if center else w)).sum(_filter(w), keepdim=True)
    r = _inverse_std(var, eps, eps_placement) if scale else torch.ones_like(var)
    factor = torch.full_like(var, multiplier)
    grad_gain = mean.new_empty(0)
    if gain is not None:
        grad_gain = (projection * r * multiplier).flatten()
        factor *= _per_filter(gain, w)
    slope = torch.zeros_like(var)
    if scale:
        slope = _inverse_std_slope(var, r, eps, eps_placement) * projection * factor
        slope *= 2 / (fan_in(weight) - int(unbiased))
    factor *= r
    # What passes through the mean or the variance sums to 0 over a filter; taking the sum out at the end also
    # takes out what the rounding of the mean has put in.
    grad_w = centered.mul_(slope)
    if center:
        grad_w.addcmul_(grad, factor)
    grad_w -= grad_w.mean(_filter(w), keepdim=True)
    if not center:
        grad_w.addcmul_(grad, factor)
    return grad_w.to(weight.dtype), grad_gain


def _inverse_std(var: Tensor, eps: float, eps_placement: str) -> Tensor:
    if eps_placement == "under_root":
        return torch.rsqrt(var + eps)
    if eps_placement == "on_std":
        return 1 / (torch.sqrt(var) + eps)
    return torch.rsqrt(var.clamp(min=eps))


def _inverse_std_slope(var: Tensor, r: Tensor, eps: float, eps_placement: str) -> Tensor:
    """dr / dvar. It multiplies w - mean, so any finite value will do for a filter of variance 0."""
    if eps_placement == "under_root":
        return -0.5 * r**3
    if eps_placement == "on_std":
        return torch.where(var > 0, -0.5 * r**2 * torch.rsqrt(var), 0)
    return torch.where(var > eps, -0.5 * r**3, 0)


def _compute_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _filter(w: Tensor) -> list[int]:
    return list(range(1, w.dim()))


def _per_filter(values: Tensor, like: Tensor) -> Tensor:
    """(C_out,) as (C_out, 1, 1, ...), in the dtype of `like`."""
    return values.to(like.dtype).view(-1, *(1 for _ in like.shape[1:]))


def _fake(weight: Tensor, gain: Tensor | None, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, dtype = options
    mean = weight.new_empty(weight.shape[0], dtype=_compute_dtype(weight))
    return torch.empty_like(weight, dtype=dtype), mean, torch.empty_like(mean)


def _fake_backward(
    grad_w_hat: Tensor, weight: Tensor, gain: Tensor | None, mean: Tensor, var: Tensor, *options: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), mean.new_empty(0 if gain is None else gain.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, gain, *ctx.options, _dtype = inputs
    _w_hat, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, gain, mean, var)


def _autograd(
    ctx: Any, grad_w_hat: Tensor | None, _grad_mean: None, _grad_var: None
) -> tuple[Tensor | None, ...]:
    if grad_w_hat is None:
        return (None,) * 9
    weight, gain, mean, var = ctx.saved_tensors
    grad_weight, grad_gain = torch.ops.videonorm.weight_standardize_backward(
        grad_w_hat, weight, gain, mean, var, *ctx.options
    )
    return grad_weight, None if gain is None else grad_gain.to(gain.dtype), *(None for _ in range(7))


def _refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "videonorm::weight_standardize is differentiable once;"
        " videonorm.ops.weight_standardize_reference has all derivatives"
    )


register(
    "weight_standardize(Tensor weight, Tensor? gain, bool center, bool scale, bool unbiased, float eps,"
    " str eps_placement, float multiplier, ScalarType dtype) -> (Tensor w_hat, Tensor mean, Tensor var)",
    cpu=_forward,
    cuda=_forward,
    fake=_fake,
    backward=_autograd,
    setup_context=_setup_context,
)
# grad_gain has the dtype of mean, and is empty where there is no gain.
register(
    "weight_standardize_backward(Tensor grad_w_hat, Tensor weight, Tensor? gain, Tensor mean, Tensor var,"
    " bool center, bool scale, bool unbiased, float eps, str eps_placement, float multiplier)"
    " -> (Tensor grad_weight, Tensor grad_gain)",
    cpu=_backward,
    cuda=_backward,
    fake=_fake_backward,
    backward=_refuse_double_backward,
)
