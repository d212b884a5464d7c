"""Effects against scipy's own tests, and what would decide them."""

import math

import numpy as np
import pytest
from scipy import stats

from videonorm.differences import Difference, Seeds
from videonorm.study.effects import Hazards, OfSeeds, OfVideos

OF, AGAINST = [30, 50, 60, 95, 100], [10, 15, 20, 45, 70]


def hazards(of, against, budget=100):
    steps = np.array([*of, *against], float)
    return Hazards(steps, steps < budget, np.arange(len(steps)) < len(of))


def test_hazards_are_those_of_the_log_rank_test():
    found = hazards(OF, AGAINST)
    censored = [stats.CensoredData.right_censored(np.array(of), np.array(of) >= 100) for of in (OF, AGAINST)]
    test = stats.logrank(*censored)
    score, variance = found._score
    assert score**2 / variance == pytest.approx(test.statistic**2)
    at = found.interval(1 - test.pvalue)  # the test's p is where the interval begins to hold 0
    assert at.low == pytest.approx(0, abs=1e-9) and at.value > 0  # of is later
    assert hazards(AGAINST, OF).interval(0.95).value == pytest.approx(-found.interval(0.95).value)


def test_more_seeds_shorten_the_interval_of_hazards():
    found = hazards([20, 40, 60, 80], [10, 30, 50, 70])
    one, four = found.interval(0.95), found.interval(0.95, 4)
    assert one.high - one.low == pytest.approx(2 * (four.high - four.low))
    needs = found.needs(lambda interval: interval(0.95).excludes_zero)
    assert needs.startswith("at least about ") and needs.endswith(" more seeds would be needed")


def test_without_a_run_that_reaches_the_target_nothing_is_known():
    found = hazards([100] * 4, [100] * 4)
    estimate = found.interval(0.95)
    assert math.isnan(estimate.value) and (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert found.needs(lambda interval: False) == "a target that runs reach within the budget"


def test_values_between_bounds_widen_the_interval():
    values = np.array([1.0, 2.0, 3.0])
    narrow, wide = OfSeeds(values, values, values), OfSeeds(values, values - 1, values + 1)
    assert wide.interval(0.95).low == narrow.interval(0.95).low - 1
    assert wide.interval(0.95).high == narrow.interval(0.95).high + 1
    assert narrow.interval(0.95, seeds=12).low > narrow.interval(0.95).low
    never = OfSeeds(values, values, np.array([1.0, math.inf, 2.0]))
    assert never.interval(0.95).high == math.inf and never.interval(0.95).low == narrow.interval(0.95).low


def test_top1_needs_seeds_or_videos():
    seeds = (Seeds(0.0004, 0.0003, 3), Seeds(0.0004, 0.0003, 3))
    found = OfVideos(Difference(0.03, 0.0001, 400, seeds))
    needs = found.needs(lambda interval: interval(0.95).excludes_zero)
    assert needs.startswith("at least about ") and " more seeds, or at least about " in needs
    enough = int(needs.split()[3]) + 3
    assert found.difference.imagined(0.95, seeds=enough).excludes_zero
    assert not found.difference.imagined(0.95, seeds=enough - 1).excludes_zero
