import pytest
import torch

from videonorm.layers import BatchNorm3d, ImposedBatchNorm3d


def layer_of_seed(means, scales, channels=4096):
    torch.manual_seed(0)
    return ImposedBatchNorm3d(channels, spread_of_means=means, spread_of_scales=scales)


def test_channels_have_the_spreads_that_are_asked_for():
    layer = layer_of_seed(3.0, 0.5)
    assert layer.shift.std() == pytest.approx(3, rel=0.05) and abs(layer.shift.mean()) < 0.2
    assert layer.scale.log().std() == pytest.approx(0.5, rel=0.05)
    x = 30 + torch.randn(8, 4096, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3, 4)), layer.shift, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(y.std((0, 2, 3, 4), correction=0), layer.scale, rtol=1e-4, atol=1e-4)


def test_without_spreads_it_is_batch_norm_and_the_numbers_drawn_are_as_many():
    none, much = layer_of_seed(0.0, 0.0, 4), torch.rand(1)
    layer_of_seed(3.0, 0.5, 4)
    assert torch.equal(torch.rand(1), much)
    x = torch.randn(2, 4, 2, 3, 3)
    assert torch.equal(none(x), BatchNorm3d(4)(x))


@pytest.mark.parametrize("spread", [-1.0, float("nan")])
def test_a_spread_below_0_is_refused(spread):
    with pytest.raises(ValueError, match=rf"spread_of_means \({spread}\) must be at least 0"):
        ImposedBatchNorm3d(4, spread_of_means=spread, spread_of_scales=0.0)
    with pytest.raises(ValueError, match=rf"spread_of_scales \({spread}\) must be at least 0"):
        ImposedBatchNorm3d(4, spread_of_means=0.0, spread_of_scales=spread)
