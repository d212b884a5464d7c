"""Offsets beyond 32 bits: the last block of tensors that are larger than memory.

Their pages exist once they are written to: only those of the last block are.
"""

import math
import mmap
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.kernels import weight_standardize as ws
from videonorm.kernels.group_norm import Params, Plan, plan_for

from .shim import Shim

MAP_NORESERVE = 0x4000  # on Linux; Python names it since 3.13
LAST_BLOCK = slice(-1, None)
FIRST_BLOCK = slice(1)  # of reductions, which go backwards: it has the end of the tensor
GROUPS = 4


def sparse(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros that take no memory until they are written to."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@dataclass
class Case:
    """A tensor in memory: (samples, sites, channels), or (samples, channels, sites)."""

    samples: int
    channels: int
    sites: int
    channels_last: bool
    vector: int

    def plan(self) -> Plan:
        multiprocessors = 2**30  # as many chunks as there is work for: they are small
        return plan_for(
            *(self.samples, self.channels, self.sites, GROUPS, torch.bfloat16),
            *(self.channels_last, self.vector, multiprocessors),
        )

    def tensor(self) -> Tensor:
        rows = (self.sites, self.channels) if self.channels_last else (self.channels, self.sites)
        tensor = sparse(self.samples, *rows, dtype=torch.bfloat16)
        assert tensor.numel() > 2**31 + 2**30
        return tensor

    def of_last_block(self, tensor: Tensor) -> Tensor:
        """(sites, channels) of the last block: a view."""
        params = self.plan().template
        first_site = (params.chunks - 1) * params.sites_per_chunk
        per_lane = self.vector if self.channels_last else 1
        first_channel = (params.columns - 1) * params.width * per_lane
        last = tensor[-1] if self.channels_last else tensor[-1].T
        return last[first_site:, first_channel:]


CASES = {
    "many_sites": Case(2, 16, 2**27 + 8 * 13, channels_last=False, vector=8),
    "many_sites_channels_last": Case(33, 4, 2**26 + 13, channels_last=True, vector=4),
    "sites_beyond_an_int": Case(1, 4, 2**31 + 8 * 13, channels_last=False, vector=8),
    "sites_beyond_an_int_channels_last": Case(1, 4, 2**31 + 13, channels_last=True, vector=4),
    "many_samples": Case(2**27 + 1, 16, 2, channels_last=False, vector=2),
    "many_samples_channels_last": Case(2**28 + 1, 16, 1, channels_last=True, vector=8),
    "many_channels_channels_last": Case(1, 2**29, 16, channels_last=True, vector=8),
}


@dataclass
class Launch:
    """The parameters of a launch, and the tensors that they point to."""

    params: Params
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, template: Params, **tensors: Tensor) -> "Launch":
        params = Params.from_buffer_copy(template)
        params.eps = 1e-5
        params.weight_is_float32 = params.bias_is_float32 = 1
        for name, tensor in tensors.items():
            setattr(params, name, tensor.data_ptr())
        return cls(params, tensors)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_passes(case):
    """All kernels, for the last block, by the definition."""
    shim, plan = Shim(), case.plan()
    big = {name: case.tensor() for name in ("x", "residual", "y", "grad_y", "grad_x", "grad_residual")}
    statistics = {name: sparse(case.samples, GROUPS) for name in ("mean", "rstd")}
    pairs = {"partial": sparse(case.samples, plan.template.chunks, case.channels, 2)}
    pairs["slopes"] = sparse(case.samples, GROUPS, 2)
    counters = sparse(plan.counters, dtype=torch.int32)  # only where nothing else is run is a block the last
    weight, bias = sparse(2, case.channels)
    launch = Launch.of(
        plan.template, **big, **statistics, **pairs, counters=counters, weight=weight, bias=bias
    )

    def start(kernel: str, shared_bytes: int) -> None:
        counters.zero_()
        shim.blocks = LAST_BLOCK if kernel.startswith(("apply", "grad_x")) else FIRST_BLOCK
        shim.launch(plan.unit, kernel, plan.grid, plan.block, shared_bytes, launch.params)

    of_block = {name: case.of_last_block(tensor) for name, tensor in big.items()}
    for name in ("x", "residual", "grad_y"):
        of_block[name].copy_(torch.randn(of_block[name].shape))
    x, residual, grad_y = (of_block[name].double() for name in ("x", "residual", "grad_y"))
    width = x.shape[1]
    groups = torch.arange(case.channels - width, case.channels) // (case.channels // GROUPS)
    weight[-width:], bias[-width:] = torch.randn(2, width)
    partial = pairs["partial"][-1, -1, -width:].T  # of the last block

    start("moments", plan.moments_bytes)
    close(partial, torch.stack([x.mean(0), x.var(0, unbiased=False) * len(x)]))

    statistics["mean"][-1], statistics["rstd"][-1] = torch.randn(GROUPS), torch.rand(GROUPS)
    mean, rstd = (values[-1, groups].double() for values in statistics.values())
    x_hat = (x - mean) * rstd
    z = x_hat * weight[-width:] + bias[-width:]
    for kernel, y in {
        "apply": z,
        "apply_relu": F.relu(z),
        "apply_add": z + residual,
        "apply_add_relu": F.relu(z + residual),  # the last one: sums_add_relu reads it
    }.items():
        start(kernel, 0)
        close(of_block["y"], y)

    passing = {"sums": torch.ones_like(z), "sums_relu": z > 0, "sums_add_relu": of_block["y"] > 0}
    for kernel, passes in passing.items():
        start(kernel, plan.sums_bytes)
        dz = grad_y * passes
        close(partial, torch.stack([dz.sum(0), (dz * x_hat).sum(0)]))
    close(of_block["grad_residual"], dz)

    pairs["slopes"][-1] = torch.randn(GROUPS, 2)
    slope, constant = pairs["slopes"][-1, groups].double().T
    for kernel, passes in {"grad_x": passing["sums"], "grad_x_relu": passing["sums_relu"]}.items():
        start(kernel, 0)
        dz = grad_y * passes
        close(of_block["grad_x"], rstd * weight[-width:] * dz + slope * (x - mean) + constant)


MERGES = {
    "many_samples": (2**28 + 1, 1, 16, 1),
    "many_channels": (3, 4, 2**30, 1),
    "long_chunks": (1, 4, 16, 2**30),
}


@pytest.mark.parametrize("samples, chunks, channels, sites_per_chunk", MERGES.values(), ids=MERGES)
def test_merges(samples, chunks, channels, sites_per_chunk):
    """moments and sums of the last block, whose tickets are the last ones; its chunk is of one site."""
    shim = Shim(blocks=FIRST_BLOCK)
    sites = (chunks - 1) * sites_per_chunk + 1
    assert samples * sites * channels > 2**31
    vector, per_group, groups = 8, 4, channels // 4
    width = min(32, channels // vector)
    columns = channels // (width * vector)  # and as many bands
    per_segment = min(2, chunks)
    segments = chunks // per_segment
    template = Params(
        sites=sites,
        sites_per_chunk=sites_per_chunk,
        samples=samples,
        channels=channels,
        places=channels,
        channels_per_group=per_group,
        chunks=chunks,
        columns=columns,
        width=width,
        depth=1,
        chunks_per_segment=per_segment,
        columns_per_band=1,
    )
    x, grad_y = (sparse(samples, sites, channels, dtype=torch.bfloat16) for _ in range(2))
    statistics = {name: sparse(samples, groups) for name in ("mean", "rstd")}
    partial, slopes, weight = (
        sparse(samples, chunks, channels, 2),
        sparse(samples, groups, 2),
        sparse(channels),
    )
    counters = sparse(columns * (1 + samples * (1 + segments)), dtype=torch.int32)
    few = samples < 10  # so that one block can add up all
    totals = {name: sparse(channels) for name in ("grad_weight", "grad_bias")} if few else {}
    launch = Launch.of(
        template,
        **statistics,
        **{"x": x, "grad_y": grad_y, "weight": weight, "partial": partial, "slopes": slopes},
        counters=counters,
        **totals,
    )
    unit = CASES["many_samples_channels_last"].plan().unit
    own = partial[-1, :, -per_group:]  # (chunks, channels of a group, 2)

    def start(kernel: str) -> None:
        counters[columns - 1], counters[-1] = samples - 1, per_segment - 1
        counters[columns * (1 + samples) - 1] = segments - 1
        shim.launch(unit, kernel, samples * columns * chunks, width, 4 * 3 * width, launch.params)

    x[-1, -1, -per_group:], grad_y[-1, -1, -per_group:] = torch.randn(2, per_group)
    weight[-per_group:] = torch.randn(per_group)
    last_x, last_grad = x[-1, -1, -per_group:].double(), grad_y[-1, -1, -per_group:].double()
    own.copy_(torch.randn(own.shape))
    own[..., 1].abs_()
    # Rows of the last segment are of a chunk, of each other one the first is of all.
    rows = [*range(0, chunks - per_segment, per_segment), *range(chunks - per_segment, chunks)]
    of_rows = [per_segment * sites_per_chunk] * (segments - 1) + [sites_per_chunk] * (per_segment - 1) + [1]
    shares = (torch.tensor(of_rows, dtype=torch.float64) / sites).unsqueeze(1)
    means, squares = own[rows].double().unbind(-1)
    means[-1], squares[-1] = last_x, 0
    start("moments")
    mean = (shares * means).sum() / per_group
    var = (squares / sites + shares * (means - mean) ** 2).sum() / per_group
    close(statistics["mean"][-1, -1], mean)
    close(statistics["rstd"][-1, -1], (var + 1e-5).rsqrt())

    own.copy_(torch.randn(own.shape))
    others = partial[:-1, 0, -per_group:] if few else partial[:0, 0, -per_group:]
    others.copy_(torch.randn(others.shape))
    mean, rstd = (values[-1, -1].double() for values in statistics.values())
    sums = own[rows].double()
    sums[-1] = torch.stack([last_grad, last_grad * (last_x - mean) * rstd], -1)
    sums = sums.sum(0)
    start("sums")
    gradient, projection = weight[-per_group:].double() @ sums
    want = torch.stack([-(rstd**2) * projection, -rstd * gradient]) / (sites * per_group)
    close(slopes[-1, -1], want)
    if few:
        bias, weight = (others.double().sum(0) + sums).T
        close(totals["grad_bias"][-per_group:], bias)
        close(totals["grad_weight"][-per_group:], weight)


def test_filters():
    """Weight standardization's last filter of more than 2**31 scalars."""
    shim = Shim(blocks=LAST_BLOCK)
    filters, n = 2**23 + 2**22, 256
    weight, w_hat, grad, grad_weight = (sparse(filters, n, dtype=torch.bfloat16) for _ in range(4))
    assert weight.numel() > 2**31 + 2**29
    weight[-1], grad[-1] = torch.randn(2, n)
    mean, var = sparse(filters), sparse(filters)
    unit = next(
        unit for unit in ws.units() if unit.macros == (("WEIGHT", "bfloat16"), ("OUTPUT", "bfloat16"))
    )
    params = ws.Params(mean.data_ptr(), var.data_ptr(), 0, 1, center=1, scale=1)
    addresses = [tensor.data_ptr() for tensor in (weight, grad_weight, w_hat, grad)]
    params.layer[0] = ws.Layer(addresses[0], 0, addresses[2], addresses[1], 0, n, 1, 1e-5, 1.0)
    shim.launch(unit, "weight_standardize", filters, ws.THREADS, ws.SHARED_BYTES, params)
    w = weight[-1].double().requires_grad_()
    want = F.layer_norm(w, (n,), eps=1e-5)
    close(w_hat[-1], want)
    params.layer[0].w_hat = addresses[3]
    shim.launch(unit, "weight_standardize_backward", filters, ws.THREADS, ws.SHARED_BYTES, params)
    close(grad_weight[-1], torch.autograd.grad(want, w, grad[-1].double())[0])


def close(got: Tensor, want: Tensor) -> None:
    tolerance = 1e-2 if got.dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(got.double(), want.detach(), rtol=tolerance, atol=tolerance)
