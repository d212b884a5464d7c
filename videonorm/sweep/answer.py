"""What a sweep has found, in sentences drawn from its results, each with its uncertainty.

The best of many cells is the likeliest to be lucky. So it is called best only where its differences to all
others exclude zero, with intervals that hold with 95 % for all of these comparisons together (Bonferroni).
The differences between arms at its T and B, and along T or B of one arm, carry a 95 % interval each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from videonorm.look import CI, percent, points, span
from videonorm.sweep.cells import (
    Cell,
    clips_seen,
    frames_per_step,
    highest,
    is_tied,
    strides_differ,
    with_result,
)
from videonorm.sweep.intervals import Estimate


@dataclass(frozen=True)
class Answer:
    """The headline, of at most 25 words, and what supports it: one sentence each."""

    headline: str
    details: list[str]


def answer(cells: Sequence[Cell], device: str | None = None) -> Answer:
    """Say which cell is best, by how much, and what longer clips and other arms change.

    Args:
        cells: every cell of the sweep, failed ones too.
        device: what the runs were computed on, if one thing.
    """
    best = highest(cells)
    if best is None:
        failed = sum(len(cell.results) for cell in cells)
        return Answer(f"No run has a result: {failed} failed." if failed else "No run has a result yet.", [])
    finding = _Finding(with_result(cells), best)
    shape, tied = best.shape, is_tied(finding.done)
    # Along one axis the other is held, unless the two move together.
    of_size = [cell for cell in finding.done if tied or cell.shape.batch_size == shape.batch_size]
    of_length = [cell for cell in finding.done if cell.shape[:2] == shape[:2] and not tied]
    details = [
        finding.score(device),
        *finding.nearest(),
        *finding.budgets(),
        *finding.other_arms(),
        *finding.changes("num_frames", of_size),
        *finding.changes("batch_size", of_length),
        *finding.bounds(),
        *_caveats(cells),
    ]
    return Answer(finding.headline(), details)


@dataclass(frozen=True)
class _Finding:
    """The cells with a result, and the best of them."""

    done: Sequence[Cell]
    best: Cell

    def _shape(self, cell: Cell) -> str:
        num_frames, frame_stride, batch_size = cell.shape
        stride = f"x{frame_stride}" if strides_differ(self.done) else ""
        return f"T={num_frames}{stride}, B={batch_size}"

    def _name(self, cell: Cell) -> str:
        return f"{cell.arm} at {self._shape(cell)}"

    def _others(self) -> list[Cell]:
        return [cell for cell in self.done if cell is not self.best]

    def _gap(self, other: Cell) -> Estimate | None:
        """To the best, with intervals that hold for all comparisons together; None without a common seed."""
        return self.best.ahead_of(other, 1 - 0.05 / len(self._others()))

    def _rivals(self) -> list[Cell]:
        """Cells that cannot be told apart from the best."""
        gaps = {id(other): self._gap(other) for other in self._others()}
        return [cell for cell in self._others() if not ((gap := gaps[id(cell)]) and gap.excludes_zero)]

    def headline(self) -> str:
        name, top1 = self._name(self.best), f"{self.best.top1.percent} top-1"
        others, rivals, all_clips = self._others(), self._rivals(), clips_seen(self.done)
        if not others:
            return f"{name} reaches {top1}; no other cell has a result."
        if rivals:
            count = "1 other" if len(rivals) == 1 else f"{len(rivals)} others"
            budget = f"; cells saw {span(all_clips)} clips" if len(all_clips) > 1 else ""
            return f"No clear winner: {name} leads with {top1}, but {count} cannot be told apart{budget}."
        budget = ""
        if len(all_clips) > 1:
            seen = span(clips_seen(others)) if clips_seen(others) else "an unknown number"
            budget = f", having seen {self.best.clips} clips; the others saw {seen}"
        return f"{name} is best with {top1}{budget}."

    def score(self, device: str | None) -> str:
        """How sure the top-1 of the best is, and on what it was measured."""
        best, seeds, frames = self.best, len(self.best.done), frames_per_step(self.done)
        measured = [f"{best.num_videos} videos", f"{seeds} {'seed' if seeds == 1 else 'seeds'}"]
        measured += [f"{frames} frames a step"] if frames else []
        measured += [f"on {device}"] if device else []
        return f"{self._name(best)}: {best.top1.percent} ({CI} {best.top1.interval}; {', '.join(measured)})."

    def nearest(self) -> Iterable[str]:
        """The highest of those that cannot be told apart from the best, or of those that can."""
        others, rivals = self._others(), self._rivals()
        if not others:
            return
        cell = max(rivals or others, key=lambda other: other.top1.value)
        gap, which = self._gap(cell), f"{self._name(cell)} with {cell.top1.percent}"
        by = f"{_points(gap, len(others))}{_clips(self.best, cell)}" if gap else "they share no seed"
        if not rivals:
            yield f"It is ahead of the nearest, {which}, by {by}."
        elif len(rivals) == 1:
            yield f"{which} cannot be told apart from it: {'difference ' if gap else ''}{by}."
        else:
            yield (
                f"{len(rivals)} others cannot be told apart from it, the nearest {which}: "
                f"{'difference ' if gap else ''}{by}."
            )

    def budgets(self) -> Iterable[str]:
        """What the cells saw, where that was not the same number of clips for all."""
        if len(clips_seen(self.done)) < 2:
            return
        known = [cell for cell in self.done if cell.clips_seen]
        least = min(known, key=lambda cell: min(cell.clips_seen))
        most = max(known, key=lambda cell: max(cell.clips_seen))
        runs = [result for cell in self.done for result in cell.done]
        common = []
        for what, counts in (
            ("frames", {result.frames_seen for result in runs}),
            ("steps", {result.steps for result in runs}),
        ):
            if len(counts) == 1 and (count := counts.pop()):
                common.append(f"{count:,} {what}")
        same = f", all in {' and '.join(common)}" if common else ""
        yield (
            f"The cells saw unequal numbers of clips, from {min(least.clips_seen):,} ({self._shape(least)}) "
            f"to {max(most.clips_seen):,} ({self._shape(most)}){same}."
        )

    def other_arms(self) -> Iterable[str]:
        """The other arms in the best cell's shape."""
        best = self.best
        for other in self.done:
            if other.arm != best.arm and other.shape == best.shape and (gap := best.ahead_of(other)):
                verdict = "is ahead by" if gap.excludes_zero else "cannot be told apart from it: difference"
                yield (
                    f"At {self._shape(best)}, {other.arm} reaches {other.top1.percent}; "
                    f"{best.arm} {verdict} {_points(gap)}{_clips(best, other)}."
                )

    def changes(self, axis: Literal["num_frames", "batch_size"], cells: Sequence[Cell]) -> Iterable[str]:
        """From the least of an axis to the most, for each arm."""

        def size(cell: Cell) -> int:
            return getattr(cell.shape, axis)  # type: ignore[no-any-return]

        for arm in dict.fromkeys(cell.arm for cell in cells):
            line = [cell for cell in cells if cell.arm == arm]
            least, most = min(line, key=size), max(line, key=size)
            if size(least) < size(most) and (gap := most.ahead_of(least)):
                doubt = "" if gap.excludes_zero else "a change that cannot be told from none, "
                yield (
                    f"From {self._shape(least)} to {self._shape(most)}, {arm} goes from "
                    f"{least.top1.percent} to {most.top1.percent}: {doubt}{_points(gap)}"
                    f"{_clips(least, most)}."
                )

    def bounds(self) -> list[str]:
        classes, ceiling = self.best.done[0].num_classes, self.best.best_possible_top1
        bounds = [f"Chance is {percent(1 / classes)}."] if classes else []
        if ceiling and ceiling < 1:
            frames = self.best.shape.num_frames
            bounds += [f"No model can exceed {percent(ceiling)} with {frames} frames."]
        return [" ".join(bounds)] if bounds else []


def _caveats(cells: Sequence[Cell]) -> Iterable[str]:
    if max(len(cell.done) for cell in cells) == 1:
        yield (
            "With one seed the intervals cover the choice of validation videos, not the luck of training; "
            "--seeds 3 covers both."
        )
    runs = [result for cell in cells for result in cell.results]
    if failed := sum(not result.done for result in runs):
        yield f"{failed} of {len(runs)} runs failed and are in no comparison."


def _points(gap: Estimate, comparisons: int = 1) -> str:
    over = f" over {comparisons} comparisons" if comparisons > 1 else ""
    return f"{points(gap.value)} points ({CI}{over} {points(gap.low)} to {points(gap.high)})"


def _clips(first: Cell, second: Cell) -> str:
    """What two cells saw, where that differs."""
    same = first.clips_seen == second.clips_seen
    return "" if same else f", after {first.clips} and {second.clips} clips"
