import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from videonorm.layers import (
    BatchNorm3d,
    GroupNorm3d,
    InstanceNorm3d,
    LayerNorm3d,
    WSConv3d,
    recompute,
)


@pytest.fixture
def x():
    return 30 + torch.randn(2, 12, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_one_group_is_layer_norm(x):
    for layer in (GroupNorm3d(12, 1), LayerNorm3d(12)):
        torch.testing.assert_close(layer.double()(x), F.layer_norm(x, x.shape[1:]))


def test_c_groups_are_instance_norm(x):
    for layer in (GroupNorm3d(12, 12), InstanceNorm3d(12)):
        torch.testing.assert_close(layer.double()(x), F.instance_norm(x))


def test_batch_norm_of_one_clip_is_instance_norm(x):
    batch_norm = BatchNorm3d(12, min_clips=1).double()
    torch.testing.assert_close(batch_norm(x[:1]), InstanceNorm3d(12).double()(x[:1]))


def test_state_dict_is_that_of_torch():
    assert GroupNorm3d(8, 4).state_dict().keys() == nn.GroupNorm(4, 8).state_dict().keys()


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_weight_and_bias_in_place_of_parameters(x):
    norm = GroupNorm3d(12, 3).double()
    nn.init.normal_(norm.bias)
    parametrize.register_parametrization(norm, "weight", Doubled())
    prune.l1_unstructured(norm, "bias", 0.5)
    want = F.group_norm(x, 3, torch.full((12,), 2.0).double(), norm.bias)
    torch.testing.assert_close(norm(x), want)
    given = {"bias_orig": torch.ones(12).double(), "parametrizations.weight.original": norm.bias_mask}
    want = F.group_norm(x, 3, 2 * norm.bias_mask, norm.bias_mask)
    torch.testing.assert_close(torch.func.functional_call(norm, given, x), want)
    norm = GroupNorm3d(12, 3).double()
    given = {"weight": torch.arange(12.0).double(), "bias": torch.ones(12).double()}
    want = F.group_norm(x, 3, given["weight"], given["bias"])
    torch.testing.assert_close(torch.func.functional_call(norm, given, x), want)
    norm.bias = None
    torch.testing.assert_close(norm(x), F.group_norm(x, 3))


def test_channels_per_group():
    layer = GroupNorm3d(48, channels_per_group=16)
    assert layer.num_groups == 3
    assert "num_groups=3" in repr(layer)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_groups": 32}, r"num_groups \(32\) must divide num_channels \(48\)"),
        ({"channels_per_group": 32}, r"channels_per_group \(32\) must divide num_channels \(48\)"),
        ({"num_groups": 0}, r"num_groups \(0\) must be at least 1"),
        ({"channels_per_group": -1}, r"channels_per_group \(-1\) must be at least 1"),
        ({"on_indivisible": "gcd"}, r"on_indivisible \('gcd'\) must be 'error' or 'divisor'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        GroupNorm3d(48, **options)


@pytest.mark.parametrize(
    "num_channels, num_groups",
    [(45, 15), (144, 24), (230, 23), (460, 23), (921, 3), (24, 12), (8, 4), (7, 1), (32, 16)],
)
def test_divisor(num_channels, num_groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is what was asked for
        layer = GroupNorm3d(num_channels, 32, on_indivisible="divisor")
    assert layer.num_groups == num_groups
    assert f"num_groups={num_groups}" in repr(layer)


def test_divisor_leaves_divisible_channels_alone():
    assert GroupNorm3d(64, 32, on_indivisible="divisor").num_groups == 32


@pytest.mark.parametrize("num_channels, num_groups", [(24, 2), (17, 1), (45, 3), (8, 1)])
def test_divisor_of_channels_per_group(num_channels, num_groups):
    layer = GroupNorm3d(num_channels, channels_per_group=16, on_indivisible="divisor")
    assert layer.num_groups == num_groups


def gradients(model: nn.Module, clips: torch.Tensor, micro_batch: int) -> list[torch.Tensor]:
    model = copy.deepcopy(model)
    for part in clips.split(micro_batch):
        (model(part).square().flatten(1).mean(1).sum() / len(clips)).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("norm, equal", [(GroupNorm3d, True), (BatchNorm3d, False)])
def test_accumulation_over_micro_batches(norm, equal):
    """With GN and WS, 8 micro-batches of 1 clip have the gradient of a batch of 8; with BN they have not."""
    torch.manual_seed(0)
    norms = [norm(32), norm(32)]
    for layer in norms:
        layer.activation, layer.min_clips = "relu", 1
        nn.init.normal_(layer.bias)
    model = nn.Sequential(WSConv3d(3, 32, 3), norms[0], WSConv3d(32, 32, (1, 3, 3)), norms[1]).double()
    clips = torch.randn(8, 3, 4, 8, 8, dtype=torch.float64)
    whole, parts = (torch.cat([g.flatten() for g in gradients(model, clips, size)]) for size in (8, 1))
    difference = (whole - parts).norm() / whole.norm()
    assert difference < 1e-12 if equal else difference > 0.05


@pytest.mark.parametrize("what", ["none", "blocks", "blocks_8bit"])
def test_no_clips(what):
    """As torch.nn.GroupNorm: y is empty too, and the gradients of the parameters are 0."""
    norm = GroupNorm3d(8, num_groups=4, activation="relu")
    model = torch.nn.Sequential(torch.nn.Conv3d(8, 8, 1), norm, torch.nn.Conv3d(8, 8, 1))
    with recompute(what):
        y = model(torch.zeros(0, 8, 2, 4, 4))
    y.sum().backward()
    assert y.shape == (0, 8, 2, 4, 4)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
