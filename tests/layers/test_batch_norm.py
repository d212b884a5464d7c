import pytest
import torch
from torch import nn

from videonorm.layers import BatchNorm3d


@pytest.fixture
def x():
    return 30 + torch.randn(4, 6, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_equals_torch_over_several_batches(x, momentum):
    ours, theirs = BatchNorm3d(6, momentum=momentum, eps=1e-3), nn.BatchNorm3d(6, momentum=momentum, eps=1e-3)
    theirs.load_state_dict(ours.state_dict())
    for scale in (1, 2, 0.5):
        assert torch.equal(ours(scale * x), theirs(scale * x))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_state_dict_keys_are_those_of_torch():
    assert list(BatchNorm3d(6).state_dict()) == list(nn.BatchNorm3d(6).state_dict())


def test_running_statistics_in_bf16_are_updated(x):
    layer = BatchNorm3d(6, momentum=1.0).bfloat16()
    layer(x.bfloat16())
    torch.testing.assert_close(layer.running_mean.float(), x.mean((0, 2, 3, 4)), rtol=1 / 128, atol=0)
    torch.testing.assert_close(
        layer.running_var.float(), x.transpose(0, 1).flatten(1).var(1), rtol=0.05, atol=0
    )


def test_reset_running_stats(x):
    layer = BatchNorm3d(6)
    initial = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(x)
    layer.reset_running_stats()
    assert all(torch.equal(value, initial[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("clips, min_clips", [(1, 2), (3, 4)])
def test_too_few_clips(x, clips, min_clips):
    layer = BatchNorm3d(6, min_clips=min_clips)
    message = (
        rf"^batch_size \({clips}\) must be at least {min_clips} for BatchNorm3d in training"
        r" \(statistics of one clip are those of InstanceNorm\);"
        rf" set min_clips: {clips} to train it all the same$"
    )
    with pytest.raises(ValueError, match=message):
        layer(x[:clips])
    assert layer.num_batches_tracked == 0
    layer.eval()(x[:clips])
    layer.min_clips = clips
    layer.train()(x[:clips])


def test_no_clips_and_constant_clips_do_what_they_do_in_torch(x):
    for clips in (x[:0], torch.full_like(x, 7.3)):
        for training in (True, False):
            results = []
            for layer in (BatchNorm3d(6).train(training), nn.BatchNorm3d(6).train(training)):
                leaf = clips.clone().requires_grad_()
                y = layer(leaf)
                y.square().sum().backward()
                results.append(
                    [y, leaf.grad, layer.weight.grad, layer.bias.grad, *layer.state_dict().values()]
                )
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        BatchNorm3d(6, min_clips=1)(x[:1, :, :1, :1, :1])
