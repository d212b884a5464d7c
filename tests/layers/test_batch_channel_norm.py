import pytest
import torch
import torch.nn.functional as F

from videonorm.layers import BatchChannelNorm3d


@pytest.fixture
def x():
    return 30 + torch.randn(4, 8, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_large_batch_form(x):
    layer = BatchChannelNorm3d(8, 4).double()
    torch.nn.init.uniform_(layer.batch_norm.weight)
    torch.nn.init.normal_(layer.batch_norm.bias)
    torch.nn.init.uniform_(layer.weight)
    z = F.batch_norm(x, None, None, layer.batch_norm.weight, layer.batch_norm.bias, training=True)
    grouped = F.group_norm(z, 4).unflatten(1, (4, 2))
    want = (layer.weight.view(1, 4, 1, 1, 1, 1) * grouped + layer.bias.view(1, 4, 1, 1, 1, 1)).flatten(1, 2)
    torch.testing.assert_close(layer(x), want)
    assert layer.weight.shape == layer.bias.shape == (4,)


def test_micro_batch_form_trains_on_one_clip(x):
    """The running statistics take the clip in, its variance about the mean from before, and are then used."""
    layer = BatchChannelNorm3d(8, 4, statistics="estimated", momentum=0.25).double()
    inner = layer.batch_norm
    mean, var = torch.zeros(8, dtype=x.dtype), torch.ones(8, dtype=x.dtype)
    for clip in x.split(1):
        channels = clip.transpose(0, 1).flatten(1)
        var = 0.75 * var + 0.25 * (channels - mean.view(-1, 1)).square().mean(1)
        mean = 0.75 * mean + 0.25 * channels.mean(1)
        torch.testing.assert_close(layer(clip), F.group_norm(F.batch_norm(clip, mean, var), 4))
        torch.testing.assert_close((inner.running_mean, inner.running_var), (mean, var))


def test_micro_batch_form_has_no_gradient_through_the_statistics(x):
    layer = BatchChannelNorm3d(8, 4, statistics="estimated").double()
    leaf = x.clone().requires_grad_()
    z = layer.batch_norm(leaf)
    (grad,) = torch.autograd.grad(z.sum(), leaf)
    want = torch.rsqrt(layer.batch_norm.running_var + 1e-5).view(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(grad, want)


def test_the_rate_can_be_set_while_training(x):
    layer = BatchChannelNorm3d(8, 4, statistics="estimated", momentum=0.0).double()
    torch.testing.assert_close(layer(x), F.group_norm(x, 4), rtol=1e-4, atol=1e-4)
    layer.batch_norm.momentum = 1.0
    layer(x)
    torch.testing.assert_close(layer.batch_norm.running_mean, x.mean((0, 2, 3, 4)))


def test_of_no_clips_the_micro_batch_form_takes_no_statistics(x):
    inner = BatchChannelNorm3d(8, 4, statistics="estimated").double().batch_norm
    inner(x)
    before = inner.running_mean.clone(), inner.running_var.clone()
    assert inner(x[:0]).shape == x[:0].shape
    assert torch.equal(inner.running_mean, before[0]) and torch.equal(inner.running_var, before[1])


def test_errors(x):
    with pytest.raises(ValueError, match=r"num_groups \(32\) must divide num_channels \(48\)"):
        BatchChannelNorm3d(48)
    assert BatchChannelNorm3d(48, 32, on_indivisible="divisor").weight.shape == (24,)
    with pytest.raises(ValueError, match=r"statistics \('running'\) must be 'batch' or 'estimated'"):
        BatchChannelNorm3d(32, statistics="running")
    with pytest.raises(ValueError, match=r"batch_size \(1\) must be at least 2 for BatchNorm3d in training"):
        BatchChannelNorm3d(8, 4).double()(x[:1])
    BatchChannelNorm3d(8, 4, min_clips=1).double()(x[:1])
