"""What a sweep has found, in sentences drawn from its results, each with its uncertainty.

The best of many cells is the likeliest to be lucky. So it is called best only where its differences to all
others exclude zero, with intervals that hold with 95 % for all of these comparisons together (Bonferroni).
The differences between norms at its T and B, and along T or B of one norm, carry a 95 % interval each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from videonorm.sweep.intervals import Estimate
from videonorm.sweep.results import Summary, is_tied


@dataclass(frozen=True)
class Answer:
    """The headline, and what supports it: one sentence each."""

    headline: str
    details: list[str]


def answer(summaries: Sequence[Summary], device: str | None = None) -> Answer:
    """Say which cell is best, by how much, and what longer clips and other norms change.

    Args:
        summaries: every cell of the sweep, failed ones too.
        device: what the cells ran on, if one thing.
    """
    done = [summary for summary in summaries if summary.done]
    if not done:
        failed = sum(len(summary.results) for summary in summaries)
        return Answer(
            f"No cell has a result: {failed} failed." if failed else "No cell has a result yet.", []
        )
    best = max(done, key=lambda summary: summary.top1.value)
    words = _Words(done)
    details = [
        *_other_norms(best, done, words),
        *_longer_clips(best, done, words),
        *_larger_batches(best, done, words),
        *_bounds(best),
        *_caveats(summaries),
    ]
    return Answer(_headline(best, done, words, device), details)


class _Words:
    """How a cell is named: with its stride only where strides differ."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self.strides_differ = len({summary.frame_stride for summary in summaries}) > 1

    def shape(self, summary: Summary) -> str:
        stride = f" x {summary.frame_stride}" if self.strides_differ else ""
        return f"T={summary.num_frames}{stride}, B={summary.batch_size}"

    def cell(self, summary: Summary) -> str:
        return f"{summary.norm} at {self.shape(summary)}"


def _headline(best: Summary, done: Sequence[Summary], words: _Words, device: str | None) -> str:
    frames = {result.frames_per_step for summary in done for result in summary.done}
    where = [f"with {frames.pop()} frames a step"] if len(frames) == 1 else []
    where += [f"on {device}"] if device else []
    lead = " ".join(where or ["in this sweep"])
    lead = lead[0].upper() + lead[1:]
    top1 = best.top1
    seeds = len(best.done)
    score = (
        f"{_percent(top1.value)} top-1 (95 % CI {_range(top1)}; {best.num_videos} videos, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'})"
    )
    others = [summary for summary in done if summary is not best]
    if not others:
        return f"{lead}, {words.cell(best)} reaches {score}; no other cell has a result."

    gaps = [(other, best.ahead_of(other, _together(len(others)))) for other in others]
    rivals = [(other, gap) for other, gap in gaps if gap is None or not gap.excludes_zero]
    if not rivals:
        return f"{lead}, {words.cell(best)} is best: {score}."
    nearest, gap = max(rivals, key=lambda rival: rival[0].top1.value)
    is_nearest = f"{words.cell(nearest)} with {_percent(nearest.top1.value)}"
    by = f"difference {_points(gap, len(others))}" if gap else "they share no seed"
    if len(rivals) == 1:
        rest = f"but {is_nearest} cannot be told apart from it: {by}."
    else:
        rest = f"but {len(rivals)} other cells cannot be told apart from it, the nearest {is_nearest}: {by}."
    return f"{lead}, no single cell is best: {words.cell(best)} is highest with {score}, {rest}"


def _other_norms(best: Summary, done: Sequence[Summary], words: _Words) -> list[str]:
    """The other norms at the best cell's T and B."""
    sentences = []
    for other in done:
        if other.norm != best.norm and words.shape(other) == words.shape(best):
            gap = best.ahead_of(other)
            if gap is not None:
                verdict = "is ahead by" if gap.excludes_zero else "cannot be told apart from it: difference"
                sentences.append(
                    f"At {words.shape(best)}, {other.norm} reaches {_percent(other.top1.value)}; "
                    f"{best.norm} {verdict} {_points(gap)}."
                )
    return sentences


def _longer_clips(best: Summary, done: Sequence[Summary], words: _Words) -> list[str]:
    """Shortest to longest clips, for each norm: at the best cell's B, or over all where T and B are tied."""
    tied = is_tied(done)
    sentences = []
    for norm in dict.fromkeys(summary.norm for summary in done):
        line = [s for s in done if s.norm == norm and (tied or s.batch_size == best.batch_size)]
        short = min(line, key=lambda s: s.num_frames, default=None)
        long = max(line, key=lambda s: s.num_frames, default=None)
        if short and long and short.num_frames < long.num_frames:
            gap = long.ahead_of(short)
            if gap is not None:
                sentences.append(
                    f"From {words.shape(short)} to {words.shape(long)}, {norm} goes from "
                    f"{_percent(short.top1.value)} to {_percent(long.top1.value)}: {_change(gap)}."
                )
    return sentences


def _larger_batches(best: Summary, done: Sequence[Summary], words: _Words) -> list[str]:
    """Smallest to largest batch at the best cell's clip length, for each norm, where T and B are not tied."""
    if is_tied(done):
        return []
    sentences = []
    for norm in dict.fromkeys(summary.norm for summary in done):
        length = (best.num_frames, best.frame_stride)
        line = [s for s in done if s.norm == norm and (s.num_frames, s.frame_stride) == length]
        small = min(line, key=lambda s: s.batch_size, default=None)
        large = max(line, key=lambda s: s.batch_size, default=None)
        if small and large and small.batch_size < large.batch_size:
            gap = large.ahead_of(small)
            if gap is not None:
                sentences.append(
                    f"From {words.shape(small)} to {words.shape(large)}, {norm} goes from "
                    f"{_percent(small.top1.value)} to {_percent(large.top1.value)}: {_change(gap)}."
                )
    return sentences


def _bounds(best: Summary) -> list[str]:
    classes, ceiling = best.done[0].num_classes, best.best_possible_top1
    bounds = [f"Chance is {_percent(1 / classes)}."] if classes else []
    bounds += (
        [f"No model can exceed {_percent(ceiling)} with {best.num_frames} frames."]
        if ceiling and ceiling < 1
        else []
    )
    return [" ".join(bounds)] if bounds else []


def _caveats(summaries: Sequence[Summary]) -> list[str]:
    sentences = []
    if max(len(summary.done) for summary in summaries) == 1:
        sentences.append(
            "With one seed the intervals cover the choice of validation videos, not the luck of training; "
            "--seeds 3 covers both."
        )
    failed = [result for summary in summaries for result in summary.results if not result.done]
    if failed:
        total = sum(len(summary.results) for summary in summaries)
        sentences.append(f"{len(failed)} of {total} cells failed and are in no comparison.")
    return sentences


def _together(comparisons: int) -> float:
    """Confidence of each interval for 95 % of all together."""
    return 1 - 0.05 / comparisons


def _change(gap: Estimate) -> str:
    return _points(gap) if gap.excludes_zero else f"a change that cannot be told from none, {_points(gap)}"


def _points(gap: Estimate, comparisons: int = 1) -> str:
    over = f" over {comparisons} comparisons" if comparisons > 1 else ""
    return f"{100 * gap.value:+.1f} points (95 % CI{over} {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def _range(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
