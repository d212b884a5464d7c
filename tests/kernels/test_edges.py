"""Inputs at which alone a mistake of a kernel shows."""

import pytest
import torch

from videonorm.kernels import weight_standardize
from videonorm.kernels.group_norm import forward, plan_for
from videonorm.ops.weight_standardize import _backward_reference, weight_standardize_reference

from .group_norm_passes import check, run
from .shim import Shim

LAST = torch.channels_last_3d


def test_a_variance_that_is_the_floor():
    """Here the derivative is that of what lies below."""
    weight = torch.tensor([[1.0, -1.0] * 8, [1.0, 1.0, -1.0, -1.0] * 4])
    gain, grad = torch.ones(2), torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    options = True, True, False, [1.0], "floor", [1.0]
    (w_hat,), mean, var = weight_standardize.forward(Shim(), [weight], [gain], *options, torch.float32)
    assert torch.equal(var, torch.ones(2)) and torch.equal(w_hat, weight)
    arguments = [grad], [weight], [gain], mean, var, *options
    (got,), got_gain = weight_standardize.backward(Shim(), *arguments)
    (want,), want_gain = _backward_reference(*arguments)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got, grad - grad.mean(1, keepdim=True))
    torch.testing.assert_close(got_gain, want_gain)


def test_without_centering_small_weights_beside_large_ones_stay():
    """What rounding has left in the mean, 1e-5 or so, is not taken from them."""
    weight = 1000 + torch.randn(2, 577, generator=torch.Generator().manual_seed(0))
    weight[:, 7] = 1e-3
    options = False, False, False, [1.0], "under_root", [1.0]
    (w_hat,), _, _ = weight_standardize.forward(Shim(), [weight], [], *options, torch.float32)
    assert torch.equal(w_hat, weight)


def test_a_sum_beyond_all_numbers():
    weight = torch.full((1, 64), 3e38)
    options = True, True, False, [1.0], "under_root", [1.0]
    (w_hat,), mean, var = weight_standardize.forward(Shim(), [weight], [], *options, torch.float32)
    (want,), _, want_var = weight_standardize_reference([weight], [], *options, torch.float32)
    assert mean.isinf().all() and var.isinf().all()
    assert torch.equal(var.isinf(), want_var.isinf()) and torch.equal(w_hat.isnan(), want.isnan())


def test_an_infinite_gradient_makes_an_infinite_one():
    weight = 3 + torch.randn(4, 27, generator=torch.Generator().manual_seed(0))
    gain, grad = torch.ones(4), torch.randn(4, 27, generator=torch.Generator().manual_seed(1))
    grad[:, 5] = torch.inf
    options = True, True, False, [1.0], "under_root", [1.0]
    _, mean, var = weight_standardize.forward(Shim(), [weight], [gain], *options, torch.float32)
    _, got = weight_standardize.backward(Shim(), [grad], [weight], [gain], mean, var, *options)
    assert torch.equal(got, torch.inf * (weight[:, 5] - weight.mean(1)).sign())


def test_a_relu_at_zero_has_no_gradient():
    x = torch.full((1, 4, 1, 2, 3), 0.5)
    y, *_, grad_bias, _ = run(Shim(), x, None, torch.zeros(4), None, torch.ones_like(x), 2, relu=True)
    assert torch.equal(y, torch.zeros_like(x)) and torch.equal(grad_bias, torch.zeros(4))


def test_a_last_band_of_fewer_columns(assert_at_most_twice):
    """Groups of 48 channels in columns of 108: a band of four columns, and one of one, which is not full."""
    plan = plan_for(2, 528, 15, 11, torch.float32, True, 4, Shim.multiprocessors).template
    assert (4 * plan.width, plan.columns, plan.columns_per_band) == (108, 5, 4)
    check(Shim(), (2, 528, 1, 3, 5), 11, torch.float32, LAST, "relu", assert_at_most_twice)


@pytest.mark.parametrize("seed", range(4))
def test_a_last_band_that_is_merged_first_leaves_the_others_rows_alone(seed, assert_at_most_twice):
    """Behind its last place in a chunk's row begins the next chunk's."""
    plan = plan_for(2, 528, 98, 11, torch.float32, True, 4, Shim.multiprocessors).template
    assert (plan.chunks, plan.columns, plan.columns_per_band) == (2, 5, 4)
    check(Shim(seed), (2, 528, 2, 7, 7), 11, torch.float32, LAST, "relu", assert_at_most_twice)


def test_a_sum_of_squares_that_rounding_makes_negative_is_none():
    """8,192 equal scalars behind an odd one, in every thread: the sums lose more than the odd one adds."""
    shim, equal = Shim(), 1.8132702
    shim.multiprocessors = 1
    sites = 6 * 256 * 8192  # six blocks
    x = torch.full((1, 1, sites), equal)
    plan = plan_for(1, 1, sites, 1, torch.float32, False, 4, 1).template
    assert (plan.chunks, plan.depth, plan.sites_per_chunk) == (6, 256, 256 * 8192)
    x.view(6, -1)[:, : 4 * 256 : 4] = 0  # the first scalar of each thread
    _, mean, rstd = forward(shim, x, None, None, None, 1, 1e-5, False)
    assert float(mean) == pytest.approx(equal, rel=1e-3)
    assert float(rstd) == pytest.approx(1e-5**-0.5, rel=0.01)
