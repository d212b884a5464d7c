"""How sure a top-1 is, and the difference of two: confidence intervals from few seeds and few videos.

A top-1 is uncertain for two reasons that have nothing to do with each other: it is measured on so many
videos, and training with another seed gives another model. With p the mean top-1 of n seeds on the same V
videos and s the standard deviation over the seeds, the variance is

    p (1 - p) / V  +  s^2 / n

and the critical value c is Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946):

    (p (1 - p) / V + s^2 / n)^2 / ((s^2 / n)^2 / (n - 1)), rounded down.

The video part is Wilson's interval at c (JASA 22, 1927), which holds near 0 and 1 too. Its distance from p
and c s / sqrt(n) add as squares. With one seed it is Wilson's interval: it says nothing of another training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_top1(scores: Sequence[float], num_videos: int, confidence: float = 0.95) -> Estimate:
    """Mean top-1 over seeds.

    Args:
        scores: one top-1 in [0, 1] for each seed, all measured on the same videos.
        num_videos: how many videos.
        confidence: of the interval, in (0, 1).
    """
    mean = fmean(scores)
    critical = _critical(_video_variance(mean, num_videos), scores, confidence)
    low, high = wilson(mean, num_videos, critical)
    spread = critical * math.sqrt(_seed_variance(scores))
    return Estimate(
        mean,
        max(0.0, mean - math.hypot(mean - low, spread)),
        min(1.0, mean + math.hypot(high - mean, spread)),
    )


def difference(
    first: Sequence[float], second: Sequence[float], num_videos: int, confidence: float = 0.95
) -> Estimate:
    """Mean of ``first`` - mean of ``second``, paired by seed.

    The video part is Newcombe's square-and-add of two Wilson intervals (Statistics in Medicine 17, 1998). It
    takes the errors of the two as independent. On the same videos they mostly agree: it is rather too wide.

    Args:
        first, second: one top-1 in [0, 1] for each seed, the same seeds in the same order.
        num_videos: how many videos each top-1 is measured on.
        confidence: of the interval, in (0, 1).
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    a, b = fmean(first), fmean(second)
    variance = _video_variance(a, num_videos) + _video_variance(b, num_videos)
    critical = _critical(variance, gaps, confidence)
    a_low, a_high = wilson(a, num_videos, critical)
    b_low, b_high = wilson(b, num_videos, critical)
    spread = critical * math.sqrt(_seed_variance(gaps))
    gap = a - b
    return Estimate(
        gap,
        max(-1.0, gap - math.hypot(a - a_low, b_high - b, spread)),
        min(1.0, gap + math.hypot(a_high - a, b - b_low, spread)),
    )


def wilson(share: float, count: int, critical: float) -> tuple[float, float]:
    """Wilson's score interval of a share of ``count`` trials; ``critical`` is 1.96 for 95 %."""
    square = critical**2 / count
    centre = (share + square / 2) / (1 + square)
    half = critical / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def student_t(degrees: int, confidence: float) -> float:
    """The t that a Student variable stays within, on either side, with probability ``confidence``.

    Solves Abramowitz & Stegun 26.7.3 and 26.7.4, the distribution for whole degrees of freedom, by bisection.
    """
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees))
    for _ in range(80):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, degrees) < confidence else (low, angle)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """P(|t| <= tan(angle) sqrt(degrees))."""
    term, total = (math.cos(angle), 0.0) if degrees % 2 else (1.0, 0.0)
    for step in range(2 + degrees % 2, degrees + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (step - 1) / step
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if degrees % 2 else total


def _video_variance(share: float, num_videos: int) -> float:
    return share * (1 - share) / num_videos


def _seed_variance(scores: Sequence[float]) -> float:
    """Variance of the mean over seeds; 0 for one seed, which cannot tell."""
    return stdev(scores) ** 2 / len(scores) if len(scores) > 1 else 0.0


def _critical(video_variance: float, scores: Sequence[float], confidence: float) -> float:
    seed_variance = _seed_variance(scores)
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    if seed_variance == 0:
        return normal
    degrees = (video_variance + seed_variance) ** 2 / (seed_variance**2 / (len(scores) - 1))
    return student_t(int(degrees + 1e-9), confidence) if degrees < 1000 else normal
