"""The launches of weight_standardize.cu, each over a table of layers.

Shapes: a weight is (C_out, ...), a gain (C_out,); mean, var and grad_gain hold all filters of all layers.
``layout`` says in what memory: there, each filter is one run of it.
"""

import ctypes
import functools
import itertools
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videonorm.kernels.layout import ACCESS_BYTES, dense, in_one_run, in_order_of
from videonorm.kernels.unit import SCALARS, Machine, Unit

THREADS = 128
SHARED_BYTES = THREADS // 32 * 3 * 4  # three sums a warp
MAX_LAYERS = 70  # of a launch: the table travels in the 4 KB of its parameters

EPS_PLACEMENTS = {"under_root": 0, "on_std": 1, "floor": 2}


class Layer(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("gain", ctypes.c_void_p),
        ("w_hat", ctypes.c_void_p),
        ("grad_weight", ctypes.c_void_p),
        ("first_filter", ctypes.c_int),
        ("n", ctypes.c_int),
        ("vectorized", ctypes.c_int),
        ("eps", ctypes.c_float),
        ("multiplier", ctypes.c_float),
    ]


class Params(ctypes.Structure):
    _fields_ = [
        ("mean", ctypes.c_void_p),
        ("var", ctypes.c_void_p),
        ("grad_gain", ctypes.c_void_p),
        ("layers", ctypes.c_int),
        ("center", ctypes.c_int),
        ("scale", ctypes.c_int),
        ("unbiased", ctypes.c_int),
        ("eps_placement", ctypes.c_int),
        ("layer", Layer * MAX_LAYERS),
    ]


LAYER = "PPPPiiiff4x"  # Layer for `struct`, which fills a table in one call
assert struct.calcsize(LAYER) == ctypes.sizeof(Layer)


def units() -> list[Unit]:
    """Every variant."""
    return [_unit(weight, output) for weight, output in itertools.product(SCALARS, repeat=2)]


def forward(
    machine: Machine, weights: Sequence[Tensor], gains: Sequence[Tensor], *options_and_dtype: Any
) -> tuple[list[Tensor], Tensor, Tensor]:
    """``torch.ops.videonorm.weight_standardize``: w_hats, mean and var."""
    *options, dtype = options_and_dtype
    sources = list(map(dense, weights))
    w_hats = [torch.empty_like(source, dtype=dtype) for source in sources]
    mean = weights[0].new_empty(sum(weight.shape[0] for weight in weights), dtype=torch.float32)
    var = torch.empty_like(mean)
    _launch(machine, "weight_standardize", (sources, gains, w_hats, []), (mean, var, None), *options)
    return _as_in(weights, sources, w_hats), mean, var


def backward(
    machine: Machine,
    grad_w_hats: Sequence[Tensor],
    weights: Sequence[Tensor],
    gains: Sequence[Tensor],
    mean: Tensor,
    var: Tensor,
    *options: Any,
) -> tuple[list[Tensor], Tensor]:
    """``torch.ops.videonorm.weight_standardize_backward``: grad_weights and grad_gain."""
    sources = list(map(dense, weights))
    grads = list(map(in_order_of, sources, grad_w_hats))
    grad_weights = [torch.empty_like(source) for source in sources]
    grad_gain = mean.new_empty(mean.numel() if gains else 0)
    tensors, per_filter = (sources, gains, grads, grad_weights), (mean, var, grad_gain if gains else None)
    _launch(machine, "weight_standardize_backward", tensors, per_filter, *options)
    return _as_in(weights, sources, grad_weights), grad_gain


def _launch(
    machine: Machine,
    kernel: str,
    tensors: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    per_filter: tuple[Tensor, Tensor, Tensor | None],
    center: bool,
    scale: bool,
    unbiased: bool,
    eps: Sequence[float],
    eps_placement: str,
    multipliers: Sequence[float],
) -> None:
    """Launch `kernel` for all layers, MAX_LAYERS at a time.

    Args:
        tensors: weights; gains, or none; w_hats or their gradients; grad_weights, or none.
        per_filter: mean, var, grad_gain.
        others: the operators' options.
    """
    weights, gains, w_hats, grad_weights = tensors
    gains = [in_one_run(gain.float()) for gain in gains]  # they live until the launch
    weight_dtype, output_dtype = weights[0].dtype, w_hats[0].dtype
    unit = _unit(weight_dtype, output_dtype)
    vector = ACCESS_BYTES // max(weight_dtype.itemsize, output_dtype.itemsize)  # as in the kernel file
    weight_bytes, output_bytes = vector * weight_dtype.itemsize, vector * output_dtype.itemsize
    options = center, scale, unbiased, EPS_PLACEMENTS[eps_placement]
    done = 0  # filters, by earlier launches
    for begin in range(0, len(weights), MAX_LAYERS):
        end = min(begin + MAX_LAYERS, len(weights))
        rows: list[float] = []
        filters = 0
        for index in range(begin, end):
            weight = weights[index]
            filters_of_layer = weight.shape[0]
            n = weight.numel() // filters_of_layer
            source, w_hat = weight.data_ptr(), w_hats[index].data_ptr()
            gain = gains[index].data_ptr() if gains else 0
            grad = grad_weights[index].data_ptr() if grad_weights else 0
            vectorized = not ((source | grad) % weight_bytes or w_hat % output_bytes or n % vector)
            rows += (source, gain, w_hat, grad, filters, n, vectorized, eps[index], multipliers[index])
            filters += filters_of_layer
        params = Params(*(_address(values, done) for values in per_filter), end - begin, *options)
        struct.pack_into(LAYER * (end - begin), params, Params.layer.offset, *rows)
        machine.launch(unit, kernel, filters, THREADS, SHARED_BYTES, params)
        done += filters


@functools.cache
def _unit(weight: torch.dtype, output: torch.dtype) -> Unit:
    return Unit("weight_standardize.cu", (("WEIGHT", SCALARS[weight]), ("OUTPUT", SCALARS[output])))


def _address(tensor: Tensor | None, index: int) -> int:
    return 0 if tensor is None else tensor.data_ptr() + index * tensor.itemsize


def _as_in(weights: Sequence[Tensor], sources: Sequence[Tensor], results: list[Tensor]) -> list[Tensor]:
    """The results, which lie as the sources do, as the weights do."""
    return [
        result if source is weight else in_order_of(weight, result)
        for weight, source, result in zip(weights, sources, results, strict=True)
    ]
