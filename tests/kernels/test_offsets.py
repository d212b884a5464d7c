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
    "many_samples": Case(2**27 + 1, 16, 2, channels_last=False, vector=2),
    "many_samples_channels_last": Case(2**28 + 1, 16, 1, channels_last=True, vector=8),
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


def check_passes(shim: Shim, case: Case) -> None:
    """moments, apply_add_relu, sums_add_relu, sums_relu and grad_x of the last block, by the definition."""
    plan = case.plan()
    big = {name: case.tensor() for name in ("x", "residual", "y", "grad_y", "grad_x", "grad_residual")}
    statistics = {name: sparse(case.samples, GROUPS) for name in ("mean", "rstd")}
    pairs = {"partial": sparse(case.samples, plan.template.chunks, case.channels, 2)}
    pairs["slopes"] = sparse(case.samples, GROUPS, 2)
    weight, bias = torch.randn(2, case.channels)
    launch = Launch.of(plan.template, **big, **statistics, **pairs, weight=weight, bias=bias)

    def start(kernel: str, shared_bytes: int) -> None:
        shim.launch(plan.unit, kernel, plan.pass_grid, plan.pass_block, shared_bytes, launch.params)

    of_block = {name: case.of_last_block(tensor) for name, tensor in big.items()}
    for name in ("x", "residual", "grad_y"):
        of_block[name].copy_(torch.randn(of_block[name].shape))
    x, residual, grad_y = (of_block[name].double() for name in ("x", "residual", "grad_y"))
    width = x.shape[1]
    partial = pairs["partial"][-1, -1, -width:].T  # of the last block

    start("moments", plan.moments_bytes)
    close(partial, torch.stack([x.mean(0), x.var(0, unbiased=False) * len(x)]))

    statistics["mean"][-1], statistics["rstd"][-1] = torch.randn(GROUPS), torch.rand(GROUPS)
    mean, rstd = (
        values[-1].repeat_interleave(case.channels // GROUPS)[-width:].double()
        for values in statistics.values()
    )
    x_hat = (x - mean) * rstd
    z = x_hat * weight[-width:] + bias[-width:]
    start("apply_add_relu", 0)
    close(of_block["y"], F.relu(z + residual))

    start("sums_add_relu", plan.sums_bytes)
    dz = grad_y * (of_block["y"] > 0)
    close(of_block["grad_residual"], dz)
    close(partial, torch.stack([dz.sum(0), (dz * x_hat).sum(0)]))
    start("sums_relu", plan.sums_bytes)
    dz = grad_y * (z > 0)
    close(partial, torch.stack([dz.sum(0), (dz * x_hat).sum(0)]))

    pairs["slopes"][-1] = torch.randn(GROUPS, 2)
    slope, constant = pairs["slopes"][-1].repeat_interleave(case.channels // GROUPS, 0)[-width:].double().T
    start("grad_x", 0)
    close(of_block["grad_x"], rstd * weight[-width:] * grad_y + slope * (x - mean) + constant)


def check_merges(shim: Shim, samples: int, chunks: int, channels: int) -> None:
    """merge_moments, merge_sums and add_samples of the last group; every chunk is of one site."""
    assert samples * chunks * channels > 2**31
    per_group, groups = 4, channels // 4
    depth = min(64, chunks)
    template = Params(
        sites=chunks,
        sites_per_chunk=1,
        samples=samples,
        channels=channels,
        channels_per_group=per_group,
        chunks=chunks,
        merge_width=per_group,
        merge_depth=depth,
    )
    statistics = {name: sparse(samples, groups) for name in ("mean", "rstd")}
    partial, sums = sparse(samples, chunks, channels, 2), sparse(samples, channels, 2)
    slopes, weight = sparse(samples, groups, 2), sparse(channels)
    totals = {name: sparse(channels) for name in ("grad_weight", "grad_bias")}
    launch = Launch.of(
        template, **statistics, partial=partial, sums=sums, slopes=slopes, weight=weight, **totals
    )
    unit, block = CASES["many_sites"].plan().unit, 256

    own = partial[-1, :, -per_group:]  # (chunks, channels of a group, 2)
    own.copy_(torch.randn(own.shape))
    own[..., 1].abs_()
    shim.launch(unit, "merge_moments", samples * groups, block, block // 32 * 4, launch.params)
    means, squares = own.double().unbind(-1)
    mean = means.mean()
    var = (squares + (means - mean) ** 2).mean()
    close(statistics["mean"][-1, -1], mean)
    close(statistics["rstd"][-1, -1], (var + 1e-5).rsqrt())

    weight[-per_group:] = torch.randn(per_group)
    shared_bytes = 4 * max(block // 32, (depth + 1) // 2 * per_group * 2)
    shim.launch(unit, "merge_sums", samples * groups, block, shared_bytes, launch.params)
    close(sums[-1, -per_group:], own.double().sum(0))
    gradient, projection = weight[-per_group:].double() @ own.double().sum(0)
    rstd = statistics["rstd"][-1, -1].double()
    want = torch.stack([-(rstd**2) * projection, -rstd * gradient]) / (chunks * per_group)
    close(slopes[-1, -1], want)

    if samples < 10:  # one thread adds up all samples of a channel
        sums[:, -per_group:] = torch.randn(samples, per_group, 2)
        shim.launch(unit, "add_samples", -(-channels // block), block, 0, launch.params)
        bias, weight = sums[:, -per_group:].double().sum(0).T
        close(totals["grad_bias"][-per_group:], bias)
        close(totals["grad_weight"][-per_group:], weight)


MERGES = {  # samples, chunks, channels
    "many_samples": (2**28 + 1, 1, 16),
    "many_channels": (3, 3, 2**30),
}


def check_filters(shim: Shim) -> None:
    """Weight standardization's last filter of more than 2**31 scalars."""
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_passes(case):
    check_passes(Shim(blocks=LAST_BLOCK), case)


@pytest.mark.parametrize("sizes", MERGES.values(), ids=MERGES)
def test_merges(sizes):
    check_merges(Shim(blocks=LAST_BLOCK), *sizes)


def test_filters():
    check_filters(Shim(blocks=LAST_BLOCK))
