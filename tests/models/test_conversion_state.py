"""Where `convert` can keep the function and the state, it keeps them exactly; what is new it names."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import video as torchvision_video

from videonorm import layers
from videonorm.models import convert

CLIPS = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
BATCH_NORMS = [layers.BatchNorm3d, layers.SyncBatchNorm3d, nn.BatchNorm3d]
ONE_SPLIT = partial(layers.SubBatchNorm3d, num_splits=1)


def network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 1), norm, nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4))


slowly = partial(pytest.param, marks=pytest.mark.slow)
WHOLE_NETWORKS = [
    ("mc3_18", layers.BatchNorm3d),
    ("s3d", nn.BatchNorm3d),
    *(slowly(name, norm) for name in ("r3d_18", "r2plus1d_18") for norm in BATCH_NORMS),
    *(slowly(name, layers.BatchNorm3d) for name in ("s3d", "swin3d_t")),
]


@pytest.mark.parametrize(("name", "norm"), WHOLE_NETWORKS)
def test_batch_norm_for_batch_norm_is_the_same_to_the_bit(name, norm):
    """Through whole networks, whose eps and momentum are their own, in training and in evaluation."""
    torch.manual_seed(0)
    model, clips = getattr(torchvision_video, name)(num_classes=5), CLIPS
    if name == "s3d":  # as it is, it takes clips of 14 x 224 x 224 and more
        model.avgpool, clips = nn.AdaptiveAvgPool3d(1), CLIPS.repeat(1, 1, 2, 2, 2)
    converted, random_state = copy.deepcopy(model), torch.get_rng_state()
    report = convert(converted, norm=norm, conv=nn.Conv3d)
    assert torch.equal(torch.get_rng_state(), random_state)
    volumes = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d | nn.Conv3d)]
    assert len(report.changed) == len(volumes)
    assert {left.module for left in report.left} == ({"LayerNorm"} if name == "swin3d_t" else set())
    assert not any(change.dropped or change.added for change in report.changed)
    for training in (True, False):
        results = []
        for net in (model, converted):
            torch.manual_seed(1)  # for dropout
            results.append(net.train(training)(clips))
        assert torch.equal(*results)
    before, after = model.state_dict(), converted.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("norm", [*BATCH_NORMS, ONE_SPLIT])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("how", ["never", "no_longer"])
def test_untracked_statistics_stay_untracked(norm, affine, how):
    """Without running statistics evaluation takes those of the batch; frozen ones training leaves alone."""
    old = nn.BatchNorm3d(4, affine=affine, momentum=0.3, track_running_stats=how == "no_longer")
    model = network(old)
    if how == "no_longer":
        model(CLIPS)
        old.track_running_stats = False
    expected = copy.deepcopy(model)
    report = convert(model, norm=norm)
    first = report.changed[0]
    assert not first.dropped and {"weight", "bias"} & {*first.added} == (
        set() if affine else {"weight", "bias"}
    )
    assert {name for name, _ in old.named_buffers()} <= model[1].state_dict().keys()
    for training in (True, False, True):
        torch.testing.assert_close(model.train(training)(CLIPS), expected.train(training)(CLIPS))
    for name, buffer in expected[1].named_buffers():
        assert torch.equal(model[1].get_buffer(name), buffer)


def test_statistics_that_do_not_exist_are_not_frozen_and_not_used():
    frozen, estimated = layers.FrozenBatchNorm3d, partial(layers.BatchChannelNorm3d, num_groups=2)
    for old in (nn.BatchNorm3d(4, track_running_stats=False), nn.GroupNorm(2, 4), nn.InstanceNorm3d(4)):
        report = convert(network(old), norm=frozen)
        assert [(left.name, left.reason) for left in report.left] == [
            ("1", "it has no running statistics to freeze")
        ]
    untracked = nn.BatchNorm3d(4, track_running_stats=False)
    report = convert(network(untracked), norm=partial(estimated, statistics="estimated"))
    assert report.left[0].reason == "it has no running statistics to normalize by"
    model, expected = network(untracked).eval(), untracked(CLIPS[:, :1].expand(-1, 4, -1, -1, -1))
    convert(model, norm=estimated)
    torch.testing.assert_close(model[1].batch_norm(CLIPS[:, :1].expand(-1, 4, -1, -1, -1)), expected)


@pytest.mark.parametrize("old", [nn.GroupNorm(2, 4, eps=0.1), nn.InstanceNorm3d(4, eps=0.1, affine=True)])
def test_group_norm_for_group_norm_keeps_the_function(old):
    model = network(old)[:2]
    expected = model(CLIPS)
    convert(model, norm=partial(layers.GroupNorm3d, num_groups=2 if isinstance(old, nn.GroupNorm) else 4))
    torch.testing.assert_close(model(CLIPS), expected)


def test_what_is_new_is_named():
    model = network(nn.GroupNorm(2, 4))
    report = convert(model, norm=layers.BatchNorm3d, conv=layers.WeightNormConv3d)
    assert [change.added for change in report.changed] == [
        ("gain",),
        ("running_mean", "running_var", "num_batches_tracked"),
        ("gain",),
        (),
    ]
    assert "Conv3d -> WeightNormConv3d, keeps weight bias, adds gain" in str(report)


def test_nothing_frozen_becomes_trainable_or_the_reverse():
    model = network(nn.BatchNorm3d(4, affine=False))
    model[0].weight.requires_grad_(False)
    convert(model, norm=layers.BatchNorm3d, conv=layers.WeightNormConv3d)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # The first gain is part of a frozen weight; the norm's weight and bias are new in a network that learns.
    assert trainable == {*dict(model.named_parameters())} - {"0.weight", "0.gain"}
    model.requires_grad_(False)
    convert(model, conv=nn.Conv3d)
    convert(model, norm=layers.FrozenBatchNorm3d)
    convert(model, norm=layers.BatchNorm3d)
    assert isinstance(model[1].weight, nn.Parameter)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_each_module_keeps_its_training_flag_and_memory_format():
    model = network(nn.BatchNorm3d(4)).to(memory_format=torch.channels_last_3d)
    model[1].eval()
    flags = [module.training for module in model]
    convert(model, norm=layers.LayerNorm3d, conv=layers.WSConv3d)
    convert(model, conv=nn.Conv3d)
    assert [module.training for module in model] == flags == [True, False, True, True]
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_tied_weights_stay_tied():
    model = nn.Sequential(*network(nn.BatchNorm3d(4)), *network(nn.BatchNorm3d(4))[1:])
    model[4].weight, model[5].weight = model[1].weight, model[2].weight
    tied = [(1, 4), (2, 5)]
    convert(model, norm=layers.LayerNorm3d, conv=layers.WSConv3d)
    assert all(model[one].weight is model[other].weight for one, other in tied)
    # Whoever made these of the tied ones would give each its own.
    for to_what, modules in [({"conv": nn.Conv3d}, "25"), ({"conv": layers.WeightNormConv3d}, "25")]:
        report = convert(copy.deepcopy(model), **to_what)
        assert [(left.name, left.reason) for left in report.left] == [
            (name, "its weight is shared with another module") for name in modules
        ]
    convert(model, norm=layers.BatchNorm3d)
    report = convert(model, norm=layers.FrozenBatchNorm3d)
    assert [left.name for left in report.left] == ["1", "4"] and model[1].weight is model[4].weight


def test_a_convolution_that_hangs_in_two_places_needs_a_norm_in_both():
    shared = nn.Conv3d(4, 4, 1)
    model = nn.Sequential(shared, nn.BatchNorm3d(4), shared, nn.ReLU())
    report = convert(model, conv=layers.WSConv3d)
    assert [(left.name, left.reason) for left in report.left] == [("0", "no norm follows it")]
    model[3] = nn.BatchNorm3d(4)
    convert(model, conv=layers.WSConv3d)
    assert model[0] is model[2] and isinstance(model[0], layers.WSConv3d)
