"""Every variant of every kernel file, compiled for data-centre and consumer GPUs of four generations."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from videonorm import files
from videonorm.kernels import units
from videonorm.kernels.compiler import compile
from videonorm.kernels.unit import Unit
from videonorm.machine import available_cores

pytest.importorskip("cuda.core")

REGISTERS = 65536  # of a multiprocessor
THREADS = 256  # at most, of a block


def least_blocks(unit: Unit, arch: str) -> int:
    """That a multiprocessor must have room for."""
    bfloat16 = unit.source == "group_norm.cu" and ("SCALAR", "bfloat16") in unit.macros
    return 3 if bfloat16 and arch not in ("sm_100", "sm_120") else 2


FURTHER = [pytest.param(arch, marks=pytest.mark.slow) for arch in ("sm_75", "sm_90", "sm_100", "sm_120")]


@pytest.mark.parametrize("arch", ["sm_80", *FURTHER])
def test_no_variant_spills_or_crowds_a_multiprocessor(arch, monkeypatch):
    # A cache of the tests' own. What is in it was made of these very files, options and NVRTC.
    monkeypatch.setenv("XDG_CACHE_HOME", str(files.cache_folder() / "tests"))
    with ThreadPoolExecutor(available_cores()) as pool:  # NVRTC releases the interpreter lock
        cubins = list(pool.map(lambda unit: compile(unit, arch), units()))
    assert all(cubin.kernels for cubin in cubins)
    too_much = [
        f"{name} of {unit}: {usage}"
        for unit, cubin in zip(units(), cubins, strict=True)
        for name, usage in cubin.kernels.items()
        if usage.spill_bytes
        or usage.stack_bytes
        or least_blocks(unit, arch) * THREADS * -(-usage.registers // 8) * 8 > REGISTERS
    ]
    assert not too_much, "\n".join(too_much)
