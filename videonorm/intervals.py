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
from statistics import fmean

from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from videonorm.look import percent


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def percent(self) -> str:
        return percent(self.value)

    @property
    def interval(self) -> str:
        """In percent, without the sign."""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


def mean_top1(scores: Sequence[float], num_videos: int, confidence: float = 0.95) -> Estimate:
    """Mean top-1 over seeds.

    Args:
        scores: one top-1 in [0, 1] for each seed, all measured on the same videos.
        num_videos: how many videos.
        confidence: of the interval, in (0, 1).
    """
    mean = fmean(scores)
    spread, videos = _spread_and_videos(mean * (1 - mean), scores, num_videos, confidence)
    low, high = proportion_confint(mean * videos, videos, 1 - confidence, "wilson")
    return _widened(mean, low, high, spread, least=0.0)


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
    a, b = fmean(first), fmean(second)
    gaps = [x - y for x, y in zip(first, second, strict=True)]
    spread, videos = _spread_and_videos(a * (1 - a) + b * (1 - b), gaps, num_videos, confidence)
    low, high = confint_proportions_2indep(
        a * videos, videos, b * videos, videos, method="newcomb", alpha=1 - confidence
    )
    return _widened(a - b, low, high, spread, least=-1.0)


def _widened(value: float, low: float, high: float, spread: float, least: float) -> Estimate:
    """The interval of the videos with the spread of the seeds, from ``least`` to 1."""
    below, above = math.hypot(value - low, spread), math.hypot(high - value, spread)
    return Estimate(value, max(least, value - below), min(1.0, value + above))


def _spread_and_videos(
    variance: float, scores: Sequence[float], num_videos: int, confidence: float
) -> tuple[float, float]:
    """c s / sqrt(n), and the number of videos whose interval at the normal z is that of ``num_videos`` at c.

    Wilson's interval depends on c^2 / V alone, so that is V (z / c)^2 (Korn & Graubard, Survey Methodology
    24, 1998). One seed has no spread. ``variance`` is that of one video's score.
    """
    critical = normal = stats.norm.ppf((1 + confidence) / 2)
    error = stats.sem(scores) if len(scores) > 1 else 0.0
    if error > 0:
        degrees = (variance / num_videos + error**2) ** 2 / (error**4 / (len(scores) - 1))
        critical = stats.t.ppf((1 + confidence) / 2, (degrees + 1e-9) // 1)
    return float(critical * error), float(num_videos * (normal / critical) ** 2)
