"""Training steps of a recipe on the present device, in a process that is told what to do and answers.

Run as `python -m videonorm.frontier.probe`: the question is JSON on stdin, the answer on what was stdout.
A process of its own, because what does not fit may cost its life, and what one batch has left in an allocator
would help or hinder the next.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.frontier.memory import PRECISIONS
from videonorm.frontier.recipe import Recipe, build
from videonorm.machine import choose_device
from videonorm.messages import one_line

OVER = 75  # exit code of a process that took more memory than it may
# Of errors that come of too little memory, whatever their class: torch's, of cuDNN and cuBLAS, of the CPU.
TOO_LITTLE = ("out of memory", "_ALLOC_FAILED", "unable to find an engine", "can't allocate memory")


@dataclass(frozen=True)
class Question:
    """Batches of clips of one shape.

    Attributes:
        num_frames, crop_size: of a clip.
        batch_sizes: one after the other; the peak is that of the first.
        steps: how many of each are to be timed.
        limit: bytes that may be taken: on CUDA by torch's allocator, on the CPU by this process beyond what
            it had before the model.
    """

    recipe: Recipe
    num_frames: int
    crop_size: int
    batch_sizes: list[int]
    steps: int
    limit: int


class Trainer:
    """A recipe's network and optimizer, and an optimizer step on random clips."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.device, self._accumulate = device, recipe.accumulate
        self._dtype, self._autocast = PRECISIONS[recipe.precision]
        # As VideoDataModule lays out its clips.
        asked = recipe.settings["data"]["channels_last"]
        channels_last = device.type == "cuda" if asked == "auto" else asked
        self._layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        make_model, make_optimizer = build(recipe)
        self.model = make_model().to(device, self._dtype)
        self._optimizer = make_optimizer(self.model.parameters())
        # At a scale of 1 no step is left out, as the first ones are at torch's.
        scaled = recipe.precision == "16-mixed"
        self._scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=scaled)

    def clips(self, batch_size: int, num_frames: int, crop_size: int) -> tuple[Tensor, Tensor]:
        """A batch in the layout and the dtype of the recipe's."""
        size = (batch_size, 3, num_frames, crop_size, crop_size)
        clips = torch.randn(size, device=self.device, dtype=self._dtype)
        return clips.contiguous(memory_format=self._layout), torch.zeros(
            batch_size, dtype=torch.int64, device=self.device
        )

    def step(self, clips: Tensor, labels: Tensor) -> float:
        """An optimizer step, of as many passes as are accumulated; its seconds."""
        started = time.perf_counter()
        for _ in range(self._accumulate):
            with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
                loss = F.cross_entropy(self.model(clips), labels)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def probe(question: Question, device: torch.device) -> dict[str, Any]:
    """``peak`` bytes (on CUDA of tensors, with those that the allocator ``held``), ``seconds`` of each batch.

    Or ``too_large``, why the first batch does not fit; ``refused``, why it may not be of one clip; or
    ``error``, why such clips cannot be trained on.
    """
    cuda = device.type == "cuda"
    before = peak = held = 0
    if cuda:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, question.limit / total), device)
    else:
        warm_up()
        before = peak_resident()
        watch(lambda: not peak and peak_resident() - before > question.limit, OVER)
    seconds: dict[int, list[float]] = {}
    try:
        trainer = Trainer(question.recipe, device)
        for batch_size in question.batch_sizes:
            batch = trainer.clips(batch_size, question.num_frames, question.crop_size)
            taken = [trainer.step(*batch) for _ in range(1 + question.steps)]
            seconds[batch_size] = taken[1:]  # the first makes the optimizer's state
            del batch
            if not peak:
                peak = torch.cuda.max_memory_allocated(device) if cuda else peak_resident() - before
                held = torch.cuda.max_memory_reserved(device) if cuda else 0
    except (RuntimeError, MemoryError, ValueError) as error:
        too_little = isinstance(error, MemoryError) or any(of in str(error) for of in TOO_LITTLE)
        # Norms may refuse a batch of one clip, which is no reason to give up what was measured of others.
        refused = isinstance(error, ValueError) and (peak or question.batch_sizes[0] == 1)
        if not too_little and not refused:
            return {"error": one_line(error)}
        if not peak:
            return {"too_large" if too_little else "refused": one_line(error)}
    if not cuda and peak > question.limit:
        return {"too_large": f"took {peak} bytes"}
    return {"peak": peak, "held": held, "seconds": seconds}


def warm_up() -> None:
    """Have the CPU load the code of a step, which is none of the model's memory."""
    model = nn.Sequential(
        nn.Conv3d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        loss = F.cross_entropy(model(torch.randn(2, 3, 4, 16, 16)), torch.zeros(2, dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def peak_resident() -> int:
    """Bytes of memory that this process has had resident at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's would be that of the parent if it was more
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 2**10
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def watch(is_over: Callable[[], bool], code: int, every_seconds: float = 0.02) -> None:
    """End this process, from a thread, as soon as something is over."""

    def look() -> None:
        while not is_over():
            time.sleep(every_seconds)
        os._exit(code)

    threading.Thread(target=look, daemon=True).start()


def about(device: torch.device) -> dict[str, Any]:
    """The device, and its memory in bytes; of a CPU's none is its own."""
    if device.type == "cpu":
        return {"device": "cpu", "memory": None}
    properties = torch.cuda.get_device_properties(device)
    return {"device": properties.name, "memory": properties.total_memory}


def main() -> None:
    # Whatever else is printed, here or by a library in C, goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parent = os.getppid()
    watch(lambda: os.getppid() != parent, 1)  # it was killed
    question: Mapping[str, Any] | None = json.load(sys.stdin)
    device = choose_device()
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())  # a limit is set by number
    if question is None:
        answer = about(device)
    else:
        answer = probe(Question(**{**question, "recipe": Recipe(**question["recipe"])}), device)
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
