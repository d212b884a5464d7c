import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from videonorm import files
from videonorm.kernels import compiler
from videonorm.kernels.compiler import Compiled, Usage, compile, target_for
from videonorm.kernels.unit import KernelError, Unit

pytest.importorskip("cuda.core")

SOURCE = """
#include "factor.cuh"
struct Params { const SCALAR* x; SCALAR* y; };
extern "C" __global__ void scale(const Params p) { p.y[threadIdx.x] = FACTOR * p.x[threadIdx.x]; }
extern "C" __global__ void reverse(const Params p) {
    __shared__ SCALAR values[32];
    values[threadIdx.x] = p.x[threadIdx.x];
    __syncthreads();
    p.y[threadIdx.x] = values[31 - threadIdx.x];
}
// Holds more values at a time than 1024 threads of a block have registers for.
extern "C" __global__ void __launch_bounds__(1024) crowd(const Params p) {
    SCALAR values[100];
#pragma unroll
    for (int i = 0; i < 100; ++i) values[i] = p.x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 100; ++i) p.y[i * 1024 + threadIdx.x] = values[99 - i] * values[i / 2];
}
"""


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unit:
    """A kernel file outside the package; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 2\n")
    return Unit(str(tmp_path / "tiny.cu"), (("SCALAR", "float"),))


def cache_files() -> list[Path]:
    return list((files.cache_folder() / "kernels").iterdir())


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """What NVRTC was asked for, in order."""
    asked = []

    def count(unit: Unit, target: str, *args: object) -> Compiled:
        asked.append(unit)
        return Compiled(target, b"cubin\n\x00", "a\nlog")

    monkeypatch.setattr(compiler, "_compile", count)
    return asked


def test_kernels_and_what_they_use(unit):
    cubin = compile(unit, "sm_90")
    assert cubin.code.startswith(b"\x7fELF")
    assert list(cubin.kernels) == ["crowd", "reverse", "scale"]
    assert cubin.kernels["reverse"].shared_bytes == 32 * 4
    assert cubin.kernels["crowd"].registers == 64 and cubin.kernels["crowd"].spill_bytes > 0
    for name in ("reverse", "scale"):
        usage = cubin.kernels[name]
        assert 0 < usage.registers < 64 and usage.stack_bytes == usage.spill_bytes == 0


@pytest.mark.parametrize("margin", ["    ", "ptxas         .     "])  # nvcc's, and NVRTC 13's
def test_usage_of_a_log(margin):
    log = (
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function 'sums' for 'sm_80'\n"
        "ptxas info    : Function properties for sums\n"
        f"{margin}16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 1024 bytes smem, 400 bytes cmem[0]\n"
        "ptxas info    : Compiling entry function 'apply' for 'sm_80'\n"
        "ptxas info    : Function properties for apply\n"
        f"{margin}0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 32 registers, 400 bytes cmem[0]\n"
    )
    assert Compiled("sm_80", b"", log).kernels == {
        "apply": Usage(registers=32, shared_bytes=0, stack_bytes=0, spill_bytes=0),
        "sums": Usage(registers=255, shared_bytes=1024, stack_bytes=16, spill_bytes=20),
    }


def test_an_error_shows_the_compilers_own(unit):
    Path(unit.source).write_text("nonsense;")
    with pytest.raises(
        KernelError, match=r"(?s)tiny.cu SCALAR=float could not be compiled for sm_90.*nonsense"
    ):
        compile(unit, "sm_90")
    with pytest.raises(KernelError, match="sm_12"):
        compile(unit, "sm_12")


@pytest.mark.parametrize(
    ("arch", "target"),
    [
        ("sm_90", "sm_90"),
        ("sm_120", "sm_120"),
        ("sm_103", "compute_100"),  # not of 120, which is newer than the GPU
        ("sm_130", "compute_120"),
        ("sm_75", "sm_75"),  # NVRTC refuses
    ],
)
def test_ptx_for_an_architecture_that_nvrtc_does_not_know(monkeypatch, arch, target):
    monkeypatch.setattr(compiler, "nvrtc_architectures", lambda: (80, 90, 100, 120))
    assert target_for(arch) == target


def test_architectures_of_nvrtc():
    assert {80, 90, 100, 120} <= set(compiler.nvrtc_architectures())


def test_ptx_of_the_newest_that_nvrtc_knows(unit, monkeypatch):
    from cuda.bindings import driver

    monkeypatch.setattr(compiler, "nvrtc_architectures", lambda: (80, 90))
    # cuda.core asks whether the driver is as new as the PTX, and fails where there is none.
    monkeypatch.setattr(driver, "cuDriverGetVersion", lambda: (driver.CUresult.CUDA_SUCCESS, 99000))
    compiled = compile(unit, "sm_130")
    assert compiled.is_ptx and compiled.target == "compute_90" and not compiled.kernels
    assert b".target sm_90\n" in compiled.code and b".visible .entry scale(" in compiled.code
    (path,) = cache_files()
    assert path.name.startswith("tiny.compute_90.")
    monkeypatch.setattr(compiler, "_compile", None)  # not called again
    assert compile(unit, "sm_120") == compiled  # PTX is the same for whatever is newer
    assert compiler._unpack("compute_90", path.read_bytes()) == compiled


def test_compiled_once(unit, compilations):
    first = compile(unit, "sm_90")
    assert compile(unit, "sm_90") == first
    assert len(compilations) == len(cache_files()) == 1


def test_compiled_again_when_anything_differs(unit, compilations, monkeypatch):
    compile(unit, "sm_90")
    source = Path(unit.source)

    def change_the_source():
        source.write_text(SOURCE + "//")

    def change_the_header():
        source.with_name("factor.cuh").write_text('#define FACTOR 3\n#include "deeper.cuh"\n')

    def change_the_headers_header():
        source.with_name("deeper.cuh").write_text("//")

    for change in (change_the_source, change_the_header, change_the_headers_header):
        change()
        before = len(compilations)
        compile(unit, "sm_90")
        compile(unit, "sm_90")
        assert len(compilations) == before + 1, change.__name__
    before = len(compilations)
    compile(unit, "sm_80")
    compile(Unit(unit.source, (("SCALAR", "double"),)), "sm_90")
    monkeypatch.setitem(compiler.OPTIONS, "use_fast_math", True)
    compile(unit, "sm_90")
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: "99.0")
    compile(unit, "sm_90")
    assert len(compilations) == before + 4


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:20], lambda data: data[:-1], lambda data: b"x" + data[1:]],
    ids=["empty", "short", "truncated", "changed"],
)
def test_a_damaged_cache_file_is_made_again(unit, compilations, damage):
    whole = compile(unit, "sm_90")
    (path,) = cache_files()
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert compile(unit, "sm_90") == whole
    assert len(compilations) == 2
    assert path.read_bytes() == data


def test_a_cache_that_cannot_be_used_is_a_warning(unit, compilations, tmp_path, monkeypatch):
    compiler._warn_not_kept.cache_clear()
    (tmp_path / "file").touch()
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(tmp_path / "file")
    )  # for root too, no folder can be made in a file
    with pytest.warns(UserWarning, match="not kept for the next run: Not a directory") as warned:
        first = compile(unit, "sm_90")
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile(unit, "sm_90") == first
    assert len(compilations) == 2


def test_a_failed_write_leaves_nothing_behind(unit, compilations, monkeypatch):
    compiler._warn_not_kept.cache_clear()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        compile(unit, "sm_90")
    assert not cache_files()


def test_without_nvrtc(unit, monkeypatch):
    compiler.nvrtc_version.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(KernelError, match="NVRTC could not be loaded: "):
        compile(unit, "sm_90")


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_at_once(unit, count):
    script = f"""
from videonorm.kernels.compiler import compile
from videonorm.kernels.unit import Unit
print("ready", flush=True)
input()
cubin = compile({unit!r}, "sm_90")
assert list(cubin.kernels) == ["crowd", "reverse", "scale"]
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == [""] * count
    assert [process.returncode for process in processes] == [0] * count
    (path,) = cache_files()
    assert compiler._unpack("sm_90", path.read_bytes()) is not None


def test_first_use_in_several_threads(unit):
    script = f"""
from concurrent.futures import ThreadPoolExecutor
from videonorm.kernels.compiler import compile
from videonorm.kernels.unit import Unit
with ThreadPoolExecutor(4) as pool:
    cubins = list(pool.map(lambda arch: compile({unit!r}, arch), ["sm_80", "sm_86", "sm_89", "sm_90"]))
assert len(set(cubin.code for cubin in cubins)) == 4
"""
    subprocess.run([sys.executable, "-c", script], check=True)
