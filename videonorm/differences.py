"""The difference in top-1 of two cells tested on the same videos: how sure it is, and what would settle it.

The scores of two cells on one video are alike, for a hard video is hard for both. So videos are drawn anew
for both together (a bootstrap over videos), and what is drawn is paired. Trainings are not: another seed is
another model, in either arm. Let y[s, v] be the score of the training with seed s on video v. The variance
of the difference between the means of m and n trainings on V videos is, from the analysis of variance of two
crossed random factors (Searle, Casella & McCulloch, Variance Components, 1992, chapter 5),

    videos  +  a^2 / m  +  b^2 / n

a^2 and b^2 are the variances, between the trainings of a cell, of the mean over videos: they hold what a
training happens to get right on these very videos. ``videos`` is what the choice of videos does to all
trainings alike, the covariance between the means of different trainings: within the first cell, plus within
the second, minus twice that across. A bootstrap of the difference over videos alone would count the luck of
single trainings twice, and a percentile bootstrap over one to five seeds covers far too little: it takes a
spread that few seeds have shown for the true one. So the critical value is Student's t with Welch's and
Satterthwaite's degrees of freedom (Biometrika 34, 1947; Biometrics Bulletin 2, 1946),

    (videos + a^2 / m + b^2 / n)^2 / ((a^2 / m)^2 / (m - 1) + (b^2 / n)^2 / (n - 1))

A cell of one seed says nothing of other trainings. Then the difference is that of the trained models, over
the population of videos, its variance is that of the bootstrap, and two further videos are imagined, of
which each cell alone gets one (Agresti & Min, Statistics in Medicine 24, 2005): without them, two models
that never disagree would be known to be equal. For the same reason the trainings of a cell are taken to
differ by at least one video. In simulations 93.5 to 97 % of these intervals
hold, 98 % at most: three seeds, whose spread outweighs the videos (tests/sweep/test_coverage.py).
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, variance

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from videonorm.intervals import Estimate, difference

NUM_RESAMPLES = 2_000  # a standard error to 1.6 %
MOST_SEEDS = 1_000  # what would need more is out of reach
MOST_VIDEOS = 1_000  # times as many


def resampled_top1(top1: NDArray[np.float32], num_resamples: int = NUM_RESAMPLES) -> NDArray[np.float64]:
    """Mean top-1 of every run on videos that are drawn anew, the same ones for all runs.

    Args:
        top1: (runs, videos), in [0, 1].

    Returns:
        (runs, num_resamples); the same numbers whenever it is called.
    """
    num_videos = top1.shape[1]

    def mean(videos: NDArray[np.int64], axis: int) -> NDArray[np.float32]:
        """Of drawn ``videos`` (draws, videos): (runs, draws)."""
        draws = len(videos)
        of_draw = videos + num_videos * np.arange(draws)[:, None]
        times = np.bincount(of_draw.ravel(), minlength=draws * num_videos).reshape(draws, num_videos)
        means: NDArray[np.float32] = top1 @ times.astype(np.float32).T / num_videos
        return means

    found = stats.bootstrap(
        (np.arange(num_videos),),
        mean,
        vectorized=True,
        method="percentile",
        n_resamples=num_resamples,
        batch=max(1, 4_000_000 // num_videos),
        rng=np.random.default_rng(0),
    )
    distribution: NDArray[np.float64] = found.bootstrap_distribution.astype(np.float64)
    return distribution


@dataclass(frozen=True)
class Seeds:
    """The part of a mean's variance that comes from its seeds.

    Args:
        variance: of one training's mean over the videos.
        noise: how much of it is single videos' luck, which more videos would average out.
        count: how many seeds.
    """

    variance: float
    noise: float
    count: int


@dataclass(frozen=True)
class Difference:
    """Top-1 of one cell minus that of another, on the same videos.

    Args:
        value: the difference, a share.
        videos: the part of its variance that comes from the videos.
        num_videos: how many.
        seeds: what the trainings add to it; none if a cell has one seed.
        discordant: of two single runs, the videos that only the first, and only the second, gets right.
    """

    value: float
    videos: float
    num_videos: int
    seeds: tuple[Seeds, ...] = ()
    discordant: tuple[int, int] | None = None
    paired: bool = field(default=True, init=False)

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """With its confidence interval."""
        found = self.imagined(confidence)
        return Estimate(self.value, max(-1.0, found.low), min(1.0, found.high))

    def imagined(self, confidence: float, seeds: int | None = None, videos: float = 1.0) -> Estimate:
        """With the interval that ``seeds`` a cell and ``videos`` times the videos would give.

        Difference and spread are taken as seen.
        """
        error, degrees = self._error(seeds, videos)
        half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * error if error else 0.0
        return Estimate(self.value, self.value - half, self.value + half)

    @cached_property
    def p_value(self) -> float:
        """Of no difference: McNemar's exact test of two single runs, else the t test of the interval."""
        if self.discordant:
            first, second = self.discordant
            return float(mcnemar([[0, first], [second, 0]], exact=True).pvalue)
        error, degrees = self._error()
        return float(2 * stats.t.sf(abs(self.value) / error, degrees)) if error else float(self.value == 0)

    @property
    def within(self) -> float:
        """The least margin within which the two are equivalent at 95 %, by two one-sided tests.

        These reject a difference of the margin or more, either way, where the 90 % interval lies inside it
        (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).
        """
        estimate = self.estimate(0.90)
        return max(abs(estimate.low), abs(estimate.high))

    @cached_property
    def seeds_needed(self) -> int | None:
        """Seeds a cell that would tell the two apart at 95 %, were difference and spread as seen.

        The videos stay. None: the spread of seeds is not known, or no number of them would do.
        """
        if not self.seeds:
            return None
        counts = range(max(of.count for of in self.seeds), MOST_SEEDS)
        return first_enough(counts, lambda count: self.imagined(0.95, seeds=count).excludes_zero)

    @cached_property
    def videos_needed(self) -> int | None:
        """Videos that would tell the two apart at 95 %, were difference and spread as seen.

        The seeds stay. None: no number of videos would do, for trainings differ as much among themselves.
        """
        counts = range(self.num_videos, MOST_VIDEOS * self.num_videos)
        return first_enough(
            counts, lambda count: self.imagined(0.95, videos=count / self.num_videos).excludes_zero
        )

    def _error(self, seeds: int | None = None, videos: float = 1.0) -> tuple[float, float]:
        """Standard error and degrees of freedom, with ``seeds`` a cell and ``videos`` times the videos."""
        parts = [
            (max(0.0, of.variance - of.noise) + min(of.noise, of.variance) / videos) / (seeds or of.count)
            for of in self.seeds
        ]
        total = self.videos / videos + sum(parts)
        counts = [seeds or of.count for of in self.seeds]
        loss = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
        return math.sqrt(total), total**2 / loss if loss else math.inf


def first_enough(counts: range, enough: Callable[[int], bool]) -> int | None:
    """The least that is enough, where more than enough is enough."""
    position = bisect_left(counts, True, key=enough)
    return counts[position] if position < len(counts) else None


@dataclass(frozen=True)
class Unpaired(Difference):
    """The same where the scores of single videos are not known: see ``intervals.difference``.

    Args:
        first, second: one top-1 for each seed, the same seeds in the same order.
    """

    first: Sequence[float] = ()
    second: Sequence[float] = ()
    paired: bool = field(default=False, init=False)

    def estimate(self, confidence: float = 0.95) -> Estimate:
        return difference(self.first, self.second, self.num_videos, confidence)


def unpaired(first: Sequence[float], second: Sequence[float], num_videos: int) -> Unpaired:
    """The difference of two cells of which only the top-1 of each seed is known.

    Args:
        first, second: one top-1 in [0, 1] for each seed, the same seeds in the same order.
        num_videos: how many videos each is measured on.
    """
    a, b = fmean(first), fmean(second)
    videos = (a * (1 - a) + b * (1 - b)) / num_videos + 2 / num_videos**2  # as of two single models
    gaps = [x - y for x, y in zip(first, second, strict=True)]
    seeds = (Seeds(variance(gaps), videos, len(gaps)),) if len(gaps) > 1 else ()
    return Unpaired(a - b, videos, num_videos, seeds, first=first, second=second)


@dataclass(frozen=True)
class Tested:
    """The runs of a cell on the videos that all cells were tested on.

    Args:
        top1: (seeds, videos), the score of each run on each video.
        resampled: (seeds, resamples), of ``resampled_top1``.
    """

    top1: NDArray[np.float32]
    resampled: NDArray[np.float64]


def paired(first: Tested, second: Tested) -> Difference:
    """The difference of two cells, each tested on the same videos in the same order."""
    m, n, num_videos = len(first.top1), len(second.top1), first.top1.shape[1]
    means = [of.top1.mean(1, dtype=np.float64) for of in (first, second)]
    value = float(means[0].mean() - means[1].mean())
    covariance = np.cov(np.concatenate([first.resampled, second.resampled]))
    within = (np.atleast_2d(covariance[:m, :m]), np.atleast_2d(covariance[m:, m:]))
    across = float(covariance[:m, m:].mean())
    if min(m, n) == 1:
        videos = float(within[0].mean() + within[1].mean()) - 2 * across + 2 / num_videos**2
        single = None
        if m == n:
            gap = first.top1[0] - second.top1[0]
            single = int((gap > 0).sum()), int((gap < 0).sum())
        return Difference(value, max(0.0, videos), num_videos, discordant=single)
    seeds, shared = [], -2 * across
    for mean, of in zip(means, within, strict=True):
        count = len(mean)
        own = float(np.trace(of)) / count
        common = (float(of.sum()) - own * count) / (count * (count - 1))
        least = 1 / num_videos**2
        seeds.append(Seeds(max(least, float(mean.var(ddof=1))), max(least, own - common), count))
        shared += common
    return Difference(value, max(0.0, shared), num_videos, tuple(seeds))
