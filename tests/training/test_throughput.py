import pytest

from videonorm.training import throughput
from videonorm.training.throughput import TrainingClock


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is told otherwise."""
    state = {"seconds": 100.0}
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: state["seconds"])

    def advance(seconds):
        state["seconds"] += seconds

    return advance


def test_validation_does_not_count(now):
    clock = TrainingClock()
    clock.start()
    now(3)
    clock.stop()
    now(50)
    clock.start()
    now(4)
    assert clock.train_seconds == 7


def test_the_first_step_does_not_count_for_the_speed(now):
    clock = TrainingClock()
    clock.start()
    now(30)
    clock.step(8, 32)
    assert clock.clips_per_second is None
    for _ in range(4):
        now(2)
        clock.step(8, 32)
    assert clock.clips_per_second == 4.0 and clock.clips_seen == 40 and clock.train_seconds == 38


def test_goes_on_where_the_session_before_ended(now):
    first = TrainingClock()
    first.start()
    for _ in range(3):
        now(1)
        first.step(2, 6)
    second = TrainingClock()
    second.load_state_dict(first.state_dict())
    assert second.clips_per_second == 2.0  # until this session knows its own
    second.start()
    for _ in range(2):
        now(4)
        second.step(2, 6)
    assert (second.clips_seen, second.frames_seen) == (10, 30)
    assert (second.train_seconds, second.clips_per_second) == (11, 0.5)
