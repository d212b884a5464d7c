"""Where a launch's counters are, with the driver replaced."""

import threading
from types import SimpleNamespace

import pytest
import torch

from videonorm.kernels import gpu as module
from videonorm.kernels.counters import FEWEST, StreamCounters

from .test_gpu import launch, machine  # noqa: F401


class Status:
    def __init__(self, name: str) -> None:
        self.name = name

    def __bool__(self) -> bool:
        return self.name != "CUDA_SUCCESS"


class Driver:
    """Memory that is zeroed when it is asked to, and the mode of captures in this thread."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="relaxed")

    def __init__(self) -> None:
        self.mode = "global"
        self.status = Status("CUDA_SUCCESS")
        self.allocated: list[tuple[int, int]] = []  # address, bytes
        self.zeroed: list[tuple[int, int, int]] = []  # address, numbers, stream

    def cuThreadExchangeStreamCaptureMode(self, mode):
        before, self.mode = self.mode, mode
        return Status("CUDA_SUCCESS"), before

    def cuMemAlloc(self, number_of_bytes):
        assert self.mode == "relaxed"  # else it would end a capture in another thread
        self.allocated.append((4096 * (1 + len(self.allocated)), number_of_bytes))
        return self.status, self.allocated[-1][0]

    def cuMemsetD32Async(self, address, value, number, stream):
        assert value == 0
        self.zeroed.append((address, number, stream))
        return (self.status,)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return Driver()


def test_a_stream_keeps_its_counters(driver):
    counters = StreamCounters(driver)
    first, other = counters.of_stream(7, 10), counters.of_stream(8, 10)
    assert counters.of_stream(7, FEWEST) is first and counters.of_stream(8, 1) is other
    assert first.address != other.address
    assert driver.allocated == [(first.address, 4 * FEWEST), (other.address, 4 * FEWEST)]
    assert driver.zeroed == [(first.address, FEWEST, 7), (other.address, FEWEST, 8)]
    assert driver.mode == "global"


def test_a_stream_that_needs_more(driver):
    counters = StreamCounters(driver)
    few, many = counters.of_stream(7, 10), counters.of_stream(7, FEWEST + 1)
    assert many.address != few.address and many.number > FEWEST
    assert driver.zeroed[-1] == (many.address, many.number, 7)
    assert counters.of_stream(7, 10) is many


def test_new_ones_behind_a_failed_launch(driver):
    counters = StreamCounters(driver)
    first = counters.of_stream(7, 10)
    counters.forget(7)
    counters.forget(9)  # which has none
    again = counters.of_stream(7, 10)
    assert again.address != first.address and driver.zeroed[-1] == (again.address, FEWEST, 7)


def test_a_capture_has_its_own_each_time(driver, monkeypatch):
    """Of the graph's memory, zeroed in the graph; those of the stream outside stay as they are."""
    counters = StreamCounters(driver)
    outside = counters.of_stream(7, 10)
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda number, dtype, device: zeros(number, dtype=dtype))
    first, second = counters.of_stream(7, 10), counters.of_stream(7, 10)
    for captured in (first, second):
        assert captured.memory is not None and not captured.memory.any()
        assert captured.address == captured.memory.data_ptr() and captured.memory.numel() == 10
    assert len({first.address, second.address, outside.address}) == 3
    assert len(driver.allocated) == 1
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert counters.of_stream(7, 10) is outside


@pytest.mark.parametrize(
    ("name", "error"),
    [("CUDA_ERROR_OUT_OF_MEMORY", torch.OutOfMemoryError), ("CUDA_ERROR_INVALID_VALUE", RuntimeError)],
)
def test_no_memory(driver, name, error):
    driver.status = Status(name)
    with pytest.raises(error, match=rf"^{4 * FEWEST} bytes for counters could not be had: {name}$"):
        StreamCounters(driver).of_stream(7, 10)
    assert driver.mode == "global"


def test_of_a_device(machine, driver, monkeypatch):  # noqa: F811
    """The counters of its current stream, in its context; a refused launch gets new ones."""
    gpu = module.gpu(torch.device("cuda", 1))
    gpu._counters = StreamCounters(driver)
    threads = []

    def work() -> None:
        machine.current = 0
        threads.append(gpu.counters(10))
        assert machine.contexts[threading.get_ident()] == "context of device 1"

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert driver.zeroed == [(threads[0].address, FEWEST, machine.streams[1])] and machine.current == 0
    assert gpu.counters(10) is threads[0]
    machine.status = type(machine.status).CUDA_ERROR_INVALID_VALUE
    with pytest.raises(RuntimeError, match="could not be launched"):
        launch(gpu)
    assert gpu.counters(10).address != threads[0].address
