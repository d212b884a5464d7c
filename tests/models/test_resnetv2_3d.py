"""ResNetV2_3d beside timm's ResNetV2, from which its own tests of weights load; here what is 3D about it."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from videonorm import layers
from videonorm.models import ResNetV2_3d
from videonorm.models.resnetv2_3d import PreActivationBottleneck

SMALL = {"num_classes": 5, "width": 8, "norm": partial(layers.GroupNorm3d, num_groups=4)}


@pytest.mark.parametrize(
    ("depth", "kind", "num_blocks"),
    [
        (50, "i3d", 16),
        (101, "slow", 33),
        pytest.param(50, "c2d", 16, marks=pytest.mark.slow),
        pytest.param(152, "i3d", 50, marks=pytest.mark.slow),
    ],
)
def test_every_depth_and_kind_takes_any_clip(depth, kind, num_blocks):
    with torch.device("meta"):
        model = ResNetV2_3d(depth, kind, num_classes=7, width=32)
        for shape in ((2, 3, 1, 32, 32), (1, 3, 9, 50, 41)):
            assert model(torch.empty(shape)).shape == (shape[0], 7)
    assert sum(isinstance(m, PreActivationBottleneck) for m in model.modules()) == num_blocks


def test_is_group_norm_and_weight_standardization_throughout():
    with torch.device("meta"):
        model = ResNetV2_3d()
    norms = [m for m in model.modules() if isinstance(m, layers.Norm)]
    convs = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert len(norms) == 3 * 16 + 1 and len(convs) == 3 * 16 + 4 + 1  # shortcuts, stem
    assert all(isinstance(n, layers.GroupNorm3d) and n.num_groups == 32 for n in norms)
    assert all(isinstance(c, layers.WSConv3d) and c.bias is None for c in convs)
    assert all(n.activation == "relu" for n in norms)
    assert len(model.state_dict()) == 153  # as timm's resnetv2_50x1_bit


@pytest.mark.parametrize(
    ("kind", "stem", "stages"),
    [
        ("c2d", 1, [(1, 1), (1, 1), (1, 1), (1, 1)]),
        ("slow", 1, [(1, 1), (1, 1), (3, 3), (3, 3)]),
        ("i3d", 5, [(3, 3), (3, 1), (3, 1), (1, 3)]),
    ],
)
def test_kernels_over_time_are_those_of_resnet3d(kind, stem, stages):
    with torch.device("meta"):
        model = ResNetV2_3d(50, kind)
    assert model.stem.kernel_size == (stem, 7, 7)
    assert [tuple(block.conv1.kernel_size[0] for block in stage[:2]) for stage in model.stages] == stages
    blocks = [block for stage in model.stages for block in stage]
    assert all(block.conv2.kernel_size == (1, 3, 3) and block.conv3.kernel_size[0] == 1 for block in blocks)
    assert [block.conv2.stride[1] for block in blocks if block.shortcut is not None] == [1, 2, 2, 2]


def test_nothing_starts_at_zero():
    model = ResNetV2_3d(50, **SMALL)
    assert all(m.weight.eq(1).all() for m in model.modules() if isinstance(m, layers.Norm))
    assert all(m.weight.any() for m in model.modules() if isinstance(m, nn.Conv3d))


def test_stem_pool_is_padded_with_zeros_and_not_with_the_least():
    model = ResNetV2_3d(50, **SMALL)
    below = model.stem_pool(torch.full((1, 1, 2, 4, 4), -1.0))
    assert torch.equal(below[0, 0], torch.tensor([[0.0, 0.0], [0.0, -1.0]]).expand(2, 2, 2))


def test_norm_none_has_biases():
    model = ResNetV2_3d(50, num_classes=5, width=2, norm=layers.NoNorm, conv=nn.Conv3d)
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv3d))
    assert model(torch.randn(1, 3, 2, 32, 32)).shape == (1, 5)


def test_gradients_with_recomputed_norms_are_the_same():
    torch.manual_seed(0)
    model = ResNetV2_3d(50, **SMALL)
    twin = copy.deepcopy(model)
    twin.recompute = "blocks"
    clips = torch.randn(2, 3, 2, 32, 32)
    for network in (model, twin):
        network(clips).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and ours.grad.any(), name
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, r"depth \(18\) must be one of 50, 101, 152"),
        ({"kind": "r3d"}, r"kind \(r3d\) must be one of c2d, i3d, slow"),
        ({"norm": nn.BatchNorm3d}, r"norm \(BatchNorm3d\) must be one of videonorm.layers"),
        ({"norm": layers.NoNorm, "recompute": "norms"}, "needs a norm whose output can be computed again"),
    ],
)
def test_mistakes_are_named(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ResNetV2_3d(**options)
