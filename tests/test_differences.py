import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from videonorm.differences import Difference, Seeds, Tested, paired, resampled_top1, unpaired
from videonorm.intervals import difference


def of_cells(*top1) -> list[Tested]:
    """Cells (seeds, videos), resampled together."""
    resampled = resampled_top1(np.concatenate(top1).astype(np.float32))
    ends = np.cumsum([len(of) for of in top1])[:-1]
    return [Tested(*of) for of in zip(top1, np.split(resampled, ends), strict=True)]


def right(shape, share=0.7, seed=0):
    return (np.random.default_rng(seed).random(shape) < share).astype(np.float32)


def test_videos_are_drawn_for_all_runs_alike():
    top1 = right((3, 300))
    top1[1] = top1[0]
    resampled = resampled_top1(top1)
    assert resampled.shape == (3, 2000)
    assert np.array_equal(resampled[0], resampled[1])
    assert np.array_equal(resampled, resampled_top1(top1))
    assert resampled.std(1) == pytest.approx(top1.std(1) / np.sqrt(300), rel=0.05)
    assert resampled.mean(1) == pytest.approx(top1.mean(1), abs=0.003)


def test_two_runs_are_those_of_their_paired_videos():
    first, second = right((1, 400), seed=1), right((1, 400), seed=2)
    second[:, :200] = first[:, :200]
    gap = (first - second)[0]
    found = paired(*of_cells(first, second)).estimate()
    wanted = stats.norm.ppf(0.975) * np.sqrt(gap.var() / 400 + 2 / 400**2)
    assert found.value == pytest.approx(gap.mean(), abs=1e-7)
    assert (found.high - found.value, found.value - found.low) == pytest.approx((wanted, wanted), rel=0.05)


def test_mcnemars_exact_test_of_two_runs():
    first, second = np.zeros((1, 100)), np.zeros((1, 100))
    first[0, :9], second[0, 9], first[0, 50:], second[0, 50:] = 1, 1, 1, 1
    assert paired(*of_cells(first, second)).p_value == pytest.approx(stats.binomtest(9, 10).pvalue)
    same = paired(*of_cells(first, first))
    assert (same.value, same.p_value) == (0, 1)
    assert 0 < same.within < 0.05  # never known to be equal


def test_the_luck_of_single_trainings_is_counted_once():
    """Scores that no video and no training has in common: Student's and Welch's test is left."""
    first, second = right((5, 4000), 0.7, 1), right((4, 4000), 0.6, 2)
    found = paired(*of_cells(first, second))
    test = stats.ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    interval = test.confidence_interval()
    assert found.p_value == pytest.approx(test.pvalue, rel=0.2)
    assert (found.estimate().low, found.estimate().high) == pytest.approx(
        (interval.low, interval.high), abs=1e-3
    )


def test_what_videos_do_to_all_trainings_is_kept():
    """Each cell's seeds agree on all videos but for a few: more seeds are no more videos."""
    first, second = np.repeat(right((1, 200), seed=1), 3, 0), np.repeat(right((1, 200), seed=2), 3, 0)
    found = paired(*of_cells(first, second))
    assert found.videos == pytest.approx((first - second)[0].var() / 200, rel=0.05)
    assert found.seeds_needed is None or found.seeds_needed > 3


def test_equivalence_is_that_of_two_one_sided_tests():
    first, second = right((1, 500), seed=1), right((1, 500), seed=2)
    found = paired(*of_cells(first, second))
    p_value = DescrStatsW((first - second)[0]).ttost_mean(-found.within, found.within)[0]
    assert p_value == pytest.approx(0.05, abs=0.01)


def test_what_would_be_needed_is_enough_and_no_less_is():
    seeds = (Seeds(4e-4, 1e-4, 3), Seeds(4e-4, 1e-4, 3))
    found = Difference(0.03, 5e-5, 400, seeds)
    assert not found.estimate().excludes_zero
    for count, enough in ((found.seeds_needed, True), (found.seeds_needed - 1, False)):
        more = tuple(Seeds(of.variance, of.noise, count) for of in seeds)
        assert Difference(0.03, 5e-5, 400, more).estimate().excludes_zero is enough
    assert found.videos_needed is None  # the trainings alone differ by more
    single = Difference(0.03, 4e-4, 400)
    times = single.videos_needed / 400
    assert Difference(0.03, 4e-4 / times, 400).estimate().excludes_zero
    assert times == pytest.approx((1.96 * 0.02 / 0.03) ** 2, rel=0.01)
    assert single.seeds_needed is None
    assert Difference(0.03, 4e-4, 400, seeds).seeds_needed is None  # the videos alone leave too much
    assert Difference(0.0, 4e-4, 400).videos_needed is None


def test_without_scores_the_interval_is_unpaired():
    found = unpaired([0.93], [0.88], 400)
    assert not found.paired
    assert found.estimate().low == pytest.approx(difference([0.93], [0.88], 400).low)
    assert found.p_value == pytest.approx(0.02, abs=0.005)
    assert unpaired([1.0, 1.0], [1.0, 1.0], 400).p_value == 1
