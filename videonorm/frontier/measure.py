"""The largest batch that the present device holds, and how fast its steps are, found by real steps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from videonorm.errors import UserError
from videonorm.frontier.fitting import feed
from videonorm.frontier.plan import GIB, Question, footprint, largest_batch_size, untrainable
from videonorm.frontier.probe import OVER
from videonorm.machine import available_cores, commit, processor, versions
from videonorm.messages import counted
from videonorm.processes import started

STEPS = 5  # of which the median is taken
VIDEOS = 16  # of a batch of the loader, which so few steps of a trainer are not felt in
LOADER_SECONDS = 8


@dataclass(frozen=True)
class Measurement:
    """A norm, a clip length and a crop, measured. The fields are the columns of the CSV.

    Attributes:
        max_batch_size: the largest that fits in gib_memory; 0 where none does, and then there are no figures.
        planned_batch_size: what `frontier plan` says, with gib_reserved kept.
        gib_at_max: the peak of a step of the largest batch. On CUDA that of its tensors; on a CPU the growth
            of the process's peak resident memory over what it had before the model.
        gib_held: on CUDA, what torch's allocator held for it.
        planned_gib_at_max: the plan's peak of that batch.
        plan_error_percent: (planned - measured) / measured, of that peak.
        clips_per_second, frames_per_second: of the largest batch, by the median of STEPS steps.
        fastest_batch_size, fastest_clips_per_second: of the largest batch and its halves down to one clip.
        loader_clips_per_second: what `fit` feeds to a network that costs nothing.
        decode_bound: whether that is less than what the largest batch's steps take.
        loader_error: why it could not be measured.
    """

    norm: str
    num_frames: int
    crop_size: int
    precision: str
    accumulate: int
    max_batch_size: int
    planned_batch_size: int
    gib_at_max: float | None
    gib_held: float | None
    planned_gib_at_max: float | None
    plan_error_percent: float | None
    clips_per_second: float | None
    frames_per_second: float | None
    fastest_batch_size: int | None
    fastest_clips_per_second: float | None
    loader_clips_per_second: float | None
    decode_bound: bool | None
    loader_error: str
    gib_memory: float
    gib_reserved: float
    device: str
    videonorm: str | None
    torch: str | None
    cuda: str | None
    commit: str | None


@dataclass(frozen=True)
class Device:
    """Where it is measured, and in how much memory.

    Attributes:
        gib_memory: that a step may take.
        gib_reserved: of these, what the plan keeps for what it does not count.
    """

    name: str
    gib_memory: float
    gib_reserved: float


def device_here() -> tuple[str, float | None]:
    """The name of the present device, and its memory in GiB; a CPU has none of its own."""
    answer = _ask(None)
    if answer["memory"] is None:
        return f"{processor()}, {counted(available_cores(), 'core')}", None
    return answer["device"], answer["memory"] / GIB


def measure(
    questions: Sequence[Question], device: Device, say: Callable[[str], None]
) -> Iterator[Measurement]:
    """Answer questions, in their order, one process at a time.

    Args:
        say: told what is done next.

    Raises:
        UserError: the network does not take such clips.
    """
    loads = _Loads()
    correction = 1.0  # of the plan's batch: what it does not know of this device, the last question has told
    for question in questions:
        about = f"{question.norm}, T = {question.num_frames}, {question.crop_size} x {question.crop_size}"
        say(f"{about}: tracing a step")
        step = footprint(question)
        planned = largest_batch_size(question, step, device.gib_memory - device.gib_reserved)

        def fits(batch_size: int, question: Question = question, about: str = about) -> bool:
            say(f"{about}: B = {batch_size}")
            # That a batch norm refuses one clip says nothing of memory.
            return "too_large" not in run_steps(question, [batch_size], 1, device)

        most = largest(fits, round(correction * planned))
        answer: Mapping[str, Any] | None = None
        while most and answer is None:
            say(f"{about}: B = {most}, its speed")
            halves = [most >> halved for halved in range(most.bit_length())]
            taken = run_steps(question, halves, STEPS, device)
            # At the very limit, the same batch may fit once and not again.
            answer, most = (taken, most) if "peak" in taken else (None, most - 1)
        if most and planned:
            correction = most / planned
        loader: float | str = ""
        if most:
            say(f"{about}: loading clips")
            loader = loads.clips_per_second(question)
        yield _measurement(question, device, most, planned, step.peak(most) / GIB, answer, loader)


def largest(fits: Callable[[int], bool], guess: int) -> int:
    """The largest batch size, of all integers from 1, that fits; 0 if none does.

    By bisection, of an interval that is found from a guess on in growing steps.
    """
    fitting, too_many, step = 0, 0, max(1, guess // 16)
    size = max(1, guess)
    while not (too_many and (fitting or too_many == 1)):
        if fits(size):
            fitting = size
            size += step
        else:
            too_many = size
            size = max(1, size - step)
        step *= 2
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
    return fitting


def run_steps(question: Question, batch_sizes: list[int], steps: int, device: Device) -> dict[str, Any]:
    """What a process of its own tells of steps on such batches: see ``probe``.

    Raises:
        UserError: the network does not take such clips.
    """
    answer = _ask(
        {
            "recipe": asdict(question.recipe),
            "num_frames": question.num_frames,
            "crop_size": question.crop_size,
            "batch_sizes": batch_sizes,
            "steps": steps,
            "limit": int(device.gib_memory * GIB),
        }
    )
    if "error" in answer:
        raise UserError(untrainable(question, answer["error"]))
    return answer


def _ask(question: Mapping[str, Any] | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "videonorm.frontier.probe"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, **pipes) as process:
        answered, said = process.communicate(json.dumps(question))
        code = process.returncode
    if code in (OVER, -signal.SIGKILL):  # by itself, or by Linux as memory runs out
        return {"too_large": f"its process ended with {code}"}
    if code:
        raise RuntimeError(f"a process of training steps ended with exit code {code}:\n{said.strip()}")
    answer: dict[str, Any] = json.loads(answered)
    return answer


class _Loads:
    """Measures loaders, each once: of most norms they are the same."""

    def __init__(self) -> None:
        self._known: dict[str, float | str] = {}

    def clips_per_second(self, question: Question) -> float | str:
        """Training clips that `fit` feeds to a network that costs nothing; or why it could not."""
        clips = {"num_frames": question.num_frames, "crop_size": question.crop_size}
        data = {**question.recipe.settings["data"], **clips}
        key = json.dumps(data, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._measure(
                question, clips | {"batch_size": VIDEOS * data["clips_per_video"]}
            )
        return self._known[key]

    def _measure(self, question: Question, data: Mapping[str, Any]) -> float | str:
        idle = {
            "class_path": "videonorm.frontier.networks.Idle",
            "init_args": {"backbone": question.recipe.backbone},
        }
        ends = {"max_time": f"00:00:00:{LOADER_SECONDS:02d}"}
        with tempfile.TemporaryDirectory() as folder:
            try:
                feed(question.recipe.settings, idle, Path(folder), data=data, trainer=ends)
            except UserError as error:
                return str(error)
            record = json.loads((Path(folder) / "run" / "run.json").read_text())
        rate = record["clips_per_second"]
        return rate if rate is not None else f"no second batch came in {LOADER_SECONDS} s"


def _measurement(
    question: Question,
    device: Device,
    most: int,
    planned: int,
    planned_gib: float,
    answer: Mapping[str, Any] | None,
    loader: float | str,
) -> Measurement:
    rates: dict[int, float] = {}
    peak = None
    if answer:
        accumulate = question.recipe.accumulate
        rates = {int(b): accumulate * int(b) / median(of) for b, of in answer["seconds"].items()}
        peak = answer["peak"] / GIB
    fastest = max(rates, key=lambda size: rates[size], default=None)
    loaded = loader if isinstance(loader, float) else None
    version = versions()
    return Measurement(
        norm=question.norm,
        num_frames=question.num_frames,
        crop_size=question.crop_size,
        precision=question.recipe.precision,
        accumulate=question.recipe.accumulate,
        max_batch_size=most,
        planned_batch_size=planned,
        gib_at_max=peak,
        gib_held=answer["held"] / GIB if answer and answer["held"] else None,
        planned_gib_at_max=planned_gib if peak else None,
        plan_error_percent=100 * (planned_gib - peak) / peak if peak else None,
        clips_per_second=rates.get(most),
        frames_per_second=rates[most] * question.num_frames if rates else None,
        fastest_batch_size=fastest,
        fastest_clips_per_second=rates[fastest] if fastest else None,
        loader_clips_per_second=loaded,
        decode_bound=loaded < rates[most] if loaded is not None else None,
        loader_error=loader if isinstance(loader, str) else "",
        gib_memory=device.gib_memory,
        gib_reserved=device.gib_reserved,
        device=device.name,
        videonorm=version["videonorm"],
        torch=version["torch"],
        cuda=version["cuda"],
        commit=commit(),
    )
