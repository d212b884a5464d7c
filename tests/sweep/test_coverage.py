"""How often the intervals of ``differences`` hold, and how often a sweep of equal cells has a winner.

Simulated: the chance that a training has a video right is logistic in its skill (of its arm, and its own)
plus the video's ease (for all arms, and for its arm). -s prints the tables.
"""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from videonorm.differences import Tested, paired, resampled_top1
from videonorm.sweep.comparisons import ERROR_RATE, holm

SIMULATIONS = 1_000
DOUBT = 2 * math.sqrt(0.97 * 0.03 / SIMULATIONS)  # of a share that so many simulations show
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


def expected_top1(skill, spread):
    """Over videos, or over videos and trainings, whose spread is normal."""
    return expit(np.asarray(skill)[..., None] + spread * NODES) @ (WEIGHTS / WEIGHTS.sum())


def skill_of(top1, spread):
    return brentq(lambda skill: expected_top1(skill, spread) - top1, -20, 20)


def simulate(top1, seeds, num_videos, training, ease=(2.0, 0.5), sweeps=SIMULATIONS):
    """Scores (sweeps, cells, seeds, videos) of cells with a ``top1`` each, and what is expected of each.

    Args:
        training: standard deviation of skill between the trainings of each cell.
        ease: standard deviation between videos, for all arms alike and for each arm.
    """
    draw = np.random.default_rng(0)
    of_videos = math.hypot(*ease)
    skills = [skill_of(of, math.hypot(of_videos, s)) for of, s in zip(top1, training, strict=True)]
    own = np.array(training)[:, None] * draw.standard_normal((sweeps, len(top1), seeds))
    skill = np.array(skills)[:, None] + own
    videos = ease[0] * draw.standard_normal((sweeps, 1, 1, num_videos), dtype=np.float32)
    videos = videos + ease[1] * draw.standard_normal((sweeps, len(top1), 1, num_videos), dtype=np.float32)
    chance = expit(skill[..., None].astype(np.float32) + videos)
    return (draw.random(chance.shape, dtype=np.float32) < chance).astype(np.float32), expected_top1(
        skill, of_videos
    )


def cells_of(scores):
    """For each sweep its cells; all are resampled at once."""
    sweeps, cells, seeds, videos = scores.shape
    resampled = resampled_top1(scores.reshape(-1, videos)).reshape(sweeps, cells, seeds, -1)
    return [[Tested(*of) for of in zip(scores[i], resampled[i], strict=True)] for i in range(sweeps)]


def coverage(top1, seeds, num_videos, training, sweeps=SIMULATIONS):
    scores, expected = simulate((top1, top1 - 0.02), seeds, num_videos, training, sweeps=sweeps)
    hits = 0
    for (first, second), of in zip(cells_of(scores), expected, strict=True):
        estimate = paired(first, second).estimate()
        hits += estimate.low <= (of[0, 0] - of[1, 0] if seeds == 1 else 0.02) <= estimate.high
    return hits / sweeps


@pytest.mark.slow
@pytest.mark.parametrize("training", [(0.0, 0.0), (0.15, 0.15), (0.4, 0.4), (0.1, 0.3)], ids=str)
@pytest.mark.parametrize("top1", [0.30, 0.70, 0.97])
@pytest.mark.parametrize("num_videos", [200, 400, 2000])
@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_intervals_hold_in_95_of_100(seeds, num_videos, top1, training):
    share = coverage(top1, seeds, num_videos, training)
    print(f"\ncoverage,{seeds},{num_videos},{top1},{training},{share}")
    assert 0.93 - DOUBT <= share <= 0.97 + DOUBT


def winners(seeds, num_videos, top1, training, cells=12, sweeps=SIMULATIONS):
    """The share of sweeps with equal cells that name a winner."""
    scores, _ = simulate((top1,) * cells, seeds, num_videos, (training,) * cells, sweeps=sweeps)
    named = 0
    for of_sweep in cells_of(scores):
        best = max(of_sweep, key=lambda cell: cell.top1.mean())
        p_values = [paired(best, other).p_value for other in of_sweep if other is not best]
        named += max(holm(p_values)) < ERROR_RATE
    return named / sweeps


@pytest.mark.slow
@pytest.mark.parametrize("cells", [2, 12])
@pytest.mark.parametrize("seeds, training", [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.0), (5, 0.2)])
def test_equal_cells_have_no_winner_in_95_of_100(seeds, training, cells):
    share = winners(seeds, 400, 0.7, training, cells)
    print(f"\nfalse winners,{cells},{seeds},{training},{share}")
    assert share <= 0.05


def test_intervals_hold_in_a_few_simulations():
    assert 0.90 <= coverage(0.7, 3, 200, (0.15, 0.15), sweeps=200) <= 0.99
