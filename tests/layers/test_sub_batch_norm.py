import pytest
import torch
from torch import nn

from videonorm.layers import BatchNorm3d, SubBatchNorm3d


@pytest.fixture
def x():
    """Six clips whose three pairs have different means and spreads."""
    noise = torch.randn(6, 4, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pair = torch.arange(6).div(2, rounding_mode="floor").view(-1, 1, 1, 1, 1)
    return 30 + 2 * pair + (1 + pair) * noise


def test_each_split_has_its_own_batch_norm(x):
    layer, splits = SubBatchNorm3d(4, 3).double(), [nn.BatchNorm3d(4).double() for _ in range(3)]
    want = torch.cat([split(part) for split, part in zip(splits, x.split(2), strict=True)])
    torch.testing.assert_close(layer(x), want)
    for index, split in enumerate(splits):
        torch.testing.assert_close(layer.split_mean[index], split.running_mean)
        torch.testing.assert_close(layer.split_var[index], split.running_var)


def test_evaluation_uses_the_statistics_of_the_union(x):
    layer = SubBatchNorm3d(4, 3, momentum=1.0).double()
    layer(x)
    channels = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, channels.mean(1))
    # A split's running variance is unbiased, n / (n - 1) times that of its n values: take the factor out.
    n = channels.shape[1] // 3
    between = layer.split_mean.var(0, correction=0)
    torch.testing.assert_close(
        (layer.running_var - between) * (n - 1) / n + between, channels.var(1, correction=0)
    )
    plain = BatchNorm3d(4).double().eval()
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("split")})
    torch.testing.assert_close(layer.eval()(x), plain(x))


def test_evaluation_takes_any_number_of_clips(x):
    SubBatchNorm3d(4, 3).double().eval()(x[:1])


def test_reset_running_stats(x):
    layer = SubBatchNorm3d(4, 3).double()
    layer(x)
    layer.reset_running_stats()
    fresh = SubBatchNorm3d(4, 3).double().state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in layer.state_dict().items())


def test_no_clips_leave_the_statistics(x):
    layer = SubBatchNorm3d(4, 3).double()
    layer(x)
    before = {key: value.clone() for key, value in layer.state_dict().items() if "batches" not in key}
    assert layer(x[:0]).shape == x[:0].shape
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())


def test_errors(x):
    with pytest.raises(ValueError, match=r"num_splits \(4\) must divide batch_size \(6\)"):
        SubBatchNorm3d(4, 4).double()(x)
    with pytest.raises(
        ValueError, match=r"batch_size / num_splits \(1\) must be at least 2 for SubBatchNorm3d"
    ):
        SubBatchNorm3d(4, 6).double()(x)
    with pytest.raises(ValueError, match=r"num_splits \(0\) must be at least 1"):
        SubBatchNorm3d(4, 0)
