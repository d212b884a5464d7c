"""What a sweep has found, in sentences drawn from its results, each with its uncertainty.

The best of many cells is the likeliest to be lucky. So it is called best only where its differences to all
others exclude zero, with intervals that hold with 95 % for all of these comparisons together (Bonferroni).
The differences between arms at its T and B, and along T or B of one arm, carry a 95 % interval each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from videonorm.sweep.cells import Cell, frames_per_step, highest, is_tied, strides_differ, with_result
from videonorm.sweep.intervals import Estimate
from videonorm.sweep.look import percent


@dataclass(frozen=True)
class Answer:
    """The headline, and what supports it: one sentence each."""

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
        *finding.other_arms(),
        *finding.changes("num_frames", of_size),
        *finding.changes("batch_size", of_length),
        *finding.bounds(),
        *_caveats(cells),
    ]
    return Answer(finding.headline(device), details)


@dataclass(frozen=True)
class _Finding:
    """The cells with a result, and the best of them."""

    done: Sequence[Cell]
    best: Cell

    def _shape(self, cell: Cell) -> str:
        return f"T={cell.shape.length(strides_differ(self.done))}, B={cell.shape.batch_size}"

    def _name(self, cell: Cell) -> str:
        return f"{cell.arm} at {self._shape(cell)}"

    def headline(self, device: str | None) -> str:
        best, top1, seeds = self.best, self.best.top1, len(self.best.done)
        frames = frames_per_step(self.done)
        where = [f"with {frames} frames a step"] if frames else []
        where += [f"on {device}"] if device else []
        lead = " ".join(where or ["in this sweep"])
        lead = f"{lead[0].upper()}{lead[1:]}, "
        score = (
            f"{top1.percent} top-1 (95 % CI {top1.interval}; {best.num_videos} videos, "
            f"{seeds} {'seed' if seeds == 1 else 'seeds'})"
        )
        others = [cell for cell in self.done if cell is not best]
        if not others:
            return f"{lead}{self._name(best)} reaches {score}; no other cell has a result."

        together = 1 - 0.05 / len(others)  # confidence of each interval for 95 % of all
        gaps = [(other, best.ahead_of(other, together)) for other in others]
        rivals = [(other, gap) for other, gap in gaps if gap is None or not gap.excludes_zero]
        if not rivals:
            return f"{lead}{self._name(best)} is best: {score}."
        nearest, gap = max(rivals, key=lambda rival: rival[0].top1.value)
        rest = f"{self._name(nearest)} with {nearest.top1.percent}"
        if len(rivals) == 1:
            rest += " cannot be told apart from it"
        else:
            rest = f"{len(rivals)} other cells cannot be told apart from it, the nearest {rest}"
        by = f"difference {_points(gap, len(others))}" if gap else "they share no seed"
        return f"{lead}no single cell is best: {self._name(best)} is highest with {score}, but {rest}: {by}."

    def other_arms(self) -> Iterable[str]:
        """The other arms in the best cell's shape."""
        best = self.best
        for other in self.done:
            if other.arm != best.arm and other.shape == best.shape and (gap := best.ahead_of(other)):
                verdict = "is ahead by" if gap.excludes_zero else "cannot be told apart from it: difference"
                yield (
                    f"At {self._shape(best)}, {other.arm} reaches {other.top1.percent}; "
                    f"{best.arm} {verdict} {_points(gap)}."
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
                    f"{least.top1.percent} to {most.top1.percent}: {doubt}{_points(gap)}."
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
    return f"{100 * gap.value:+.1f} points (95 % CI{over} {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
