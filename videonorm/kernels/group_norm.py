"""The launches of group_norm.cu that make a forward and a backward pass, and their geometry.

Shapes: x, residual, y and their gradients (B, C, ...); weight, bias (C,) in fp32 or the dtype of x; mean,
rstd (B, G) in fp32. ``layout`` says in what memory.
"""

import ctypes
import functools
import itertools
import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from videonorm.kernels.layout import ACCESS_BYTES, aligned_dense, aligned_in_order_of, in_one_run, in_order_of
from videonorm.kernels.unit import SCALARS, Machine, Unit

THREADS = 256  # of a block at most
LANES = 32  # channel vectors that a block takes at most: rows of 512 bytes
ACCESSES = 4  # of a thread at least, where there is so much to do
BLOCKS_PER_MULTIPROCESSOR = 6
MERGED_BY_A_BLOCK = 4 * 8 * THREADS  # pairs at most: its threads wait for 8 of them each, four times
MAX_BLOCKS = 2**31 - 1
MAX_FOLDED = 2**24  # channels of which several sites may be a row: places are counted in an int
MAX_CHUNK = 2**30  # sites; a thread counts its accesses in an int


class Params(ctypes.Structure):
    """The struct of that name in group_norm.cu."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("grad_y", ctypes.c_void_p),
        ("grad_x", ctypes.c_void_p),
        ("grad_residual", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("rstd", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("counters", ctypes.c_void_p),
        ("grad_weight", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
        ("sites", ctypes.c_longlong),
        ("sites_per_chunk", ctypes.c_int),
        ("samples", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("places", ctypes.c_int),
        ("channels_per_group", ctypes.c_int),
        ("chunks", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("width", ctypes.c_int),
        ("depth", ctypes.c_int),
        ("chunks_per_segment", ctypes.c_int),
        ("columns_per_band", ctypes.c_int),
        ("weight_is_float32", ctypes.c_int),
        ("bias_is_float32", ctypes.c_int),
        ("eps", ctypes.c_float),
    ]


ADDRESSES = struct.Struct("15P")  # those of Params, which one call writes faster than as many assignments


@dataclass(frozen=True)
class Geometry:
    """How a pass over a tensor is cut into blocks and threads; group_norm.cu says what the words mean."""

    columns: int
    width: int
    depth: int
    chunks: int
    sites_per_chunk: int


def geometry(
    samples: int, places: int, sites: int, *, channels_last: bool, vector: int, multiprocessors: int
) -> Geometry:
    """Blocks that fill the machine from one sample, with rows of memory as long as a warp reads at once.

    Raises:
        ValueError: there are more blocks than a grid holds.
    """
    if channels_last:
        vectors = places // vector
        columns = -(-vectors // LANES)
        width = -(-vectors // columns)  # alike in all columns: then they hold whole groups more often, too
        depth = min(THREADS // width, sites)
        sites_per_step = depth
    else:
        accesses = sites // vector
        depth = min(THREADS, 2 ** math.ceil(math.log2(accesses)))
        width = min(THREADS // depth, places)
        columns = -(-places // width)
        sites_per_step = depth * vector
    wanted = multiprocessors * BLOCKS_PER_MULTIPROCESSOR // (samples * columns)
    chunks = max(1, min(wanted, sites // (sites_per_step * ACCESSES)), -(-sites // MAX_CHUNK))
    sites_per_chunk = -(-sites // chunks)
    if not channels_last:
        sites_per_chunk = -(-sites_per_chunk // vector) * vector
    chunks = -(-sites // sites_per_chunk)
    _check_grid(samples, columns * chunks)
    return Geometry(columns, width, depth, chunks, sites_per_chunk)


def _check_grid(samples: int, blocks: int) -> None:
    if samples * blocks > MAX_BLOCKS:
        raise ValueError(f"batch size ({samples}) must leave at most {MAX_BLOCKS} blocks to launch")


def units() -> list[Unit]:
    """Every variant."""
    return [
        _unit(dtype, vector, channels_last)
        for dtype, channels_last in itertools.product(SCALARS, (True, False))
        for vector in (1, 2, 4, 8)
        if vector * dtype.itemsize <= ACCESS_BYTES
    ]


@functools.cache  # one object: dictionaries find it without comparing macros
def _unit(dtype: torch.dtype, vector: int, channels_last: bool) -> Unit:
    macros = (
        ("SCALAR", SCALARS[dtype]),
        ("VECTOR", str(vector)),
        ("CHANNELS_LAST", str(int(channels_last))),
    )
    return Unit("group_norm.cu", macros)


@dataclass(frozen=True)
class Plan:
    """All of a call that does not depend on where its tensors are."""

    unit: Unit
    template: Params  # without addresses
    grid: int
    block: int
    moments_bytes: int  # of shared memory, as the next
    sums_bytes: int
    partials: int  # pairs of floats
    counters: int


def plan_for(
    samples: int,
    channels: int,
    sites: int,
    groups: int,
    dtype: torch.dtype,
    channels_last: bool,
    vector: int,
    multiprocessors: int,
) -> Plan:
    """How to launch the kernels for a tensor.

    Raises:
        ValueError: there are more blocks than a grid holds.
    """
    _check_grid(samples, groups)
    sites_of_row = vector // math.gcd(vector, channels) if channels_last else 1
    places, sites = channels * sites_of_row, sites // sites_of_row
    cut = geometry(
        samples, places, sites, channels_last=channels_last, vector=vector, multiprocessors=multiprocessors
    )
    per_group = channels // groups
    slots = vector if channels_last else 1
    places_of_column = cut.width * slots
    columns_per_band = cut.columns  # the fewest with whole groups: where places are channels, maybe not all
    if sites_of_row == 1:
        columns_per_band = min(math.lcm(places_of_column, per_group) // places_of_column, cut.columns)
    bands = -(-cut.columns // columns_per_band)
    pairs_of_band = cut.chunks * min(columns_per_band * places_of_column, places)
    chunks_per_segment = 1 if pairs_of_band <= MERGED_BY_A_BLOCK else math.isqrt(cut.chunks - 1) + 1
    counters = bands  # with three numbers of blocks that meet there: a counter for one is not used
    if cut.chunks > 1 or columns_per_band > 1:
        counters += samples * bands
    if chunks_per_segment > 1:
        counters += samples * cut.columns * -(-cut.chunks // chunks_per_segment)
    block = cut.width * cut.depth
    to_merge = (cut.depth + 1) // 2 * cut.width  # records of a block's threads, in shared memory at a time
    return Plan(
        unit=_unit(dtype, vector, channels_last),
        template=Params(
            sites=sites,
            sites_per_chunk=cut.sites_per_chunk,
            samples=samples,
            channels=channels,
            places=places,
            channels_per_group=per_group,
            chunks=cut.chunks,
            columns=cut.columns,
            width=cut.width,
            depth=cut.depth,
            chunks_per_segment=chunks_per_segment,
            columns_per_band=columns_per_band,
        ),
        grid=samples * cut.columns * cut.chunks,
        block=block,
        moments_bytes=4 * max(to_merge * (2 * slots + 1), block * 3),
        sums_bytes=4 * max(to_merge * 2 * slots, block * 2),
        partials=samples * cut.chunks * places,
        counters=counters,
    )


@functools.lru_cache(maxsize=4096)  # to look it up is cheaper than to work it out at every call
def _plan_of_shape(
    shape: torch.Size,
    num_groups: int,
    is_contiguous: bool,
    dtypes: tuple[torch.dtype, torch.dtype | None, torch.dtype | None],  # of x, weight and bias
    eps: float,
    multiprocessors: int,
) -> Plan:
    """The plan for dense x; it and all that is read or written beside it begins where any access may."""
    samples, channels, *sizes = shape
    dtype, weight_dtype, bias_dtype = dtypes
    sites = math.prod(sizes)
    channels_last = sites == 1 or not is_contiguous
    row = sites if not channels_last else channels * sites if channels <= MAX_FOLDED else channels
    # An access is a power of two of bytes that divides the rows of memory.
    bits = row * dtype.itemsize | ACCESS_BYTES
    vector = (bits & -bits) // dtype.itemsize
    plan = plan_for(samples, channels, sites, num_groups, dtype, channels_last, vector, multiprocessors)
    plan.template.weight_is_float32 = weight_dtype == torch.float32
    plan.template.bias_is_float32 = bias_dtype == torch.float32
    plan.template.eps = eps
    return plan


def _plan(
    machine: Machine, x: Tensor, mean: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Plan:
    weight_dtype = None if weight is None else weight.dtype
    bias_dtype = None if bias is None else bias.dtype
    dtypes = x.dtype, weight_dtype, bias_dtype
    return _plan_of_shape(x.shape, mean.shape[1], x.is_contiguous(), dtypes, eps, machine.multiprocessors)


def forward(
    machine: Machine,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    num_groups: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.ops.videonorm.group_norm``: y, mean and rstd."""
    # Two numbers are read in half the time that a tuple of them takes.
    mean = x.new_empty(x.shape[0], num_groups, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    y = _normalize(machine, x, weight, bias, residual, mean, rstd, eps, relu, is_first=True)
    return y, mean, rstd


def apply(
    machine: Machine,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    relu: bool,
) -> Tensor:
    """``torch.ops.videonorm.group_norm_apply``: to the bit what `forward` returned with the statistics."""
    return _normalize(machine, x, weight, bias, residual, mean, rstd, eps, relu, is_first=False)


APPLY = {  # by whether there is a residual, and a ReLU
    (False, False): "apply",
    (False, True): "apply_relu",
    (True, False): "apply_add",
    (True, True): "apply_add_relu",
}


def _normalize(
    machine: Machine,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    relu: bool,
    is_first: bool,
) -> Tensor:
    """y; if it is the first time, the statistics too, into the tensors given."""
    source = aligned_dense(x)
    weight = None if weight is None else in_one_run(weight)
    bias = None if bias is None else in_one_run(bias)
    residual = None if residual is None else aligned_in_order_of(source, residual)
    y = torch.empty_like(source)
    plan = _plan(machine, source, mean, weight, bias, eps)
    params = Params.from_buffer_copy(plan.template)
    ADDRESSES.pack_into(
        params,
        0,
        source.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        y.data_ptr(),
        *(0, 0, 0),  # gradients
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        *(0, 0, 0, 0, 0),
    )
    if is_first:
        partial, counters = mean.new_empty(plan.partials * 2), machine.counters(plan.counters)
        params.partial, params.counters = partial.data_ptr(), counters.address
        machine.launch(plan.unit, "moments", plan.grid, plan.block, plan.moments_bytes, params)
    machine.launch(plan.unit, APPLY[residual is not None, relu], plan.grid, plan.block, 0, params)
    return y if source is x else in_order_of(x, y)


def backward(
    machine: Machine,
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
    """``torch.ops.videonorm.group_norm_backward``: those gradients that are wanted, the others empty.

    Args:
        y: given where there were a residual and a ReLU; without it a ReLU's mask is computed from x.
    """
    x_wanted, weight_wanted, bias_wanted, residual_wanted = wanted
    source = aligned_dense(x)
    grad_y = aligned_in_order_of(source, grad_y)
    weight = None if weight is None else in_one_run(weight)
    bias = None if bias is None else in_one_run(bias)
    empty = grad_x = grad_weight = grad_bias = grad_residual = mean.new_empty(0)
    if x_wanted:
        grad_x = torch.empty_like(source)
    if weight_wanted or bias_wanted:  # each is come upon by the way to the other
        channels = x.shape[1]
        grad_weight, grad_bias = mean.new_empty(channels), mean.new_empty(channels)  # faster than two views
    kernel, last_kernel = "sums_relu" if relu else "sums", "grad_x_relu" if relu else "grad_x"
    if y is not None:
        y, grad_residual = aligned_in_order_of(source, y), torch.empty_like(source)
        kernel, last_kernel = "sums_add_relu", "grad_x"
    plan = _plan(machine, source, mean, weight, bias, eps)
    scratch, counters = mean.new_empty((plan.partials + mean.numel()) * 2), machine.counters(plan.counters)
    partial = scratch.data_ptr()
    params = Params.from_buffer_copy(plan.template)
    ADDRESSES.pack_into(
        params,
        0,
        source.data_ptr(),
        0,  # the residual
        0 if y is None else y.data_ptr(),
        grad_y.data_ptr(),
        grad_x.data_ptr(),
        grad_residual.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        partial,
        partial + plan.partials * 8,
        counters.address,
        grad_weight.data_ptr(),
        grad_bias.data_ptr(),
    )
    machine.launch(plan.unit, kernel, plan.grid, plan.block, plan.sums_bytes, params)
    if x_wanted:
        if y is not None:  # masked already
            params.grad_y = grad_residual.data_ptr()
        machine.launch(plan.unit, last_kernel, plan.grid, plan.block, 0, params)
    if source is not x:
        grad_x = in_order_of(x, grad_x) if x_wanted else empty
        grad_residual = in_order_of(x, grad_residual) if residual_wanted else empty
    return (
        grad_x,
        grad_weight if weight_wanted else empty,
        grad_bias if bias_wanted else empty,
        grad_residual if residual_wanted else empty,
    )
