"""Timing work on a device: contenders take turns, and find nothing of theirs in the cache.

A *window* is one timed stretch: the forward passes of a contender over a few sets of inputs, or the backward
passes of the graphs that these have left. Before a window, a large buffer is copied. That overwrites the L2
cache, and no set is used twice in a window, so that every input comes from memory. On a GPU the copies also
keep the device busy until the host has queued the whole window: CUDA events around it then measure what the
device does, not how fast Python calls it. That is measured apart, as the host's time. On a CPU both are one.

What the copies have written last is still in the cache, to be written back by whoever needs the room: so a
buffer that nobody has written to is read after them, and the first kernel of a window pays for nothing but
itself. What a window leaves in the cache to be written, at most its size, is in nobody's time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from statistics import median
from typing import Any

import torch

from videonorm.bench.records import sentence

GIB = 2**30
COPIES = 4  # of a window that measures the copy rate: what the last one leaves in the cache hardly counts
MOST_SETS = 16
WARM_UP = 2  # turns that do not count: in these, code is compiled, algorithms are chosen, memory is taken
CPU_CACHE_BYTES = 2**25  # about a last-level cache: PyTorch does not tell


@dataclass(frozen=True)
class Contender:
    """Something to time. `forward` takes the number of a set of inputs and returns a graph for `backward`."""

    name: str
    forward: Callable[[int], Any]
    backward: Callable[[Any, int], object] | None = None


@dataclass
class Seconds:
    """Seconds for one set of inputs, one entry a window."""

    device: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)


@dataclass
class Timing:
    """What a contender took, or why it could not be timed."""

    forward: Seconds = field(default_factory=Seconds)
    backward: Seconds = field(default_factory=Seconds)
    error: str | None = None

    def microseconds(self, direction: str, clock: str = "device") -> float | None:
        """Median over the windows: of "forward", "backward", or "both" (a forward and its backward).

        None where the contender failed or has no such direction.
        """
        forward, backward = (getattr(way, clock) for way in (self.forward, self.backward))
        sums = [sum(pair) for pair in zip(forward, backward, strict=False)]
        seconds = {"forward": forward, "backward": backward, "both": sums}[direction]
        return None if self.error or not seconds else 1e6 * median(seconds)


class Clock:
    """Times windows on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"
        if self._cuda:
            properties = torch.cuda.get_device_properties(device)
            self.cache_bytes: int = properties.L2_cache_size
            buffer_bytes = min(GIB, properties.total_memory // 16)
        else:
            self.cache_bytes = CPU_CACHE_BYTES
            buffer_bytes = 2 * CPU_CACHE_BYTES
        self._source = torch.zeros(buffer_bytes // 4, device=device)  # of four bytes each
        self._target = torch.empty_like(self._source)
        self._copy_seconds = 0.0
        self._copy_seconds = self._median_seconds(self._copies) / COPIES
        self._read_seconds = self._median_seconds(self._source.sum)

    @property
    def copy_gb_per_second(self) -> float:
        """Bytes read plus bytes written by a large copy, a second, in 10^9."""
        return 2 * self._source.nbytes / self._copy_seconds / 1e9

    @property
    def read_gb_per_second(self) -> float:
        """Bytes of a large tensor that torch.sum reads, a second, in 10^9."""
        return self._source.nbytes / self._read_seconds / 1e9

    def num_sets(self, set_bytes: int) -> int:
        """How many sets of inputs exceed twice the cache, but no more than MOST_SETS."""
        return min(MOST_SETS, ceil(2 * self.cache_bytes / set_bytes))

    def time(self, work: Callable[[], object], host_seconds: float) -> tuple[float, float]:
        """Seconds of one window, of the device and of the host.

        Args:
            host_seconds: how long the host is expected to take for `work`.
        """
        if not self._cuda:
            self._copy()
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            return seconds, seconds
        enough = ceil(1.5 * host_seconds / self._copy_seconds) if self._copy_seconds else 0
        begin, end = _new_event(), _new_event()
        torch.cuda.synchronize(self.device)
        for _ in range(1 + min(enough, 100)):
            self._copy()
        self._read_clean()
        begin.record()
        start = time.perf_counter()
        work()
        host = time.perf_counter() - start
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3, host

    def _median_seconds(self, work: Callable[[], object]) -> float:
        return median(self.time(work, 0.0)[0] for _ in range(5))

    def _copy(self) -> None:
        self._target.copy_(self._source)

    def _copies(self) -> None:
        for _ in range(COPIES):
            self._copy()

    def _read_clean(self) -> None:
        """Read four times as much as the cache holds, from memory that nobody has written to."""
        self._source[: 4 * self.cache_bytes // self._source.itemsize].sum()


def _new_event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


def race(contenders: Sequence[Contender], num_sets: int, repeats: int, clock: Clock) -> dict[str, Timing]:
    """Time all contenders, in turns."""
    timings = {contender.name: Timing() for contender in contenders}
    windows = {
        contender.name: partial(run_window, contender, num_sets, clock, timings[contender.name])
        for contender in contenders
    }
    for name, error in take_turns(windows, repeats, clock.device).items():
        timings[name].error = error
    for timing in timings.values():
        for way in (timing.forward, timing.backward):
            del way.device[:WARM_UP], way.host[:WARM_UP]
    return timings


def take_turns(
    windows: Mapping[str, Callable[[], None]], repeats: int, device: torch.device
) -> dict[str, str]:
    """Call all windows WARM_UP and `repeats` times, in turns: each round begins with another one.

    A window that raises an error is out. Returns what went wrong, by the window's name.
    """
    errors: dict[str, str] = {}
    names = list(windows)
    for turn in range(WARM_UP + repeats):
        first = turn % max(1, len(names))
        for name in (*names[first:], *names[:first]):
            if name not in errors and (error := attempt(windows[name], device)):
                errors[name] = error
    return errors


def run_window(contender: Contender, num_sets: int, clock: Clock, timing: Timing) -> None:
    """One forward and one backward window of a contender; their times are added to `timing`."""
    graphs: list[Any] = []

    def forward() -> None:
        for number in range(num_sets):
            graphs.append(contender.forward(number))

    def backward() -> None:
        assert contender.backward is not None
        for number in range(num_sets):
            contender.backward(graphs.pop(0), number)

    ways = [(forward, timing.forward)]
    if contender.backward is not None:
        ways.append((backward, timing.backward))
    for work, way in ways:
        expected = num_sets * way.host[-1] if way.host else 0.0
        device, host = clock.time(work, expected)
        way.device.append(device / num_sets)
        way.host.append(host / num_sets)


def attempt(work: Callable[[], object], device: torch.device) -> str | None:
    """Do it and return None; or give up, free the memory, and return what went wrong.

    An error after which the device is of no more use is raised.
    """
    try:
        work()
    except torch.AcceleratorError:  # out of memory is not one of these
        raise
    except Exception as error:  # whatever a contender raises is its result
        reason = sentence(error)
    else:
        return None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return reason
