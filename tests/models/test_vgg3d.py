from functools import partial

import pytest
import torch
from torch import nn

from videonorm import layers
from videonorm.models import VGG3d


@pytest.mark.parametrize(("depth", "num_convs"), [(11, 8), (16, 13)])
@pytest.mark.parametrize("norm", [None, layers.GroupNorm3d])
def test_every_depth_takes_any_clip(depth, num_convs, norm):
    with torch.device("meta"):
        model = VGG3d(depth, num_classes=7, norm=norm)
        for shape in ((2, 3, 1, 32, 32), (1, 3, 9, 50, 41)):
            assert model(torch.empty(shape)).shape == (shape[0], 7)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert len(convs) == num_convs
    assert all((conv.bias is None) is (norm is not None) for conv in convs)
    assert [conv.out_channels for conv in convs][-1] == model.head.in_features == 512


def test_time_is_halved_by_four_of_the_five_pools():
    model = VGG3d(11, width=2)
    shapes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[2:])))
    model(torch.randn(1, 3, 16, 64, 64))
    assert shapes == [(16, 32, 32), (8, 16, 16), (4, 8, 8), (2, 4, 4), (1, 2, 2)]


def test_equals_the_network_written_out():
    torch.manual_seed(0)
    model = VGG3d(11, num_classes=3, width=2, dropout=0.0)
    x = clips = torch.randn(2, 3, 4, 32, 32)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    for index, conv in enumerate(convs):
        x = nn.functional.conv3d(x, conv.weight, conv.bias, padding=1).relu()
        if index in (0, 1, 3, 5, 7):
            x = nn.functional.max_pool3d(x, (1, 2, 2) if index == 0 else 2, ceil_mode=True)
    expected = nn.functional.linear(x.mean((2, 3, 4)), model.head.weight, model.head.bias)
    torch.testing.assert_close(model(clips), expected)


def test_trains_with_standardized_weights_and_group_norm():
    model = VGG3d(16, 3, norm=partial(layers.GroupNorm3d, num_groups=2), conv=layers.WSConv3d, width=4)
    model(torch.randn(2, 3, 2, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_unknown_depths_are_named():
    with pytest.raises(ValueError, match=r"depth \(13\) must be one of 11, 16"):
        VGG3d(13)
