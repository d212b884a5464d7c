"""Taking turns, and what becomes of the times. No test asks how long anything takes."""

import pytest
import torch

from videonorm.bench import timing
from videonorm.bench.timing import (
    MOST_SETS,
    WARM_UP,
    Clock,
    Contender,
    Seconds,
    Timing,
    attempt,
    race,
    take_turns,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clock():
    return Clock(CPU)


def test_windows_take_turns_and_one_that_fails_is_out():
    calls = []

    def window(name):
        calls.append(name)
        if name == "b" and calls.count("b") == 2:
            raise ValueError("no room")

    errors = take_turns({name: lambda name=name: window(name) for name in "abc"}, 3 - WARM_UP + 1, CPU)
    assert errors == {"b": "ValueError: no room"}
    assert "".join(calls) == "abc" + "bca" + "ca" + "ac"[: 2 * (WARM_UP - 1)]


def test_a_race_counts_forward_and_backward_without_the_warm_up(clock):
    graphs, backward_of = [], []

    def forward(number):
        graphs.append(number)
        return number

    def fail(number):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    contenders = [
        Contender("both", forward, lambda graph, number: backward_of.append((graph, number))),
        Contender("forward", lambda number: None),
        Contender("fails", fail),
    ]
    timings = race(contenders, 2, 3, clock)
    assert graphs == [0, 1] * (WARM_UP + 3)
    assert backward_of == [(0, 0), (1, 1)] * (WARM_UP + 3)
    assert len(timings["both"].forward.device) == len(timings["both"].backward.host) == 3
    assert timings["both"].microseconds("backward") >= 0
    assert timings["forward"].microseconds("backward") is timings["forward"].microseconds("both") is None
    assert timings["fails"].error == "OutOfMemoryError: CUDA out of memory"
    assert timings["fails"].microseconds("forward") is None


def test_medians():
    timing = Timing(Seconds([1e-6, 2e-6, 9e-6], [5e-6] * 3), Seconds([30e-6, 10e-6, 20e-6], [1e-6] * 3))
    assert timing.microseconds("forward") == pytest.approx(2)
    assert timing.microseconds("backward") == pytest.approx(20)
    assert timing.microseconds("both") == pytest.approx(29)  # of 31, 12, 29
    assert timing.microseconds("both", "host") == pytest.approx(6)


def test_a_lost_device_ends_the_run():
    def fail():
        raise torch.AcceleratorError("an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        attempt(fail, CPU)


def test_sets_of_inputs_exceed_twice_the_cache(clock):
    assert clock.num_sets(clock.cache_bytes) == 2
    assert clock.num_sets(3 * clock.cache_bytes) == 1
    assert clock.num_sets(1) == MOST_SETS
    assert clock.copy_gb_per_second > 0


def test_a_window_on_a_gpu_begins_with_a_cache_of_nothing_to_write(clock, monkeypatch):
    """On a device that only tells what it is asked to do."""
    asked = []

    class Event:
        def record(self):
            asked.append("event")

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 2.0  # milliseconds

    monkeypatch.setattr(clock, "_cuda", True)
    monkeypatch.setattr(timing, "_new_event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(clock, "_copy", lambda: asked.append("copy"))
    clean = clock._read_clean
    monkeypatch.setattr(clock, "_read_clean", lambda: asked.append("read"))
    seconds, _ = clock.time(lambda: asked.append("work"), host_seconds=2 * clock._copy_seconds)
    assert seconds == 2e-3
    assert asked == ["copy"] * 4 + ["read", "event", "work", "event"]  # the host takes as long as 3 copies

    read = []
    monkeypatch.setattr(Source, "sum", lambda self: read.append(self), raising=False)
    monkeypatch.setattr(clock, "_source", clock._source.as_subclass(Source))
    clean()
    # The first of it: the last copy has read these longest ago.
    assert read[0].data_ptr() == clock._source.data_ptr() != clock._target.data_ptr()
    assert read[0].nbytes == min(4 * clock.cache_bytes, clock._source.nbytes) > clock.cache_bytes


class Source(torch.Tensor):
    pass


def test_rates_are_bytes_in_seconds(clock, monkeypatch):
    monkeypatch.setattr(clock, "_copy_seconds", 2.0)
    monkeypatch.setattr(clock, "_read_seconds", 0.5)
    assert clock.copy_gb_per_second == pytest.approx(clock._source.nbytes / 1e9)
    assert clock.read_gb_per_second == pytest.approx(2 * clock._source.nbytes / 1e9)
