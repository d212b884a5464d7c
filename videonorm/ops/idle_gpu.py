"""A GPU that takes no time: what queues work for it can be timed on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from videonorm.kernels import gpu
from videonorm.kernels.counters import Counters, StreamCounters
from videonorm.kernels.unit import Unit
from videonorm.ops.registration import cpu_as_cuda

MULTIPROCESSORS = 132  # of an H100
STREAM = 0


class IdleGpu(gpu.Gpu):
    """A Gpu whose kernels load and run in no time; ``launch`` is as ever, up to the driver's call."""

    def __init__(self) -> None:
        self.multiprocessors = MULTIPROCESSORS
        self._index = 0
        self._functions = {}
        self._thread = gpu._Thread()
        self._thread.has_context = True
        self._launch = lambda *_: (0,)
        self._counters = StreamCounters(None)
        self._counters._of_streams[STREAM] = Counters(0, 2**31, None)

    def _load(self, unit: Unit, kernel: str) -> object:
        return self._functions.setdefault((unit, kernel), object())


@contextmanager
def idle_gpu() -> Iterator[None]:
    """In this context our operators take CPU tensors to an IdleGpu, in the way of CUDA tensors."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(gpu._gpus, {torch.device("cpu"): IdleGpu()}))
        # What is asked of CUDA at every launch.
        stack.enter_context(patch.object(torch.cuda, "is_current_stream_capturing", lambda: False))
        answers: dict[str, Any] = {
            "_cuda_getDevice": lambda: 0,
            "_cuda_getCurrentRawStream": lambda index: STREAM,
        }
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch._C, name, answer, create=True))
        stack.enter_context(cpu_as_cuda())
        yield
