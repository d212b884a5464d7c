"""Weight standardization of convolution filters: schema, reference, fake, autograd.

Source: Qiao et al., "Weight Standardization", arXiv:1903.10520, and the formulas that other code calls by
that name (layers/ws_conv.py lists them). Every filter, a slice weight[o] of n numbers, is mapped to

    w_hat = multiplier * gain[o] * (w - mean(w)) * r

where, with the biased or unbiased variance `var` of the filter, r is by `eps_placement`

    "under_root"   1 / sqrt(var + eps)
    "on_std"       1 / (sqrt(var) + eps)
    "floor"        1 / sqrt(max(var, eps))

Without `center` the mean is not subtracted; without `scale` r is 1. The arithmetic is fp32 (fp64 for fp64
weights), and the memory format of the weight is kept.

An operator takes the weights of many layers, which share the options but not eps and multiplier: those may
depend on the fan-in. Gains are of all layers, or none, for autograd of torch.library sees no tensors in a
list that holds a None.

Shapes: weight (C_out, C_in / groups, k_T, k_H, k_W) or any (C_out, ...); gain (C_out,). The operators' mean,
var and grad_gain hold the filters of all layers, one layer after the other.
CPU tensors go through the reference; CUDA tensors to kernels/weight_standardize.cu.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from videonorm.kernels import weight_standardize as kernels
from videonorm.ops.registration import needs_reference, refuse, register

EpsPlacement = Literal["under_root", "on_std", "floor"]
PLACEMENTS = get_args(EpsPlacement)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Formula(NamedTuple):
    """What becomes of the filters of one convolution; by default, Big Transfer's (arXiv:1912.11370)."""

    center: bool = True  # subtract the filter's mean
    scale: bool = True  # divide by the filter's standard deviation: about its mean, with and without `center`
    unbiased: bool = False  # divide the sum of squares by n - 1 instead of n
    eps_placement: EpsPlacement = "under_root"  # where eps enters, see above
    eps: float = 1e-10  # in squared weight units; in weight units for "on_std"
    multiplier: float = 1.0  # a constant factor of every filter


BIG_TRANSFER = Formula()


def weight_standardize(
    weight: Tensor,
    gain: Tensor | None = None,
    formula: Formula = BIG_TRANSFER,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standardize every filter of a convolution weight.

    Args:
        weight: (C_out, C_in / groups, k_T, k_H, k_W), or any (C_out, ...) with at least 2 numbers a filter.
        gain: (C_out,) or None for 1.
        dtype: of the result; that of weight if None. An autocast convolution's own dtype saves its cast.

    Returns:
        w_hat with the shape and memory format of weight. Differentiable once; within torch.func's transforms
        and in forward mode, where the reference runs, any number of times.
    """
    (w_hat,) = weight_standardize_layers([weight], [] if gain is None else [gain], [formula], dtype)
    return w_hat


def weight_standardize_layers(
    weights: Sequence[Tensor],
    gains: Sequence[Tensor],
    formulas: Sequence[Formula],
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """`weight_standardize` of many weights at once, on a GPU in one launch. The same to the bit.

    Args:
        weights: of one dtype and on one device.
        gains: one for each weight; empty for 1.
        formulas: one for each weight. They differ in eps and multiplier alone.
        dtype: of the results; that of the weights if None.
    """
    dtype = dtype or weights[0].dtype
    _check(weights, gains, formulas, dtype)
    center, scale, unbiased, eps_placement, _, _ = formulas[0]
    eps, multipliers = [f.eps for f in formulas], [f.multiplier for f in formulas]
    operator = weight_standardize_reference if needs_reference() else _weight_standardize
    w_hats: list[Tensor] = operator(
        weights, gains, center, scale, unbiased, eps, eps_placement, multipliers, dtype
    )[0]
    return w_hats


def _check(
    weights: Sequence[Tensor],
    gains: Sequence[Tensor],
    formulas: Sequence[Formula],
    output_dtype: torch.dtype,
) -> None:
    same = formulas[0][:4]
    if formulas[0].eps_placement not in PLACEMENTS:
        raise ValueError(f"eps_placement ({formulas[0].eps_placement!r}) must be one of {PLACEMENTS}")
    if len(formulas) != len(weights) or any(formula[:4] != same for formula in formulas):
        raise ValueError(
            f"formulas ({', '.join(map(str, formulas))}) must be one for each weight ({len(weights)}),"
            " and differ in eps and multiplier alone"
        )
    dtype, device = weights[0].dtype, weights[0].device
    for weight in weights:
        shape = weight.shape
        if len(shape) < 2 or shape[0] == 0 or weight.dtype not in DTYPES:
            raise ValueError(
                f"weight (shape {tuple(shape)}, {weight.dtype}) must be (C_out, ...) with"
                f" C_out at least 1, of one of {DTYPES}"
            )
        if weight.numel() < 2 * shape[0]:
            raise ValueError(f"fan-in ({fan_in(weight)}) must be at least 2 to standardize a filter")
        if weight.dtype != dtype or weight.device != device:
            raise ValueError(
                f"weight ({weight.dtype} on {weight.device}) must have the dtype and device of the first one"
                f" ({dtype} on {device})"
            )
    if output_dtype not in DTYPES:
        raise ValueError(f"dtype ({output_dtype}) must be one of {DTYPES}")
    if gains and len(gains) != len(weights):
        raise ValueError(
            f"gains ({len(gains)} tensors) must be one for each weight ({len(weights)}), or none"
        )
    for weight, gain in zip(weights, gains, strict=False):
        if gain.shape != weight.shape[:1]:
            raise ValueError(f"gain (shape {tuple(gain.shape)}) must have the shape ({weight.shape[0]},)")
        if gain.device != device:
            raise ValueError(f"gain (on {gain.device}) must be on the device of weight ({device})")


def fan_in(weight: Tensor) -> int:
    """n = C_in / groups * k_T * k_H * k_W: how many numbers a filter has."""
    return math.prod(weight.shape[1:])


# ------------------------------------------------------------------------------------------- the definition
# The references' signatures are the operators' schemas.


def weight_standardize_reference(
    weights: Sequence[Tensor],
    gains: Sequence[Tensor],
    center: bool,
    scale: bool,
    unbiased: bool,
    eps: Sequence[float],
    eps_placement: str,
    multipliers: Sequence[float],
    dtype: torch.dtype,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The definition in differentiable PyTorch: w_hats, mean, var."""
    w_hats, means, variances = [], [], []
    for index, weight in enumerate(weights):
        w = weight.to(_compute_dtype(weight))
        # Not torch.var_mean, which walks the filters number by number on a CPU.
        mean = w.mean(_filter(w), keepdim=True)
        # Twice: what the rounding of the mean leaves is as large as all of a filter that is constant.
        rest = _mean_left(w - mean)
        centered = w - mean - rest
        mean = mean + rest
        var = centered.square().mean(_filter(w), keepdim=True)
        if unbiased:
            var = var * (fan_in(weight) / (fan_in(weight) - 1))
        factor = torch.full_like(var, multipliers[index])
        if scale:
            factor = factor * _inverse_std(var, eps[index], eps_placement)
        if gains:
            factor = factor * _per_filter(gains[index], w)
        w_hats.append(((centered if center else w) * factor).to(dtype))
        means.append(mean.flatten())
        variances.append(var.flatten())
    return w_hats, torch.cat(means), torch.cat(variances)


def _backward_reference(
    grad_w_hats: Sequence[Tensor],
    weights: Sequence[Tensor],
    gains: Sequence[Tensor],
    mean: Tensor,
    var: Tensor,
    center: bool,
    scale: bool,
    unbiased: bool,
    eps: Sequence[float],
    eps_placement: str,
    multipliers: Sequence[float],
) -> tuple[list[Tensor], Tensor]:
    """The derivative, written out. With g = grad_w_hat * multiplier * gain, u = w - mean, k = n or n - 1:

        grad_w = r (g - mean(g)) + 2 / k * dr/dvar * sum(g u) * (w - mean)

    Without `center`, u = w and mean(g) is left out; without `scale`, r = 1 and dr/dvar = 0.

    Returns:
        grad_weights, and grad_gain in the dtype of mean, empty where there are no gains.
    """
    grad_weights, grad_gains = [], []
    filters = list(map(len, weights))
    statistics = zip(torch.split(mean, filters), torch.split(var, filters), strict=True)
    for index, (weight, (mean_of_layer, var_of_layer)) in enumerate(zip(weights, statistics, strict=True)):
        w, grad = weight.to(mean.dtype), grad_w_hats[index].to(mean.dtype)
        v = _per_filter(var_of_layer, w)
        centered = w - _per_filter(mean_of_layer, w)
        centered -= _mean_left(centered)
        projection = (grad * (centered if center else w)).sum(_filter(w), keepdim=True)
        r = _inverse_std(v, eps[index], eps_placement) if scale else torch.ones_like(v)
        factor = torch.full_like(v, multipliers[index])
        grad_gains.append((projection * r * factor).flatten())
        if gains:
            factor *= _per_filter(gains[index], w)
        slope = torch.zeros_like(v)
        if scale:
            slope = _inverse_std_slope(v, r, eps[index], eps_placement) * projection * factor
            slope *= 2 / (fan_in(weight) - int(unbiased))
        factor *= r
        # What passes through the mean or the variance sums to 0 over a filter; taking the sum out at the end
        # also takes out what the rounding of the mean has put in.
        grad_w = centered.mul_(slope)
        if center:
            grad_w.addcmul_(grad, factor)
        grad_w -= grad_w.mean(_filter(w), keepdim=True)
        if not center:
            grad_w.addcmul_(grad, factor)
        grad_weights.append(grad_w.to(weight.dtype))
    return grad_weights, torch.cat(grad_gains) if gains else mean.new_empty(0)


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


def _mean_left(centered: Tensor) -> Tensor:
    """The mean of filters without their mean: of an infinite filter 0, as there is nothing to make good."""
    mean = centered.mean(_filter(centered), keepdim=True)
    return torch.where(mean.isfinite(), mean, 0)


def _per_filter(values: Tensor, like: Tensor) -> Tensor:
    """(C_out,) as (C_out, 1, 1, ...), in the dtype of `like`."""
    return values.to(like.dtype).view(-1, *(1 for _ in like.shape[1:]))


# ------------------------------------------------------------------------- fake, autograd and registration


def _fake(weights: list[Tensor], gains: list[Tensor], *options: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    *_, dtype = options
    mean = weights[0].new_empty(sum(map(len, weights)), dtype=_compute_dtype(weights[0]))
    return [torch.empty_like(weight, dtype=dtype) for weight in weights], mean, torch.empty_like(mean)


def _fake_backward(
    grad_w_hats: list[Tensor], weights: list[Tensor], gains: list[Tensor], mean: Tensor, *rest: Any
) -> tuple[list[Tensor], Tensor]:
    return list(map(torch.empty_like, weights)), torch.empty_like(mean) if gains else mean.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor, Tensor]) -> None:
    weights, gains, *ctx.options, _dtype = inputs
    _w_hats, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(mean, var, *weights, *gains)


def _autograd(ctx: Any, grad_w_hats: list[Tensor | None], _mean: None, _var: None) -> tuple[Any, ...]:
    mean, var, *tensors = ctx.saved_tensors
    count = len(grad_w_hats)
    weights, gains = tensors[:count], tensors[count:]
    center, scale, unbiased, eps, eps_placement, multipliers = ctx.options
    # A layer that did not take part in the loss gets no gradient, as it would alone.
    part = [index for index, grad in enumerate(grad_w_hats) if grad is not None]
    grad_weights: list[Tensor | None] = [None] * count
    grad_gains: list[Tensor | None] = [None] * len(gains)
    if part and len(part) < count:
        filters = [weight.shape[0] for weight in weights]
        mean, var = (torch.cat(_take(values.split(filters), part)) for values in (mean, var))
        lists = (grad_w_hats, weights, gains, eps, multipliers)
        grad_w_hats, weights, gains, eps, multipliers = (
            _take(values, part) if values else [] for values in lists
        )
    if part:
        options = center, scale, unbiased, eps, eps_placement, multipliers
        grads, grad_gain = _weight_standardize_backward(grad_w_hats, weights, gains, mean, var, *options)
        for index, grad in zip(part, grads, strict=True):
            grad_weights[index] = grad
        if gains:
            filters = [weight.shape[0] for weight in weights]
            for index, gain, grad in zip(part, gains, grad_gain.split(filters), strict=True):
                grad_gains[index] = grad.to(gain.dtype)
    return grad_weights, grad_gains, *(None for _ in range(7))


def _take(values: Sequence[Any], indices: list[int]) -> list[Any]:
    return [values[index] for index in indices]


_weight_standardize = register(
    "weight_standardize",
    weight_standardize_reference,
    cpu=weight_standardize_reference,
    cuda=kernels.forward,
    fake=_fake,
    backward=_autograd,
    setup_context=_setup_context,
)
_weight_standardize_backward = register(
    "weight_standardize_backward",
    _backward_reference,
    cpu=_backward_reference,
    cuda=kernels.backward,
    fake=_fake_backward,
    backward=refuse(
        "videonorm::weight_standardize is differentiable once;"
        " videonorm.ops.weight_standardize.weight_standardize_reference has all derivatives"
    ),
)
