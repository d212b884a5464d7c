"""The launcher, with the driver and the device replaced."""

import ctypes
import pickle
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from videonorm.kernels import gpu as module
from videonorm.kernels.compiler import Compiled
from videonorm.kernels.gpu import Gpu, KernelError, gpu
from videonorm.kernels.unit import Unit

driver = pytest.importorskip("cuda.bindings.driver")
cuda_core = pytest.importorskip("cuda.core")

UNIT = Unit("group_norm.cu", (("SCALAR", "bfloat16"),))
OTHER = Unit("group_norm.cu", (("SCALAR", "float32"),))


class Params(ctypes.Structure):
    _fields_ = [("x", ctypes.c_void_p), ("sites", ctypes.c_longlong), ("eps", ctypes.c_float)]


class Machine:
    """Two GPUs as torch and the driver show them, and what was asked of the driver."""

    def __init__(self) -> None:
        self.current = 0
        self.capturing = False
        self.status = driver.CUresult.CUDA_SUCCESS
        self.loading_status = driver.CUresult.CUDA_SUCCESS
        self.capability = 9, 0
        self.streams = [0x100, 0x200]
        self.contexts: dict[int, object] = {threading.get_ident(): 0xC}  # by thread
        self.target = "sm_90"
        self.mode: object = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
        self.compiled: list[tuple[Unit, str]] = []
        self.loaded: list[tuple[str, str]] = []
        self.launches: list[SimpleNamespace] = []

    def properties(self, index: int) -> SimpleNamespace:
        major, minor = self.capability
        return SimpleNamespace(name="GeForce", major=major, minor=minor, multi_processor_count=132)

    def device(self, index: int) -> "Switch":
        return Switch(self, index)

    def compile(self, unit: Unit, arch: str) -> Compiled:
        self.compiled.append((unit, arch))
        kind = "ptx" if self.target.startswith("compute_") else "cubin"
        return Compiled(self.target, f"{kind} of {unit}".encode(), "")

    def from_ptx(self, code: bytes) -> SimpleNamespace:
        assert code.startswith(b"ptx")
        return self.module(code)

    def from_cubin(self, code: bytes) -> SimpleNamespace:
        assert code.startswith(b"cubin")
        return self.module(code)

    def module(self, code: bytes) -> SimpleNamespace:
        def get_kernel(name: str) -> SimpleNamespace:
            # What is loaded now would end another thread's capture in any other mode.
            assert self.mode == driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            self.loaded.append((code.decode(), name))
            return SimpleNamespace(handle=(code, name))

        return SimpleNamespace(get_kernel=get_kernel)

    def kernel_function(self, handle: tuple[bytes, str]) -> tuple[object, ...]:
        return self.loading_status, (self.current, *handle)

    def exchange_mode(self, mode: object) -> tuple[object, object]:
        before, self.mode = self.mode, mode
        return driver.CUresult.CUDA_SUCCESS, before

    def set_context(self, context: object) -> None:
        self.contexts[threading.get_ident()] = context

    def launch(self, function, *rest):
        assert self.contexts[threading.get_ident()]
        *sizes, shared_bytes, stream, arguments, extra = rest
        pointer = ctypes.c_void_p.from_address(arguments).value
        params = ctypes.string_at(pointer, ctypes.sizeof(Params))
        self.launches.append(
            SimpleNamespace(
                function=function,
                sizes=sizes,
                shared_bytes=shared_bytes,
                stream=stream,
                params=params,
                extra=extra,
            )
        )
        return (self.status,)


class Switch:
    def __init__(self, machine: Machine, index: int) -> None:
        self.machine, self.index = machine, index

    def __enter__(self) -> None:
        self.before, self.machine.current = self.machine.current, self.index

    def __exit__(self, *error: object) -> None:
        self.machine.current = self.before


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    success = driver.CUresult.CUDA_SUCCESS
    monkeypatch.setattr(torch.cuda, "get_device_properties", machine.properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: machine.current)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: machine.current, raising=False)
    monkeypatch.setattr(torch.cuda, "device", machine.device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: machine.capturing)
    monkeypatch.setattr(
        torch._C, "_cuda_getCurrentRawStream", lambda index: machine.streams[index], raising=False
    )
    monkeypatch.setattr(driver, "cuLaunchKernel", machine.launch)
    monkeypatch.setattr(driver, "cuKernelGetFunction", machine.kernel_function)
    monkeypatch.setattr(driver, "cuThreadExchangeStreamCaptureMode", machine.exchange_mode)
    monkeypatch.setattr(
        driver, "cuCtxGetCurrent", lambda: (success, machine.contexts.get(threading.get_ident(), 0))
    )
    monkeypatch.setattr(driver, "cuDeviceGet", lambda index: (success, f"device {index}"))
    monkeypatch.setattr(driver, "cuDevicePrimaryCtxRetain", lambda device: (success, f"context of {device}"))
    monkeypatch.setattr(driver, "cuCtxSetCurrent", machine.set_context)
    monkeypatch.setattr(driver, "cuDriverGetVersion", lambda: (driver.CUresult.CUDA_SUCCESS, 12040))
    monkeypatch.setattr(cuda_core, "ObjectCode", machine)
    monkeypatch.setattr(module, "compile", machine.compile)
    monkeypatch.setattr(module, "_gpus", {})
    return machine


def launch(
    gpu: Gpu, unit: Unit = UNIT, kernel: str = "apply", grid: int = 5, shared_bytes: int = 256
) -> None:
    gpu.launch(unit, kernel, grid, 128, shared_bytes, Params(0xABC, 2**40, 1e-5))


def test_equal_units_are_one_key():
    again = pickle.loads(pickle.dumps(UNIT))
    assert again == UNIT and hash(again) == hash(UNIT) == hash(Unit(UNIT.source, UNIT.macros))
    assert UNIT != OTHER


def test_the_driver_gets_what_was_asked_for(machine):
    launch(gpu(torch.device("cuda", 0)))
    (got,) = machine.launches
    assert got.function == (0, b"cubin of group_norm.cu SCALAR=bfloat16", "apply")
    assert got.sizes == [5, 1, 1, 128, 1, 1]
    assert (got.shared_bytes, got.stream, got.extra) == (256, 0x100, 0)
    assert got.params == bytes(Params(0xABC, 2**40, 1e-5))


def test_one_gpu_a_device(machine):
    first = gpu(torch.device("cuda", 0))
    assert first is gpu(torch.device("cuda", 0)) is gpu(torch.device("cuda"))
    assert (first.multiprocessors, first.arch) == (132, "sm_90")
    machine.current = 1
    assert first is not gpu(torch.device("cuda"))
    assert gpu(torch.device("cuda")) is gpu(torch.device("cuda", 1))


def test_the_current_stream_of_each_launch(machine):
    for stream in (0, 7, 8):
        machine.streams[0] = stream
        launch(gpu(torch.device("cuda", 0)))
    assert [got.stream for got in machine.launches] == [0, 7, 8]


def test_compiled_a_unit_and_loaded_a_kernel_once(machine):
    for unit, kernel in [(UNIT, "apply"), (UNIT, "moments"), (OTHER, "apply")] * 3:
        launch(gpu(torch.device("cuda", 0)), unit, kernel)
    assert machine.compiled == [(UNIT, "sm_90"), (OTHER, "sm_90")]
    assert [name for _, name in machine.loaded] == ["apply", "moments", "apply"]
    assert len(machine.launches) == 9


def test_loaded_on_each_device_and_launched_there(machine):
    for _ in range(2):
        for index in (0, 1):
            launch(gpu(torch.device("cuda", index)))
    assert machine.compiled == [(UNIT, "sm_90")] * 2
    assert len(machine.loaded) == 2
    assert [got.function[0] for got in machine.launches] == [0, 1, 0, 1]
    assert [got.stream for got in machine.launches] == [0x100, 0x200, 0x100, 0x200]
    assert machine.current == 0


def test_loaded_once_by_many_threads(machine):
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        launch(gpu(torch.device("cuda", 0)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(machine.compiled) == len(machine.loaded) == 1
    assert len(machine.launches) == 8


def test_a_new_thread_gets_the_devices_context(machine):
    contexts = []

    def work() -> None:
        launch(gpu(torch.device("cuda", 0)))
        contexts.append(machine.contexts[threading.get_ident()])
        machine.contexts[threading.get_ident()] = 0xD  # set by another; it stays
        launch(gpu(torch.device("cuda", 0)))
        contexts.append(machine.contexts[threading.get_ident()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    launch(gpu(torch.device("cuda", 0)))
    contexts.append(machine.contexts[threading.get_ident()])
    assert contexts == ["context of device 0", 0xD, 0xC]


def test_first_use_in_a_graph_capture_is_an_error(machine):
    machine.capturing = True
    with pytest.raises(RuntimeError, match=r"call videonorm.warmup\(model, x\) before the capture") as error:
        launch(gpu(torch.device("cuda", 0)))
    assert not isinstance(error.value, KernelError)  # which would choose the reference
    assert not machine.compiled
    machine.capturing = False
    launch(gpu(torch.device("cuda", 0)))
    machine.capturing = True
    launch(gpu(torch.device("cuda", 0)))
    assert len(machine.launches) == 2


@pytest.mark.parametrize("status", [driver.CUresult.CUDA_SUCCESS, driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY])
def test_first_use_beside_another_threads_capture(machine, status):
    """`Machine.module` asserts the mode; afterwards it is the thread's own again, come what may."""
    machine.loading_status = status
    with nullcontext() if not status else pytest.raises(KernelError):
        launch(gpu(torch.device("cuda", 0)))
    assert len(machine.loaded) == 1
    assert machine.mode == driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL


def test_ptx_where_the_gpu_is_newer_than_nvrtc(machine):
    machine.target = "compute_120"
    launch(gpu(torch.device("cuda", 0)))
    assert machine.loaded == [("ptx of group_norm.cu SCALAR=bfloat16", "apply")]


def test_a_refused_launch(machine):
    machine.status = driver.CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE") as error:
        launch(gpu(torch.device("cuda", 0)), grid=0)
    assert not isinstance(error.value, KernelError)
    assert "apply of group_norm.cu SCALAR=bfloat16 (grid 0, block 128, 256 bytes shared)" in str(error.value)
    with pytest.raises(ValueError, match=r"shared_bytes \(49153\) of apply must be at most 49152"):
        launch(gpu(torch.device("cuda", 0)), shared_bytes=49153)


def test_a_driver_that_cannot_load(machine):
    machine.loading_status = driver.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(KernelError, match="CUDA_ERROR_NO_BINARY_FOR_GPU.*driver's CUDA 12.4"):
        launch(gpu(torch.device("cuda", 0)))


def test_an_old_device(machine):
    machine.capability = 7, 0
    with pytest.raises(KernelError, match=r"device \(GeForce, sm_70\) must be sm_75 or newer"):
        gpu(torch.device("cuda", 0))
    machine.capability = 7, 5
    assert gpu(torch.device("cuda", 0)).arch == "sm_75"


def test_without_the_packages(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(KernelError, match="cuda-core and cuda-bindings must be installed"):
        gpu(torch.device("cuda", 0))
