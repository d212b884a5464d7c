"""Counters by which the blocks of a launch know which of them is the last.

A kernel finds its counters 0 and leaves them 0, so that the launches of a stream, which run one after
another, share theirs. Launches of two streams may run at once, as may a graph beside anything: each has its
own.

While a stream is captured into a CUDA graph, every call gets new memory, and the graph a node that zeroes it
before the launch. It comes of the graph's pool, as all temporary memory does: it is there as long as the
graph, and what else the graph keeps in it at other times, the node overwrites. So a replay depends on nothing
that ran before, not even on a replay that failed, and touches nothing that runs beside it.

All other counters are kept for good, and therefore come of the driver. PyTorch's allocator may serve a pool
of CUDA graphs outside of a capture too, when torch.compile warms one up: what is kept of that is lost.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

FEWEST = 2**14


class Counters(NamedTuple):
    """32-bit numbers, all 0. Whoever launches with the address holds this until then."""

    address: int
    number: int
    memory: Tensor | None  # where it is not kept anyway


class StreamCounters:
    """The counters of a device's streams."""

    def __init__(self, driver: Any) -> None:
        """
        Args:
            driver: the module cuda.bindings.driver.
        """
        self._driver = driver
        self._of_streams: dict[int, Counters] = {}

    def of_stream(self, stream: int, number: int) -> Counters:
        """At least `number` counters for the next launch on a stream of the current device.

        Raises:
            RuntimeError: CUDA has no memory for them.
        """
        if torch.cuda.is_current_stream_capturing():
            memory = torch.zeros(number, dtype=torch.int32, device="cuda")
            return Counters(memory.data_ptr(), number, memory)
        found = self._of_streams.get(stream)
        if found is None or found.number < number:
            found = self._of_streams[stream] = self._new(stream, max(FEWEST, 2 * number))
        return found

    def forget(self, stream: int) -> None:
        """Give the next launch new ones: one of this stream failed, and may have left others than 0."""
        self._of_streams.pop(stream, None)

    def _new(self, stream: int, number: int) -> Counters:
        """Zeroed in the order of the stream. Earlier ones are left alone, as launches may be under way."""
        driver = self._driver
        relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        status, mode = driver.cuThreadExchangeStreamCaptureMode(relaxed)  # another thread may be capturing
        if not status:
            status, address = driver.cuMemAlloc(4 * number)
            driver.cuThreadExchangeStreamCaptureMode(mode)
        if not status:
            (status,) = driver.cuMemsetD32Async(address, 0, number, stream)
        if status:
            error = torch.OutOfMemoryError if "OUT_OF_MEMORY" in status.name else RuntimeError
            raise error(f"{4 * number} bytes for counters could not be had: {status.name}")
        return Counters(int(address), number, None)
