"""The launches of weight_standardize.cu, each over a table of layers.

Shapes: a weight is (C_out, ...), a gain (C_out,); mean, var and grad_gain hold all filters of all layers.
``layout`` says in what memory: there, each filter is one run of it.
"""

import ctypes
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videonorm.kernels.layout import ACCESS_BYTES, aligned, dense, in_order_of
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


class Row(NamedTuple):
    """A layer of the table, by its tensors. They live until the launch."""

    weight: Tensor
    gain: Tensor | None
    w_hat: Tensor  # or its gradient
    grad_weight: Tensor | None


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
    rows = list(map(Row, sources, _vectors(gains), w_hats, itertools.repeat(None)))
    _launch(machine, "weight_standardize", rows, (mean, var, None), *options)
    return list(map(in_order_of, weights, w_hats)), mean, var


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
    grad_gain = mean.new_empty(len(mean) if gains else 0)
    rows = list(map(Row, sources, _vectors(gains), grads, grad_weights))
    _launch(machine, "weight_standardize_backward", rows, (mean, var, grad_gain if gains else None), *options)
    return list(map(in_order_of, weights, grad_weights)), grad_gain


def _launch(
    machine: Machine,
    kernel: str,
    rows: Sequence[Row],
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
        per_filter: mean, var, grad_gain.
        others: the operators' options.
    """
    weight_dtype, output_dtype = rows[0].weight.dtype, rows[0].w_hat.dtype
    unit = _unit(weight_dtype, output_dtype)
    vector = ACCESS_BYTES // max(weight_dtype.itemsize, output_dtype.itemsize)  # as in the kernel file
    options = center, scale, unbiased, EPS_PLACEMENTS[eps_placement]
    layers = list(zip(rows, eps, multipliers, strict=True))
    done = 0  # filters, by earlier launches
    for begin in range(0, len(layers), MAX_LAYERS):
        table, filters = layers[begin : begin + MAX_LAYERS], 0
        params = Params(*(_address(values, done) for values in per_filter), len(table), *options)
        for index, (row, *numbers) in enumerate(table):
            weight, gain, w_hat, grad_weight = map(_address, row)
            filters_of_layer = row.weight.shape[0]
            n = row.weight.numel() // filters_of_layer
            misaligned = (
                (weight | grad_weight) % (vector * weight_dtype.itemsize)
                or w_hat % (vector * output_dtype.itemsize)
                or n % vector
            )
            params.layer[index] = Layer(
                weight, gain, w_hat, grad_weight, filters, n, not misaligned, *numbers
            )
            filters += filters_of_layer
        machine.launch(unit, kernel, filters, THREADS, SHARED_BYTES, params)
        done += filters


def _unit(weight: torch.dtype, output: torch.dtype) -> Unit:
    return Unit("weight_standardize.cu", (("WEIGHT", SCALARS[weight]), ("OUTPUT", SCALARS[output])))


def _address(tensor: Tensor | None, index: int = 0) -> int:
    return 0 if tensor is None else tensor.data_ptr() + index * tensor.itemsize


def _vectors(gains: Sequence[Tensor]) -> Iterable[Tensor | None]:
    """The gains as the kernels read them; None for every layer where there are none."""
    return [aligned(gain.float().contiguous()) for gain in gains] if gains else itertools.repeat(None)
