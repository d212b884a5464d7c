"""How many independent values a batch's statistics rest on: by formula, by all batches, where it is known."""

import itertools

import numpy as np
import pytest

from videonorm.layers.effective_sizes import effective_sizes


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_the_formula_is_what_all_batches_show(batch_size):
    """Every batch that can be drawn from five clips, of other scales, means and skewness, in float64."""
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(5, 3, 7)) * np.exp(rng.normal(size=(5, 1, 1))) + 5 * rng.normal(size=(5, 3, 1))
    batches = [x[list(clips)] for clips in itertools.product(range(5), repeat=batch_size)]
    means = np.array([batch.mean(axis=(0, 2)) for batch in batches])
    variances = np.array([batch.var(axis=(0, 2)) for batch in batches])
    of_mean, of_variance = effective_sizes(x.mean(axis=2), x.var(axis=2), batch_size)
    np.testing.assert_allclose(of_mean, x.var(axis=(0, 2)) / means.var(axis=0), rtol=1e-10)
    expected = 1 + 2 * variances.mean(axis=0) ** 2 / variances.var(axis=0)
    np.testing.assert_allclose(of_variance, expected, rtol=1e-10)


def test_independent_normal_values_count_as_many_as_they_are():
    x = np.random.default_rng(0).normal(30.0, 2.0, size=(20_000, 1, 6))
    for batch_size in (2, 4):
        sizes = effective_sizes(x.mean(axis=2), x.var(axis=2), batch_size)
        np.testing.assert_allclose(sizes, 6 * batch_size, rtol=0.05)


def test_frames_that_are_all_the_same_count_once():
    values = np.random.default_rng(0).normal(size=(20_000, 1, 1)).repeat(6, axis=2)
    np.testing.assert_allclose(effective_sizes(values.mean(axis=2), values.var(axis=2), 4), 4, rtol=0.05)


def test_steady_means_of_clips_do_not_make_steady_variances():
    contrast = np.exp(np.random.default_rng(0).uniform(*np.log([4, 80]), size=(20_000, 1)))
    of_mean, of_variance = effective_sizes(np.zeros_like(contrast), contrast**2, 4)
    assert np.isinf(of_mean).all()
    # E[c^4] / E[c^2]^2 of a contrast that is log-uniform over a factor r: ln r (r^2 + 1) / (r^2 - 1).
    spread = np.log(20) * (20**2 + 1) / (20**2 - 1) - 1
    assert of_variance == pytest.approx(1 + 2 * 4 / spread, rel=0.05)


def test_a_channel_that_never_varies_has_no_number():
    means, variances = np.ones((4, 2)), np.array([[0.0, 1.0]] * 4)
    assert np.isnan(effective_sizes(means, variances, 2)).tolist() == [[True, False], [True, False]]
