"""A GPU that runs kernels: compiled for it at their first use, launched on PyTorch's current stream."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from videonorm.kernels.compiler import compile, cuda_core, nvrtc_version
from videonorm.kernels.counters import Counters, StreamCounters
from videonorm.kernels.unit import KernelError, Unit

__all__ = ["Gpu", "KernelError", "gpu"]

MIN_CAPABILITY = (7, 5)
MAX_SHARED_BYTES = 48 * 1024  # dynamic, a block: what every GPU gives without being asked

_gpus: dict[torch.device, "Gpu"] = {}


def gpu(device: torch.device) -> "Gpu":
    """The one Gpu of a CUDA device.

    Raises:
        KernelError: the device is older than sm_75, or cuda-core or cuda-bindings is not installed.
    """
    found = _gpus.get(device)  # at every call of an operator
    if found is not None:
        return found
    if device.index is None:
        return gpu(torch.device("cuda", torch.cuda.current_device()))
    return _gpus.setdefault(device, Gpu(device.index))


class _Thread(threading.local):
    """What holds for the thread that looks at it."""

    has_context = False


class Gpu:
    """A CUDA device with the kernels loaded on it. Any thread may launch, as autograd's own do."""

    def __init__(self, index: int) -> None:
        properties = torch.cuda.get_device_properties(index)
        capability = properties.major, properties.minor
        self.arch = "sm_{}{}".format(*capability)
        if capability < MIN_CAPABILITY:
            oldest = "sm_{}{}".format(*MIN_CAPABILITY)
            raise KernelError(f"device ({properties.name}, {self.arch}) must be {oldest} or newer")
        try:
            from cuda.bindings import driver

            self._object_code = cuda_core().ObjectCode
        except ImportError as error:
            raise KernelError(f"cuda-core and cuda-bindings must be installed: {error}") from error
        self.multiprocessors: int = properties.multi_processor_count
        self._index = index
        self._driver = driver
        self._launch = driver.cuLaunchKernel
        self._functions: dict[tuple[Unit, str], Any] = {}
        self._modules: dict[Unit, Any] = {}  # kept, because the functions are in them
        self._loading = threading.Lock()
        self._counters = StreamCounters(driver)
        self._thread = _Thread()

    def launch(
        self, unit: Unit, kernel: str, grid: int, block: int, shared_bytes: int, params: ctypes.Structure
    ) -> None:
        """As ``Machine.launch``, on PyTorch's current stream of this device.

        Raises:
            KernelError: the kernel cannot be compiled or loaded.
            RuntimeError: CUDA refuses the launch; or it is the kernel's first on this device, and the stream
                is being captured into a CUDA graph.
        """
        if torch._C._cuda_getDevice() != self._index:
            with torch.cuda.device(self._index):
                return self.launch(unit, kernel, grid, block, shared_bytes, params)
        if not self._thread.has_context:
            self._take_context()
        if shared_bytes > MAX_SHARED_BYTES:
            raise ValueError(f"shared_bytes ({shared_bytes}) of {kernel} must be at most {MAX_SHARED_BYTES}")
        function = self._functions.get((unit, kernel)) or self._load(unit, kernel)
        # The kernel's arguments are an array of one pointer. It is made anew for every launch, because the
        # driver reads it while other threads run.
        pointer = ctypes.c_void_p(ctypes.addressof(params))
        stream = torch._C._cuda_getCurrentRawStream(self._index)  # torch.cuda.current_stream is far slower
        (status,) = self._launch(
            function, grid, 1, 1, block, 1, 1, shared_bytes, stream, ctypes.addressof(pointer), 0
        )
        if status:
            self._counters.forget(stream)
            raise RuntimeError(
                f"{kernel} of {unit} (grid {grid}, block {block}, {shared_bytes} bytes shared)"
                f" could not be launched on cuda:{self._index}: {status.name}"
            )

    def counters(self, number: int) -> Counters:
        """As ``Machine.counters``, of PyTorch's current stream of this device.

        Raises:
            RuntimeError: CUDA has no memory for them.
        """
        if torch._C._cuda_getDevice() != self._index:
            with torch.cuda.device(self._index):
                return self.counters(number)
        if not self._thread.has_context:
            self._take_context()
        return self._counters.of_stream(torch._C._cuda_getCurrentRawStream(self._index), number)

    def _take_context(self) -> None:
        """Make the device's context the driver's current one, where a new thread has none.

        PyTorch leaves that to CUDA's runtime, which does it when the thread first needs it. In a thread of
        autograd the first to need it may be a kernel of ours, which is launched by the driver.
        """
        _, context = self._driver.cuCtxGetCurrent()
        if not int(context):
            _, device = self._driver.cuDeviceGet(self._index)
            _, context = self._driver.cuDevicePrimaryCtxRetain(device)
            self._driver.cuCtxSetCurrent(context)  # if it failed, the launch says so
        self._thread.has_context = True

    def _load(self, unit: Unit, kernel: str) -> Any:
        """Compile the unit if it is new, and find the kernel in it. This device must be the current one."""
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{kernel} of {unit} cannot be loaded while a CUDA graph is captured:"
                " call videonorm.warmup(model, x) before the capture"
            )
        with self._loading:
            try:
                if unit not in self._modules:
                    compiled = compile(unit, self.arch)
                    take = self._object_code.from_ptx if compiled.is_ptx else self._object_code.from_cubin
                    self._modules[unit] = take(compiled.code)  # loaded with its first kernel
                with self._beside_captures():
                    handle = self._modules[unit].get_kernel(kernel).handle
                    status, function = self._driver.cuKernelGetFunction(handle)
                if status:
                    raise RuntimeError(status.name)
            except KernelError:
                raise
            except Exception as error:  # cuda.core's errors have no public common class
                _, version = self._driver.cuDriverGetVersion()
                raise KernelError(
                    f"{kernel} of {unit} could not be loaded on cuda:{self._index} ({self.arch}): {error};"
                    f" NVRTC is {nvrtc_version()}, the driver's CUDA {version // 1000}.{version % 1000 // 10}"
                ) from error
            self._functions[unit, kernel] = function
            return function

    @contextmanager
    def _beside_captures(self) -> Iterator[None]:
        """Load in this thread, and let the capture of a CUDA graph in another go on.

        A capture in the mode "global", torch's default, forbids all threads what might be meant to be in its
        graph, such as loading a kernel, and is lost with the first that does it. In the mode "relaxed" a
        thread is not asked (CUDA Driver API, cuThreadExchangeStreamCaptureMode).
        """
        relaxed = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        _, before = self._driver.cuThreadExchangeStreamCaptureMode(relaxed)
        try:
            yield
        finally:
            self._driver.cuThreadExchangeStreamCaptureMode(before)
