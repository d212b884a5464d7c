"""What training takes: time, by a clock that stands still during validation, and memory."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import Trainer


class TrainingClock:
    """Counts clips, frames and seconds of training, over all sessions of a resumed run.

    The clips per second are those of this session from the end of its first step on: that step also starts
    the workers and tunes the kernels.
    """

    def __init__(self) -> None:
        self.clips_seen = 0
        self.frames_seen: int | None = 0  # None where an earlier version began to count
        self._seconds = 0.0  # up to when the clock was last started
        self._started: float | None = None
        self._before: float | None = None  # clips per second of the session before
        self._first: tuple[int, float] | None = (
            None  # clips and seconds at the end of this session's first step
        )

    @property
    def train_seconds(self) -> float:
        return self._seconds + (time.perf_counter() - self._started if self._started is not None else 0.0)

    @property
    def clips_per_second(self) -> float | None:
        if self._first is None:
            return self._before
        clips, seconds = self.clips_seen - self._first[0], self.train_seconds - self._first[1]
        return clips / seconds if clips else self._before

    def start(self) -> None:
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        self._seconds, self._started = self.train_seconds, None

    def step(self, clips: int, frames: int) -> None:
        """Enter the clips of one step and their frames, on all devices."""
        self.clips_seen += clips
        if self.frames_seen is not None:
            self.frames_seen += frames
        if self._first is None:
            self._first = self.clips_seen, self.train_seconds

    def state_dict(self) -> dict[str, Any]:
        return {
            "clips_seen": self.clips_seen,
            "frames_seen": self.frames_seen,
            "train_seconds": self.train_seconds,
            "clips_per_second": self.clips_per_second,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clips_seen, self._seconds = state["clips_seen"], state["train_seconds"]
        self.frames_seen = state.get("frames_seen")
        self._before = state["clips_per_second"]


def clock_of(trainer: Trainer) -> TrainingClock | None:
    """That of its RunRecord."""
    clocks = (getattr(callback, "clock", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return next((clock for clock in clocks if isinstance(clock, TrainingClock)), None)


def peak_memory_mib(device: torch.device) -> float:
    """CUDA: the most memory allocated on the device so far; otherwise this process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
