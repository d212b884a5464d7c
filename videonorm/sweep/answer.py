"""What a sweep has found, in sentences drawn from its results, each with its uncertainty.

The best of many cells is the likeliest to be lucky. So it is called best only where it can be told from
every other, with Holm's correction for all of these tests together. The differences between arms at its T and
B, and along T or B of one arm, carry a 95 % interval each. Where they come from: ``comparisons``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from videonorm.differences import MOST_SEEDS, MOST_VIDEOS, Difference
from videonorm.intervals import Estimate
from videonorm.look import CI, percent, points, span
from videonorm.messages import counted
from videonorm.sweep.axes import in_words
from videonorm.sweep.cells import (
    Cell,
    clips_seen,
    frames_per_step,
    highest,
    is_tied,
    strides_differ,
    varied_axes,
    with_result,
)
from videonorm.sweep.comparisons import Comparisons, Rival
from videonorm.sweep.scores import Scores


@dataclass(frozen=True)
class Answer:
    """The headline, of at most 25 words, and what supports it: one sentence each, the decision first."""

    headline: str
    details: list[str]


def answer(
    cells: Sequence[Cell],
    device: str | None = None,
    *,
    scores: Scores | None = None,
    device_memory_mib: float | None = None,
) -> Answer:
    """Say which cell is best, by how much, at what cost, and what longer clips and other arms change.

    Args:
        cells: every cell of the sweep, failed ones too.
        device: what the runs were computed on, if one thing.
        scores: of the runs on single videos, as far as they are there.
        device_memory_mib: how much memory the device has, where it has its own.
    """
    best = highest(cells)
    if best is None:
        failed = sum(len(cell.results) for cell in cells)
        return Answer(f"No run has a result: {failed} failed." if failed else "No run has a result yet.", [])
    comparisons = Comparisons(cells, scores)
    finding = _Finding(with_result(cells), best, comparisons)
    alike = finding.with_axes_of_best()
    shape, tied = best.shape, is_tied(alike)
    # Along one axis the others are held, unless T and B move together.
    of_size = [cell for cell in alike if tied or cell.shape.batch_size == shape.batch_size]
    of_length = [cell for cell in alike if cell.shape[:2] == shape[:2] and not tied]
    details = [
        finding.decision(device, device_memory_mib),
        finding.score(device),
        *finding.nearest(),
        *finding.budgets(),
        *finding.other_arms(alike),
        *finding.changes("num_frames", of_size),
        *finding.changes("batch_size", of_length),
        *finding.bounds(),
        *_caveats(cells, comparisons),
    ]
    return Answer(finding.headline(), details)


@dataclass(frozen=True)
class _Finding:
    """The cells with a result, and the best of them."""

    done: Sequence[Cell]
    best: Cell
    comparisons: Comparisons

    @cached_property
    def _axes(self) -> list[str]:
        return varied_axes(self.done)

    def _shape(self, cell: Cell) -> str:
        num_frames, frame_stride, batch_size = cell.shape
        stride = f"x{frame_stride}" if strides_differ(self.done) else ""
        return f"T={num_frames}{stride}, B={batch_size}{self._more(cell)}"

    def _more(self, cell: Cell) -> str:
        """Its values of the further axes that tell cells apart."""
        words = in_words(cell.axes, [axis for axis in self._axes if axis in cell.axes])
        return f", {words}" if words else ""

    def _name(self, cell: Cell) -> str:
        return f"{cell.arm} at {self._shape(cell)}"

    def with_axes_of_best(self) -> list[Cell]:
        """Cells that differ from the best in arm and shape alone."""
        own = [self.best.axes.get(axis) for axis in self._axes]
        return [cell for cell in self.done if [cell.axes.get(axis) for axis in self._axes] == own]

    @cached_property
    def _others(self) -> list[Rival]:
        return self.comparisons.rivals(self.best, self.done)

    @cached_property
    def _rivals(self) -> list[Rival]:
        """Cells that cannot be told apart from the best."""
        return [other for other in self._others if not other.is_told_apart]

    def _nearest(self) -> Rival:
        """The highest of those that cannot be told apart from the best, or of those that can."""
        return max(self._rivals or self._others, key=lambda other: other.cell.top1.value)

    def _measure(self) -> Rival:
        """What the decision weighs the best against: the highest cell of the sweep's first other arm."""
        arm = next((cell.arm for cell in self.done if cell.arm != self.best.arm), self.best.arm)
        return max(
            (other for other in self._others if other.cell.arm == arm),
            key=lambda other: other.cell.top1.value,
        )

    def headline(self) -> str:
        name, top1 = self._name(self.best), f"{self.best.top1.percent} top-1"
        others, rivals, all_clips = self._others, self._rivals, clips_seen(self.done)
        if not others:
            return f"{name} reaches {top1}; no other cell has a result."
        if rivals:
            count = "1 other" if len(rivals) == 1 else f"{len(rivals)} others"
            budget = f"; cells saw {span(all_clips)} clips" if len(all_clips) > 1 else ""
            return f"No clear winner: {name} leads with {top1}, but {count} cannot be told apart{budget}."
        budget = ""
        if len(all_clips) > 1:
            theirs = clips_seen(other.cell for other in others)
            seen = span(theirs) if theirs else "an unknown number"
            budget = f", having seen {self.best.clips} clips; the others saw {seen}"
        return f"{name} is best with {top1}{budget}."

    def score(self, device: str | None) -> str:
        """How sure the top-1 of the best is, and on what it was measured."""
        best, seeds, frames = self.best, len(self.best.done), frames_per_step(self.done)
        measured = [counted(best.num_videos, "video"), counted(seeds, "seed")]
        measured += [f"{frames} frames a step"] if frames else []
        measured += [f"on {device}"] if device else []
        return f"{self._name(best)}: {best.top1.percent} ({CI} {best.top1.interval}; {', '.join(measured)})."

    def decision(self, device: str | None, device_memory_mib: float | None) -> str:
        """What to train, how sure that is, and what it costs."""
        best, where = self.best, f"On {device}, for this data" if device else "For this data"
        size = f"{best.arm}, {best.shape.length()}, B = {best.shape.batch_size}{self._more(best)}"
        memory = _memory(best.peak_memory_mib, device_memory_mib)
        if not self._others:
            return f"{where}: {size}{memory}; there is no other cell to compare it with."
        if not self._rivals:
            other = self._measure()
            assert other.lead  # else it were a rival
            what = "next cell" if other.cell.arm == best.arm else f"best {other.cell.arm} cell"
            speed = _speed(best, other.cell)
            return f"{where}: {size}; {_points(other.lead.estimate())} over the {what}{speed}{memory}."
        nearest = self._nearest()
        by = f": {_points(nearest.lead.estimate())}" if nearest.lead else ""
        return (
            f"{where}: no decision; {size} is not distinguishable from {self._name(nearest.cell)}{by}"
            f"{_speed(best, nearest.cell)}{memory}; {_needed(nearest.lead)}."
        )

    def nearest(self) -> Iterable[str]:
        """How far the nearest cell is, and how many cannot be told apart."""
        if not self._others:
            return
        nearest, rivals = self._nearest(), self._rivals
        cell, lead = nearest.cell, nearest.lead
        which = f"{self._name(cell)} with {cell.top1.percent}"
        tests = (
            f" after Holm's correction over {len(self._others)} comparisons" if len(self._others) > 1 else ""
        )
        p_value = f", p {_p(nearest.p_value)}{tests}"
        by = "they share no seed"
        if lead:
            within = f"; at most {100 * lead.within:.1f} points apart" if rivals else ""
            by = f"{_points(lead.estimate())}{p_value}{within}{_clips(self.best, cell)}"
        difference = "difference " if lead else ""
        if not rivals:
            yield f"It is ahead of the nearest, {which}, by {by}."
        elif len(rivals) == 1:
            yield f"{which} cannot be told apart from it: {difference}{by}."
        else:
            yield f"{len(rivals)} others cannot be told apart from it, the nearest {which}: {difference}{by}."

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

    def other_arms(self, cells: Sequence[Cell]) -> Iterable[str]:
        """The other arms in the best cell's shape."""
        best = self.best
        for other in cells:
            if other.arm != best.arm and other.shape == best.shape and (gap := self._gap(best, other)):
                verdict = "is ahead by" if gap.excludes_zero else "cannot be told apart from it: difference"
                yield (
                    f"At {self._shape(best)}, {other.arm} reaches {other.top1.percent}; "
                    f"{best.arm} {verdict} {_points(gap)}{_clips(best, other)}."
                )

    def _gap(self, first: Cell, second: Cell) -> Estimate | None:
        difference = self.comparisons.difference(first, second)
        return difference.estimate() if difference else None

    def changes(self, axis: Literal["num_frames", "batch_size"], cells: Sequence[Cell]) -> Iterable[str]:
        """From the least of an axis to the most, for each arm."""

        def size(cell: Cell) -> int:
            return getattr(cell.shape, axis)  # type: ignore[no-any-return]

        for arm in dict.fromkeys(cell.arm for cell in cells):
            line = [cell for cell in cells if cell.arm == arm]
            least, most = min(line, key=size), max(line, key=size)
            if size(least) < size(most) and (gap := self._gap(most, least)):
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


def _caveats(cells: Sequence[Cell], comparisons: Comparisons) -> Iterable[str]:
    if max(len(cell.done) for cell in cells) == 1:
        yield (
            "With one seed the intervals cover the choice of validation videos, not the luck of training; "
            "--seeds 3 covers both."
        )
    runs = [result for cell in cells for result in cell.results]
    if comparisons.unpaired and len(with_result(cells)) > 1:
        missing = len(comparisons.unpaired)
        which = "the cells" if missing == len(with_result(cells)) else f"{missing} of the cells"
        yield (
            f"The scores of {which} on single videos are not known (scores.npz); comparisons with them are "
            "not paired by video, and their intervals rather too wide."
        )
    if comparisons.left_out:
        all_videos = comparisons.num_videos + comparisons.left_out
        which = f"{comparisons.left_out} of {all_videos} videos"
        yield f"{which} were not scored by every run and are in no comparison."
    if failed := sum(not result.done for result in runs):
        yield f"{failed} of {len(runs)} runs failed and are in no comparison."


def _points(gap: Estimate) -> str:
    return f"{points(gap.value)} points ({CI} {points(gap.low)} to {points(gap.high)})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _speed(best: Cell, other: Cell) -> str:
    """Of training, in frames a second, for clips of other lengths are other work."""
    ours, theirs = (cell.clips_per_second * cell.shape.num_frames for cell in (best, other))
    return f", at {ours / theirs:.2f} of its speed" if ours and theirs else ""


def _memory(peak_mib: float | None, device_memory_mib: float | None) -> str:
    """What a cell took of the device's memory, as far as both are known."""
    if not peak_mib:
        return ""
    digits = 0 if peak_mib >= 10 * 1024 else 1
    of = f" of {device_memory_mib / 1024:.0f}" if device_memory_mib else ""
    return f", {peak_mib / 1024:.{digits}f}{of} GiB"


def _needed(lead: Difference | None) -> str:
    """What would tell two cells apart."""
    if lead is None:
        return "they share no seed"
    return needed(lead, lead.seeds_needed, lead.videos_needed)


def needed(lead: Difference, seeds: int | None, videos: int | None) -> str:
    """That so many ``seeds`` a cell, or so many ``videos``, would be enough; None where no number would."""
    now = max((of.count for of in lead.seeds), default=1)
    if seeds is None and videos is None and lead.seeds:
        return f"neither {MOST_SEEDS:,} seeds nor {MOST_VIDEOS:,} times the videos alone would do"
    more_seeds = f"at least about {counted(max(1, (seeds or 0) - now), 'more seed')}"
    if not lead.seeds:
        more_seeds = "more seeds, whose spread one seed does not show"
    if videos is None:
        return f"{more_seeds} would be needed; {MOST_VIDEOS:,} times the videos alone would not do"
    more_videos = f"about {counted(max(1, videos - lead.num_videos), 'more video')}"
    if seeds is None and lead.seeds:
        return f"at least {more_videos} would be needed; {MOST_SEEDS:,} seeds alone would not do"
    return f"{more_seeds}, or at least {more_videos}, would be needed"


def _clips(first: Cell, second: Cell) -> str:
    """What two cells saw, where that differs."""
    same = first.clips_seen == second.clips_seen
    return "" if same else f", after {first.clips} and {second.clips} clips"
