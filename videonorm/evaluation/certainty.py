"""How sure an accuracy is, and whether the probabilities mean what they say."""

import numpy as np
from scipy import stats

from videonorm.differences import resampled_top1
from videonorm.evaluation.scores import VideoScores
from videonorm.intervals import Estimate, mean_top1

BINS = 15  # of Guo et al.


def top1_estimate(scores: VideoScores, confidence: float = 0.95) -> Estimate:
    """Top-1 with its interval over videos: the percentiles of a bootstrap.

    Where all videos score alike, videos drawn anew do so too, and the interval is Wilson's.
    """
    top1 = scores.within(1)[scores.scored].float().numpy()
    mean = float(top1.mean(dtype=np.float64))
    if (top1 == top1[0]).all():
        return mean_top1([mean], len(top1), confidence)
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = np.quantile(resampled_top1(top1[None])[0], tails).tolist()
    return Estimate(mean, low, high)


def calibration_error(scores: VideoScores) -> float:
    """Expected calibration error (Guo et al., arXiv:1706.04599).

    Videos are binned by their largest probability; the share of them that is right differs from the mean of
    these probabilities by so much, averaged over the videos.
    """
    confidence = scores.probabilities[scores.scored].amax(dim=1).double().numpy()
    right = scores.within(1)[scores.scored].numpy()
    sums = stats.binned_statistic(confidence, [right, confidence], "sum", BINS, (0.0, 1.0)).statistic
    return float(np.abs(sums[0] - sums[1]).sum() / len(right))
