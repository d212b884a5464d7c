"""What is computed of the runs of a claim: an effect, its interval, and what would make that shorter.

An interval takes its confidence; with ``seeds`` and ``videos`` it is what so many would give, were effect and
spread as seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.duration.hazard_regression import PHReg

from videonorm.differences import MOST_SEEDS, MOST_VIDEOS, Difference, first_enough
from videonorm.intervals import Estimate
from videonorm.messages import counted
from videonorm.sweep.answer import needed

Interval = Callable[[float], Estimate]
Decides = Callable[[Interval], bool]


class Effect(Protocol):
    """Of a claim."""

    def interval(self, confidence: float) -> Estimate:
        """The effect with its interval."""

    def needs(self, decides: Decides) -> str:
        """How many more seeds, or videos, would give an interval that ``decides``."""


@dataclass(frozen=True)
class OfSeeds:
    """The mean over seeds, each a difference of its own, with Student's interval.

    A value that is known to lie between two, such as the largest stable one of a few that were tried, makes
    the interval reach from that of the least it can be to that of the most.

    Args:
        values: (seeds,), as they are quoted.
        least, most: (seeds,), the bounds of each.
    """

    values: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    def interval(self, confidence: float, seeds: int | None = None) -> Estimate:
        value = float(self.values.mean()) if np.isfinite(self.values).all() else math.nan
        low, _ = _student(self.least, confidence, seeds)
        _, high = _student(self.most, confidence, seeds)
        return Estimate(value, low, high)

    def needs(self, decides: Decides) -> str:
        finer = "; values between those that were tried, or beyond, might"
        return _more_seeds(
            len(self.values),
            lambda count: decides(lambda confidence: self.interval(confidence, count)),
            finer if (self.least < self.most).any() else "",
        )


def _more_seeds(now: int, enough: Callable[[int], bool], otherwise: str = "") -> str:
    """What to add to ``now`` seeds; where no number is enough, what else might do."""
    count = first_enough(range(now + 1, MOST_SEEDS), enough)
    if count is None:
        return f"{MOST_SEEDS:,} seeds would not do{otherwise}"
    return f"at least about {counted(count - now, 'more seed')} would be needed"


def _student(values: NDArray[np.float64], confidence: float, seeds: int | None) -> tuple[float, float]:
    """The interval of a mean that is known by some values of it; all of the line where one is infinite."""
    if not np.isfinite(values).all():
        return -math.inf, math.inf
    count, mean = seeds or len(values), float(values.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


@dataclass(frozen=True)
class OfVideos:
    """A difference in top-1 on the same videos; see ``videonorm.differences``.

    Args:
        most: that it can be, either way: a difference of differences may be more than 1.
    """

    difference: Difference
    most: float = 1.0

    def interval(self, confidence: float) -> Estimate:
        found = self.difference.imagined(confidence)
        return Estimate(found.value, max(-self.most, found.low), min(self.most, found.high))

    def needs(self, decides: Decides) -> str:
        lead = self.difference
        seeds = first_enough(
            range(max(of.count for of in lead.seeds) + 1, MOST_SEEDS),
            lambda count: decides(lambda confidence: lead.imagined(confidence, seeds=count)),
        )
        videos = first_enough(
            range(lead.num_videos + 1, MOST_VIDEOS * lead.num_videos),
            lambda count: decides(
                lambda confidence: lead.imagined(confidence, videos=count / lead.num_videos)
            ),
        )
        return needed(lead, seeds, videos)


@dataclass(frozen=True)
class Hazards:
    """The log of a ratio of hazards by the log-rank test: ``against`` to ``of``, so above 0 ``of`` is later.

    Peto's estimate, one step of Cox's regression from no difference (Yusuf, Peto et al., Progress in
    Cardiovascular Diseases 27, 1985): its interval excludes 0 where the log-rank test rejects. The variance
    is Breslow's, which is that of the test without ties, and with them more.

    Args:
        steps: (runs,) to the target, or to the budget's end.
        reached: (runs,) whether it was.
        is_of: (runs,) whether the run is one of ``of``, or of ``against``.
    """

    steps: NDArray[np.float64]
    reached: NDArray[np.bool_]
    is_of: NDArray[np.bool_]

    @cached_property
    def _score(self) -> tuple[float, float]:
        """The observed minus the expected number of ``of`` to reach it, and its variance."""
        if not self.reached.any():
            return 0.0, 0.0
        regression = PHReg(self.steps, self.is_of[:, None].astype(float), self.reached.astype(float))
        start = np.zeros(1)
        return float(regression.score(start)[0]), -float(regression.hessian(start)[0, 0])

    def interval(self, confidence: float, times: float = 1.0) -> Estimate:
        """With ``times`` the seeds."""
        score, variance = self._score
        if variance <= 0:
            return Estimate(math.nan, -math.inf, math.inf)
        value = -score / variance
        low, high = stats.norm.interval(confidence, value, 1 / math.sqrt(variance * times))
        return Estimate(value, float(low), float(high))

    def needs(self, decides: Decides) -> str:
        if self._score[1] <= 0:
            return "a target that runs reach within the budget"
        now = int(self.is_of.sum())
        return _more_seeds(
            now, lambda count: decides(lambda confidence: self.interval(confidence, count / now))
        )
