"""The largest batch of each norm, clip length and crop that a memory holds, traced before anything is run."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from videonorm.errors import UserError
from videonorm.files import open_new
from videonorm.frontier.memory import PRECISIONS, Footprint, refuses_one_clip, trace_step
from videonorm.frontier.recipe import Recipe, build
from videonorm.machine import available_cores, commit, versions

GIB = 2**30


@dataclass(frozen=True)
class Point:
    """A norm, a clip length and a crop, and what fits. The fields are the columns of the CSV.

    Attributes:
        max_batch_size: 0 where no batch fits.
        gib_fixed: weights, buffers, optimizer state.
        gib_saved_per_clip: what autograd keeps of a clip more.
        gib_peak_per_clip: what a clip more adds to the fullest moment, at the largest batch.
        gib_at_max: at the fullest moment of the largest batch.
        gib_memory: of the GPU; gib_reserved of them are kept for what is not traced.
    """

    norm: str
    num_frames: int
    crop_size: int
    precision: str
    max_batch_size: int
    gib_fixed: float
    gib_saved_per_clip: float
    gib_peak_per_clip: float
    gib_at_max: float
    gib_memory: float
    gib_reserved: float
    torch: str | None
    commit: str | None


@dataclass(frozen=True)
class Question:
    """One norm's recipe at one shape of clips."""

    norm: str
    recipe: Recipe
    num_frames: int
    crop_size: int

    @property
    def clip(self) -> tuple[int, int, int]:
        """T, H, W."""
        return self.num_frames, self.crop_size, self.crop_size


def plan(questions: Sequence[Question], gib_memory: float, gib_reserved: float) -> Iterator[Point]:
    """Answer questions, in their order, in as many processes as there are cores.

    Raises:
        UserError: the precision cannot be planned, or the network does not take such clips.
    """
    ask = partial(answer, gib_memory=gib_memory, gib_reserved=gib_reserved)
    workers = min(available_cores(), len(questions))
    # Not forked: torch may have started threads.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(ask, questions)


def answer(question: Question, gib_memory: float, gib_reserved: float) -> Point:
    """Trace a step and find the largest batch."""
    step = footprint(question)
    most = largest_batch_size(question, step, gib_memory - gib_reserved)
    return Point(
        norm=question.norm,
        num_frames=question.num_frames,
        crop_size=question.crop_size,
        precision=question.recipe.precision,
        max_batch_size=most,
        gib_fixed=step.fixed / GIB,
        gib_saved_per_clip=step.saved_per_clip / GIB,
        gib_peak_per_clip=(step.peak(most + 1) - step.peak(most)) / GIB,
        gib_at_max=step.peak(most) / GIB if most else 0.0,
        gib_memory=gib_memory,
        gib_reserved=gib_reserved,
        torch=versions()["torch"],
        commit=commit(),
    )


def footprint(question: Question) -> Footprint:
    """Trace a step.

    Raises:
        UserError: the precision cannot be planned, or the network does not take such clips.
    """
    recipe = question.recipe
    if recipe.precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision ({recipe.precision}) must be one of {', '.join(PRECISIONS)} to be planned"
        )
    try:
        return trace_step(*build(recipe), question.clip, recipe.precision, recipe.accumulate)
    except (RuntimeError, ValueError) as error:
        raise UserError(untrainable(question, error)) from error


def untrainable(question: Question, error: object) -> str:
    """The sentence about a network that does not take clips of such a shape."""
    return (
        f"{question.norm} must be trainable on clips of {question.num_frames} frames of "
        f"{question.crop_size} x {question.crop_size}: {str(error).splitlines()[0]}"
    )


def largest_batch_size(question: Question, step: Footprint, gib: float) -> int:
    """The largest B whose step takes at most so much; 0 if none does that the network can be trained on."""
    most = step.largest_batch_size(int(gib * GIB))
    if most == 1 and refuses_one_clip(build(question.recipe)[0], question.clip, question.recipe.precision):
        return 0
    return most


def write_csv(columns: type[Any], rows: Sequence[Any], path: Path) -> None:
    """Write rows, instances of a dataclass whose fields are the columns."""
    with open_new(path) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(columns)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells: dict[str, Any] = asdict(row)
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in cells.items()})


def sentence(points: Sequence[Any]) -> str:
    """What fits at the longest clips, the norm that holds most beside the first one asked for.

    Args:
        points: ``Point`` or ``Measurement``.
    """
    longest = max(points, key=lambda point: (point.num_frames, point.crop_size))
    here = [p for p in points if (p.num_frames, p.crop_size) == (longest.num_frames, longest.crop_size)]
    first, most = here[0], max(here, key=lambda point: point.max_batch_size)
    memory = f"{first.gib_memory:g} GiB"
    if not most.max_batch_size:
        return f"{memory} hold no clip of {first.num_frames} frames, whichever of these norms."
    held = f"{memory} hold {first.num_frames} x {most.max_batch_size} clips with {most.norm}"
    if most == first:
        return f"{held}."
    return f"{held} where {first.norm} holds {first.max_batch_size or 'none'}."
