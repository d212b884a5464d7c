"""The shapes of a multigrid training, step by step: pure arithmetic.

A shape is num_frames x crop_size x crop_size pixels, and as many clips as make a batch of about as many
pixels as at full size. Phases follow from the share of all optimizer steps that is done, as a ``Schedule``
does.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from videonorm.data.sampling import Sampling, StretchedClips
from videonorm.messages import counted

LrRule = Literal["linear", "sqrt", "constant"]


class Shape(NamedTuple):
    """Of the clips of a batch."""

    num_frames: int
    crop_size: int
    batch_size: int
    """Clips per device."""
    stretch: int = 1
    """Frames are up to so many times as far apart as at full size: clips then span what they do there."""

    def scaled(self, time: float, space: float) -> "Shape":
        """A coarser shape of about as many pixels.

        Args:
            time, space: factors of num_frames and crop_size.
        """
        frames, crop = max(round(self.num_frames * time), 1), max(round(self.crop_size * space), 1)
        clips = round(self.num_frames * self.crop_size**2 / (frames * crop**2))
        stretch = self.stretch * (self.num_frames // frames)
        return Shape(frames, crop, self.batch_size * max(clips, 1), max(stretch, 1))

    def __str__(self) -> str:
        return f"{counted(self.batch_size, 'clip')} of {self.num_frames} x {self.crop_size} px"


class Phase(NamedTuple):
    """A stretch of the training."""

    start: float
    """Fraction of all steps that are done when it begins."""
    shapes: tuple[Shape, ...]
    """Of its steps, in turn."""
    lr_factor: float = 1.0


def lay_out(
    full: Shape,
    long_cycle: Sequence[tuple[float, float]],
    short_cycle: Sequence[float],
    stages: Sequence[float],
    fine_tune: float,
    lr_rule: LrRule = "linear",
) -> list[Phase]:
    """The phases: the long cycle in each stage, every shape of it for as many steps, then the full shape.

    Args:
        long_cycle: factors of num_frames and crop_size of each shape.
        short_cycle: factors of the full crop_size, for steps in turn; the last step of a turn has the long
            cycle's crops.
        stages: fractions of training at which a cycle begins.
        fine_tune: fraction of training at the end that has the full shape.
    """
    phases: list[Phase] = []
    grids = [full.scaled(*factors) for factors in long_cycle] or [full]
    for start, end in zip(stages, [*stages[1:], 1 - fine_tune], strict=True):
        for number, grid in enumerate(grids):
            time = grid.num_frames / full.num_frames
            shapes = (*(full.scaled(time, space) for space in short_cycle), grid)
            clips = grid.batch_size / full.batch_size
            factor = {"linear": clips, "sqrt": math.sqrt(clips), "constant": 1.0}[lr_rule]
            phases.append(Phase(start + (end - start) * number / len(grids), shapes, factor))
    return [*phases, Phase(1 - fine_tune, (full,))] if fine_tune else phases


class Plan:
    """Which shape each step and each epoch of a training has.

    Args:
        phases: from the beginning on.
        videos: videos of an epoch on each device.
        clips_per_video, frame_stride: of the full shape and of all.
        accumulate: batches of a step, all of one shape; the last step of an epoch may have fewer.
        max_steps, max_epochs: the length of the training, whichever is reached first; -1 is none.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        videos: int,
        clips_per_video: int,
        frame_stride: int | None,
        frames_per_second: float | None = None,
        accumulate: int,
        max_steps: int,
        max_epochs: int,
    ) -> None:
        self.phases = list(phases)
        self.clips = videos * clips_per_video
        self.clips_per_video = clips_per_video
        self.frame_stride = frame_stride
        self.frames_per_second = frames_per_second
        self.accumulate = accumulate
        self._first_steps = [0]  # of the epochs so far
        self.total_steps = max_steps
        if max_epochs >= 0:
            steps = self._steps_of(max_epochs)
            self.total_steps = steps if max_steps < 0 else min(steps, max_steps)
        self._starts = self._first_steps_of_phases(self.total_steps)

    @property
    def shapes(self) -> list[Shape]:
        """All that occur."""
        return list(dict.fromkeys(shape for phase in self.phases for shape in phase.shapes))

    def lr_factor(self, progress: float) -> float:
        """Of a learning rate, at a fraction of all steps."""
        return self.phases[self._phase_at(progress)].lr_factor

    def shape(self, step: int) -> Shape:
        shapes = self.phases[bisect_right(self._starts, step) - 1].shapes
        return shapes[step % len(shapes)]

    def batches(self, epoch: int) -> list[Shape]:
        """Those of an epoch, counted from 0: one pass over the clips, but for those that fill no batch."""
        while len(self._first_steps) <= epoch:
            self._first_steps.append(self._end_of_epoch(self._first_steps[-1], self._starts))
        batches: list[Shape] = []
        step, left = self._first_steps[epoch], self.clips
        while step < self.total_steps:
            shape = self.shape(step)
            of_step = min(left // shape.batch_size, self.accumulate)
            batches += [shape] * of_step
            left -= of_step * shape.batch_size
            if of_step < self.accumulate:
                break
            step += 1
        return batches

    def with_batches(self, epoch: int) -> int:
        """The epoch, or the last one before that has batches: without any, Lightning ends a run at once."""
        while epoch and not self.batches(epoch):
            epoch -= 1
        return epoch

    def videos_and_clips(self, epoch: int) -> list[tuple[int, Sampling]]:
        """Of each batch of an epoch, as a ``VideoLoader`` wants it."""
        clips = self.frame_stride, self.clips_per_video
        return [
            (
                shape.batch_size // self.clips_per_video,
                StretchedClips(
                    shape.num_frames, *clips, shape.stretch, frames_per_second=self.frames_per_second
                ),
            )
            for shape in self.batches(epoch)
        ]

    def _phase_at(self, progress: float) -> int:
        return max(bisect_right([phase.start for phase in self.phases], progress) - 1, 0)

    def _first_steps_of_phases(self, total_steps: int) -> list[int]:
        """The first step of each phase, as ``_phase_at`` has it for step / total_steps, rounding and all."""
        starts: list[int] = []
        for phase in self.phases:
            step = math.ceil(phase.start * total_steps)
            while step and (step - 1) / total_steps >= phase.start:
                step -= 1
            while step < total_steps and step / total_steps < phase.start:
                step += 1
            starts.append(step)
        return starts

    def _steps_of(self, epochs: int) -> int:
        """Steps of a training of so many epochs.

        Where the phases are depends on it and it on them: it is the number that leaves least of the last
        epoch out. The more steps there are said to be, the more go to large batches, and the fewer fit.
        """
        most = epochs * math.ceil(self.clips / min(shape.batch_size for shape in self.shapes))
        few, many = 0, most + 1
        while many - few > 1:
            middle = (few + many) // 2
            fits = self._fits(middle, epochs)
            few, many = (middle, many) if fits else (few, middle)
        return few

    def _fits(self, total_steps: int, epochs: int) -> bool:
        starts, step = self._first_steps_of_phases(total_steps), 0
        for _ in range(epochs):
            step = self._end_of_epoch(step, starts)
        return step >= total_steps

    def _end_of_epoch(self, step: int, starts: Sequence[int]) -> int:
        """The first step of the next epoch, of one that begins with ``step``."""
        left = self.clips
        while True:
            number = bisect_right(starts, step) - 1
            shapes = self.phases[number].shapes
            end = starts[number + 1] if number + 1 < len(starts) else math.inf
            of_turn = self.accumulate * sum(shape.batch_size for shape in shapes)
            turns = int(min(left // of_turn, (end - step) // len(shapes)))
            step += turns * len(shapes)
            left -= turns * of_turn
            while step < end:
                size = shapes[step % len(shapes)].batch_size
                batches = min(left // size, self.accumulate)
                left -= batches * size
                step += batches > 0
                if batches < self.accumulate:
                    return step
