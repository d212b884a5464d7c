"""The CPU as a machine: right kernels run, and what is wrong with others shows."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from videonorm.kernels.unit import Unit

from .shim import Shim, changed

HEAD = """
#include "scalar.cuh"
struct Params { const void* x; void* y; int n; };
extern "C" __global__ void __launch_bounds__(1024) kernel(const Params p) {
    const float* x = static_cast<const float*>(p.x) + blockIdx.x * blockDim.x;
    float* y = static_cast<float*>(p.y);
    const unsigned thread = threadIdx.x;
"""

BLOCK_SUM = """
    extern __shared__ float shared[];
    shared[thread] = x[thread];
    __syncthreads();
    for (unsigned live = blockDim.x; live > 1;) {
        const unsigned half = (live + 1) / 2;
        if (thread < live - half) shared[thread] += shared[thread + half];
        __syncthreads();
        live = half;
    }
    if (thread == 0) y[blockIdx.x] = shared[0];
"""

WARP_SUMS = """
    float sum = x[thread];
    for (int lanes = 16; lanes; lanes /= 2) {
        const float other = __shfl_xor_sync(0xffffffff, sum, lanes);
        if ((thread ^ lanes) < blockDim.x) sum += other;
    }
    if (thread % 32 == 0) y[blockIdx.x * ((blockDim.x + 31) / 32) + thread / 32] = sum;
"""


class Params(ctypes.Structure):
    _fields_ = [("x", ctypes.c_void_p), ("y", ctypes.c_void_p), ("n", ctypes.c_int)]


Run = Callable[..., Tensor]


def write(folder: Path, body: str) -> str:
    file = folder / "test.cu"
    file.write_text(f"{HEAD}{body}}}")
    return str(file)


@pytest.fixture
def run(tmp_path) -> Run:
    def run(
        body, x, outputs=1, *, block, grid=1, shared_bytes=None, macros=(), shim=None, dtype=torch.float32
    ):
        y = torch.zeros(outputs, dtype=dtype)
        params = Params(x.data_ptr(), y.data_ptr(), x.numel())
        shared_bytes = 4 * block if shared_bytes is None else shared_bytes
        unit = Unit(write(tmp_path, body), macros)
        (shim or Shim()).launch(unit, "kernel", grid, block, shared_bytes, params)
        return y

    return run


@pytest.mark.parametrize("block", [1, 5, 32, 240, 256, 1024])
def test_sum_of_a_block(run, block):
    x = torch.randn(7, block)
    torch.testing.assert_close(run(BLOCK_SUM, x, 7, block=block, grid=7), x.sum(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("block", [1, 5, 32, 240, 256])
def test_sums_of_warps(run, block):
    x = torch.randn(3, block)
    warps = [warp.sum() for row in x for warp in row.split(32)]
    y = run(WARP_SUMS, x, len(warps), block=block, grid=3)
    torch.testing.assert_close(y, torch.stack(warps), rtol=0, atol=1e-4)


def test_halves_of_a_warp_shuffle_apart(run):
    body = """
        const unsigned mask = thread < 16 ? 0x0000ffff : 0xffff0000;
        y[thread] = thread < 16 ? __shfl_xor_sync(mask, x[thread], 1) : __shfl_xor_sync(mask, x[thread], 2);
    """
    lanes = torch.arange(32)
    y = run(body, lanes.float(), 32, block=32)
    assert y.tolist() == torch.where(lanes < 16, lanes ^ 1, lanes ^ 2).tolist()


def test_a_lane_that_does_not_exist_gives_nan(run):
    y = run("y[thread] = __shfl_xor_sync(0xffffffff, x[thread], 4);", torch.ones(5), 5, block=5)
    assert y.isnan().tolist() == [False, True, True, True, False]


def test_shared_memory_is_nan_at_the_start_of_each_block(run):
    body = "y[blockIdx.x * blockDim.x + thread] = shared[thread]; shared[thread] = 1;"
    assert run(body, torch.zeros(0), 3 * 64, block=64, grid=3).isnan().all()


@pytest.mark.parametrize("barrier", [0, 1])
def test_missing_barrier_is_seen(run, barrier):
    x = torch.randn(4, 256)
    y = run(BLOCK_SUM, x, 4, block=256, grid=4, shim=Shim(edit=changed("__syncthreads();", "", barrier)))
    assert not torch.allclose(y, x.sum(1), atol=1e-4)


TWO_SUMS = """
    extern __shared__ float shared[];
    auto block_sum = [&](float value) {
        for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffff, value, lanes);
        if (thread % 32 == 0) shared[thread / 32] = value;
        __syncthreads();
        float sum = 0;
        for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp];
        __syncthreads();
        return sum;
    };
    const float sum = block_sum(x[thread]);
    y[blockIdx.x * blockDim.x + thread] = block_sum(2 * x[thread]) - sum;
"""


def test_warp_that_runs_ahead_is_seen(run):
    """It overwrites what others have not read, once there is no barrier behind the reads."""

    x = torch.ones(8, 256)
    for seed in range(4):
        assert (run(TWO_SUMS, x, x.numel(), block=256, grid=8, shim=Shim(seed)) == 256).all()
    wrong = Shim(edit=changed("__syncthreads();", "", 1))  # the last
    assert not (run(TWO_SUMS, x, x.numel(), block=256, grid=8, shim=wrong) == 256).all()


@pytest.mark.parametrize("index", ["threadIdx", "blockIdx"])
def test_order_depends_on_the_seed(run, index):
    shims = [Shim(seed) for seed in (0, 0, 1, 2)]
    last = [run(f"*y = {index}.x;", torch.zeros(0), block=256, grid=8, shim=shim).item() for shim in shims]
    assert last[0] == last[1]
    assert len(set(last)) > 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "if (thread == 7) return;\n__syncthreads();",
            r"^kernel: test\.cu:9: thread 0 of block 0 waits at this barrier for thread 7, which has exited$",
        ),
        (
            "if (thread == 7)\n__syncthreads();\nelse\n__syncthreads();",
            r":11: thread 0 of block 0 waits at this barrier for thread 7, which waits at test\.cu:9$",
        ),
        (
            "if (thread == 40) return;\n__shfl_xor_sync(0xffffffff, 1, 1);",
            r"test\.cu:9: thread 32 of block 0 waits at this shuffle for thread 40, which has exited$",
        ),
        (
            "if (thread == 40)\n__syncthreads();\nelse\n__shfl_xor_sync(0xffffffff, 1, 1);",
            r":11: thread 32 of block 0 waits at this shuffle for thread 40, which waits at test\.cu:9$",
        ),
        ("__shfl_xor_sync(0xff, 1, 1);", r"test\.cu:8: thread \d+ is not in the mask of its own shuffle$"),
        ("shared[thread + 1] = 0;", "block 0 wrote behind its 256 bytes of shared memory$"),
        (
            "struct alignas(16) Four { float at[4]; };\n*y = reinterpret_cast<const Four*>(x + 1)->at[0];",
            r"test\.cu:9: thread \d+ of block 0 accesses 0x[0-9a-f]+, which is misaligned$",
        ),
        (
            "float two[2] = {};\nfor (int i = 0; i <= p.n / 32; ++i) two[i] = 1;",
            r"test\.cu:9: thread \d+ of block \d+ goes to 2 in an array that is shorter$",
        ),
    ],
)
def test_errors_of_kernels(run, body, message):
    with pytest.raises(RuntimeError, match=message):
        run(body, torch.zeros(64), block=64)
    x = torch.randn(64)  # and the machine goes on
    torch.testing.assert_close(run(BLOCK_SUM, x, block=64), x.sum()[None])


def test_shared_memory_has_to_be_dynamic(run):
    with pytest.raises(RuntimeError, match="g\\+\\+ cannot compile .*test.cu"):
        run("__shared__ float sums[8]; sums[0] = 0;", torch.zeros(0), block=1)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"grid": 0}, r"^grid \(0\) must be"),
        ({"block": 1025}, r"^block \(1025\) must be"),
        ({"shared_bytes": 6}, r"^shared_bytes \(6\) must be"),
        ({"shared_bytes": 228 * 1024}, r"^shared_bytes \(233472\) must be"),
    ],
)
def test_errors_of_launches(run, geometry, message):
    with pytest.raises(RuntimeError, match=message):
        run("", torch.zeros(0), **{"block": 32, **geometry})


def test_params_of_another_size(tmp_path):
    class Longer(ctypes.Structure):
        _fields_ = [*Params._fields_, ("eps", ctypes.c_double)]

    message = r"^Longer \(32 bytes\) must be Params of .*test.cu \(24 bytes\)$"
    with pytest.raises(RuntimeError, match=message):
        Shim().launch(Unit(write(tmp_path, ""), ()), "kernel", 1, 32, 0, Longer())


def test_no_compiler(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"^g\+\+ was not found: it is needed to run kernels on the CPU$"):
        run("// never compiled before", torch.zeros(0), block=32)


# ------------------------------------------------------------------------------------------- scalar.cuh

CONVERT = """
    for (int i = blockIdx.x * blockDim.x + thread; i < p.n; i += gridDim.x * blockDim.x)
        static_cast<TO*>(p.y)[i] = narrow<TO>(widen(static_cast<const FROM*>(p.x)[i]));
"""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def assert_same_numbers(got: Tensor, expected: Tensor) -> None:
    """To the bit, but for what NaNs carry."""
    numbers = ~expected.isnan()
    assert torch.equal(got.isnan(), ~numbers)
    bits = torch.int32 if got.dtype == torch.float32 else torch.int16
    assert torch.equal(got[numbers].view(bits), expected[numbers].view(bits))


@pytest.mark.parametrize("name", DTYPES)
def test_widen_every_number(run, name):
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(DTYPES[name])
    macros = (("FROM", name), ("TO", "float32"))
    assert_same_numbers(run(CONVERT, x, len(x), block=256, grid=8, macros=macros), x.float())


@pytest.mark.parametrize("name", DTYPES)
def test_narrow(run, name):
    dtype = DTYPES[name]
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    ordered = every[every.isfinite()].double().sort().values
    ties = ((ordered[1:] + ordered[:-1]) / 2).float().view(torch.int32)
    random = torch.randint(-(2**31), 2**31, (2**18,), generator=torch.Generator().manual_seed(0)).to(
        torch.int32
    )
    special = torch.tensor(
        [0x7F800001, 0x7FFFFFFF, 0x7FC00000, 0x7F800000, 0x7F7FFFFF, 1, 0], dtype=torch.int32
    )
    x = torch.cat(
        [ties - 1, ties, ties + 1, every.float().view(torch.int32), random, special, special | -(2**31)]
    )
    x = x.view(torch.float32)
    y = run(CONVERT, x, len(x), block=256, grid=8, macros=(("FROM", "float32"), ("TO", name)), dtype=dtype)
    assert_same_numbers(y, x.to(dtype))


# ------------------------------------------------------------------------------------------------- ASan

ASAN = """
import ctypes, torch
from shim import Shim
from videonorm.kernels.unit import Unit

class Params(ctypes.Structure):
    _fields_ = [("x", ctypes.c_void_p), ("y", ctypes.c_void_p), ("n", ctypes.c_int)]

x, y = torch.ones(4 * 256), torch.zeros(4)
params = Params(x.data_ptr(), y.data_ptr(), 0)
for off_by in "01":
    Shim(asan=True).launch(Unit({file!r}, (("OFF_BY", off_by),)), "kernel", 4, 256, 1024, params)
    print(y.tolist(), flush=True)
"""


def test_asan_sees_one_scalar_too_many(run_with_asan, tmp_path):
    file = write(tmp_path, BLOCK_SUM.replace("x[thread]", "x[thread + OFF_BY]"))
    process = run_with_asan(ASAN.format(file=file))
    assert process.returncode
    assert process.stdout == "[256.0, 256.0, 256.0, 256.0]\n", process.stderr
    assert "heap-buffer-overflow" in process.stderr
    assert "in kernel" in process.stderr and "test.cu:10" in process.stderr
