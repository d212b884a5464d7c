"""Two tests of the same videos: the difference in top-1, how sure it is, and where they part."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from videonorm.differences import Difference, Tested, paired, resampled_top1
from videonorm.errors import UserError
from videonorm.evaluation.score_table import Top1
from videonorm.look import CI, percent, points

MOST_NAMED = 5  # videos of each kind that are told at once


@dataclass(frozen=True)
class Comparison:
    """The first test against the second, on the videos that both have scored.

    Args:
        difference: the first's top-1 minus the second's, with McNemar's exact test and the interval of a
            bootstrap over videos: see ``differences``.
        top1: of each.
        only_first, only_second: the videos that only one of them gets right; where scores are equal, that it
            gets right with the higher chance.
    """

    name: str
    difference: Difference
    top1: tuple[float, float]
    only_first: list[str]
    only_second: list[str]

    def record(self) -> dict[str, Any]:
        estimate = self.difference.estimate()
        return {
            "with": self.name,
            "videos": self.difference.num_videos,
            "top1": self.top1[0],
            "its_top1": self.top1[1],
            "difference": estimate.value,
            "interval": [estimate.low, estimate.high],
            "p_value": self.difference.p_value,
            "only_this": self.only_first,
            "only_that": self.only_second,
        }

    def __str__(self) -> str:
        estimate = self.difference.estimate()
        lines = [
            f"against {self.name} with {percent(self.top1[1])}: {points(estimate.value)} points "
            f"({CI} {points(estimate.low)} to {points(estimate.high)}), p = {self.difference.p_value:.3g} by "
            f"McNemar's exact test, on {self.difference.num_videos:,} videos"
        ]
        for whose, names in (("this", self.only_first), ("that", self.only_second)):
            more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
            listed = f": {', '.join(names[:MOST_NAMED])}{more}" if names else ""
            lines.append(f"only {whose} gets {len(names):,} videos right{listed}")
        return "\n".join(lines)


def compare_top1(first: Top1, second: Top1, name: str) -> Comparison:
    """Compare two tests by the videos that both have; ``name`` is the second's.

    Videos of one path are the same; of a path that is there several times, in that order. Where no path is
    common, what stands below the folder of all counts: another machine may have them elsewhere.

    Raises:
        UserError: there is none, or one has another label in the second.
    """
    for below in (False, True):
        theirs = {key: row for row, key in enumerate(second.keys(below))}
        pairs = [(row, theirs[key]) for row, key in enumerate(first.keys(below)) if key in theirs]
        if pairs:
            break
    else:
        raise UserError(
            f"compare ({name}) must have scores of the same videos, and has none of {first.paths[0]} and the "
            f"other {len(first.paths) - 1:,}"
        )
    for row, other in pairs:
        if first.labels[row] != second.labels[other]:
            raise UserError(
                f"compare ({name}) must have the same labels, and has {second.labels[other]} instead of "
                f"{first.labels[row]} for {first.names[row]}"
            )
    ours, others = np.array(pairs).T
    top1 = np.stack([np.array(first.top1)[ours], np.array(second.top1)[others]]).astype(np.float32)
    gap = top1[0] - top1[1]
    resampled = resampled_top1(top1)
    tested = [Tested(top1[[row]], resampled[[row]]) for row in (0, 1)]
    means = top1.mean(1, dtype=np.float64).tolist()
    only = [[first.names[row] for row in ours[of].tolist()] for of in (gap > 0, gap < 0)]
    return Comparison(name, paired(*tested), (means[0], means[1]), *only)
