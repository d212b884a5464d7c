"""How many independent values the statistics of a batch norm rest on, from the moments of single clips.

A batch norm takes, of each channel, the mean M and the variance V of all values x of a batch: of B clips,
each of T x H x W values that are correlated. Of n independent values, M would vary between batches by
Var(x) / n, and V, of normal ones, by 2 Mean(V)^2 / (n - 1). So

    n_eff_mean     = Var(x) / Var(M)
    n_eff_variance = 1 + 2 Mean(V)^2 / Var(V)

are the numbers of independent values whose statistics would be as noisy as the batch's are. (The second is
Satterthwaite's effective degrees of freedom of a variance, Biometrics Bulletin 2 (1946) 110, and one.) The
means of clips may be steady where their variances are not, as where contrast differs from video to video: it
takes both.

The assumption: the clips of a batch are drawn independently. Then, with d = m - mu the deviation of a clip's
mean from that of all, and s = Mean((x - mu)^2) over the clip, V = Mean(s) - Mean(d)^2 over the B clips, and

    Var(M)  = Var(d) / B
    Mean(V) = Mean(s) - Var(d) / B
    Var(V)  = Var(s) / B + (2 Var(d)^2 - 2 Cov(s, d^2)) / B^2 + (Mean(d^4) - 3 Var(d)^2) / B^3

with no approximation, so that every B follows from one pass over clips of a length T.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def effective_sizes(means: Array, variances: Array, batch_size: int) -> tuple[Array, Array]:
    """n_eff_mean and n_eff_variance of each channel in batches of ``batch_size`` clips.

    A channel whose values are all the same has none: nan. One whose clips are all alike has infinitely many.

    Args:
        means, variances: (clips, channels), biased variances, over all values of a clip.
    """
    mu = means.mean(axis=0)
    d = means - mu
    s = variances + d**2
    total = s.mean(axis=0)  # Var(x)
    var_d = (d**2).mean(axis=0)
    covariance = ((s - total) * (d**2 - var_d)).mean(axis=0)
    of_mean = var_d / batch_size
    variance = total - var_d / batch_size  # the mean of V
    of_variance = (
        s.var(axis=0) / batch_size
        + (2 * var_d**2 - 2 * covariance) / batch_size**2
        + ((d**4).mean(axis=0) - 3 * var_d**2) / batch_size**3
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / of_mean, 1 + 2 * variance**2 / of_variance


def of_median_channel(sizes: tuple[Array, Array]) -> tuple[float, float]:
    """Each of the two in its median channel, of those that vary; nan if none does."""
    varies = ~np.isnan(sizes[0])
    of_mean, of_variance = (float(np.median(of[varies])) if varies.any() else math.nan for of in sizes)
    return of_mean, of_variance
