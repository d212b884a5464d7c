import math
from statistics import NormalDist

import pytest

from videonorm.intervals import difference, mean_top1


def wilson(share: float, count: int, critical: float) -> tuple[float, float]:
    """Wilson's interval as his paper writes it: the p whose score test of ``share`` is at ``critical``."""
    square = critical**2 / count
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return centre - half, centre + half


@pytest.mark.parametrize(
    "degrees, confidence, t",
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (5, 0.95, 2.571),
        (30, 0.95, 2.042),
        (7, 0.99, 3.499),
        (2, 0.90, 2.920),
    ],
)
def test_many_videos_leave_students_t_of_the_seeds(degrees, confidence, t):
    scores = [0.5 + 1e-3 * seed for seed in range(degrees + 1)]
    error = 1e-3 * math.sqrt((degrees + 2) / 12)  # s^2 of n steps is n (n + 1) / 12
    estimate = mean_top1(scores, 10**12, confidence)
    for end in (estimate.low, estimate.high):
        assert abs(end - estimate.value) / error == pytest.approx(t, abs=5e-4)


def test_wilson_by_hand():
    # 50 of 100 at 1.96: centre 0.5, half 1.96 / (1 + 0.038416) * sqrt(0.0025 + 0.00009604)
    confidence = 2 * NormalDist().cdf(1.96) - 1
    estimate = mean_top1([0.5], 100, confidence)
    assert (estimate.low, estimate.high) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    estimate = mean_top1([1.0], 100, confidence)
    assert (estimate.low, estimate.high) == pytest.approx((1 / (1 + 0.038416), 1.0))


def test_one_seed_is_wilsons_interval():
    estimate = mean_top1([0.93], 400)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.93, 0.90069, 0.95113), abs=1e-5)


def test_many_videos_leave_the_t_interval_over_seeds():
    estimate = mean_top1([0.90, 0.92, 0.94], 10**12)
    half = 4.30265 * 0.02 / math.sqrt(3)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (0.92, 0.92 - half, 0.92 + half), abs=1e-5
    )


def test_videos_and_seeds_add_as_squares():
    # p = 0.5, V = 100: 0.0025; s = 0.05, n = 4: 0.000625. Degrees 0.003125^2 / (0.000625^2 / 3) = 75.
    scores = [0.5 + 0.05 * x * math.sqrt(3) / 2 for x in (-1, -1, 1, 1)]
    c = 1.992102  # Student's t of 75
    half = math.hypot(0.5 - wilson(0.5, 100, c)[0], c * 0.025)
    estimate = mean_top1(scores, 100)
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-7)


def test_an_interval_stays_within_0_and_1():
    assert mean_top1([1.0, 1.0], 50).high == 1.0
    assert mean_top1([0.0, 0.1], 50).low == 0.0


def test_difference_is_newcombes():
    # His example is 56 of 70 against 48 of 80, method 10: 0.0524 to 0.3339. Here both are of 75.
    (l1, u1), (l2, u2) = wilson(0.8, 75, 1.959964), wilson(0.6, 75, 1.959964)
    estimate = difference([0.8], [0.6], 75)
    assert estimate.value == pytest.approx(0.2)
    assert estimate.low == pytest.approx(0.2 - math.hypot(0.8 - l1, u2 - 0.6))
    assert estimate.high == pytest.approx(0.2 + math.hypot(u1 - 0.8, 0.6 - l2))
    assert (estimate.low, estimate.high) == pytest.approx((0.0524, 0.3339), abs=0.006)
    assert estimate.excludes_zero


def test_difference_pairs_the_seeds():
    # The seeds differ a lot, the gap does not: 0.1, 0.1, 0.1.
    paired = difference([0.5, 0.7, 0.9], [0.4, 0.6, 0.8], 10**12)
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1), abs=1e-5)
    apart = difference([0.5, 0.7, 0.9], [0.8, 0.6, 0.4], 10**12)
    assert not apart.excludes_zero


def test_more_confidence_is_wider():
    plain, strict = difference([0.9], [0.85], 400), difference([0.9], [0.85], 400, confidence=0.995)
    assert strict.low < plain.low < plain.high < strict.high
    assert plain.excludes_zero and not strict.excludes_zero


def test_two_seeds_and_much_confidence_stay_finite():
    # Student's t of one degree is 140 here, far beyond the normal distribution's own tails.
    estimate = difference([0.9, 0.8], [0.5, 0.7], 400, confidence=0.9955)
    assert (estimate.low, estimate.high) == (-1.0, 1.0)
    estimate = mean_top1([0.80, 0.801], 10**12, confidence=0.9955)
    assert estimate.high - estimate.value == pytest.approx(0.0005 * math.tan(math.pi / 2 * 0.9955), rel=1e-3)
