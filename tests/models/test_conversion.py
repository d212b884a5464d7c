import warnings
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import video as torchvision_video

from videonorm import layers
from videonorm.models import ResNet3d, VGG3d, convert

divisor_group_norm = partial(layers.GroupNorm3d, on_indivisible="divisor")
group_norm_4 = partial(layers.GroupNorm3d, num_groups=4)
CLIPS = torch.randn(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def small_network(norm: nn.Module | None = None) -> nn.Sequential:
    """Somebody's network: conv, norm, ReLU; conv, norm; a last conv as classifier."""
    torch.manual_seed(0)
    norm = nn.BatchNorm3d(8, eps=1e-3, momentum=0.3) if norm is None else norm
    return nn.Sequential(
        nn.Sequential(nn.Conv3d(3, 8, 3, padding=1, bias=False), norm, nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv3d(8, 8, (1, 3, 3), stride=2, dilation=(1, 2, 2), groups=2), nn.BatchNorm3d(8)),
        nn.AdaptiveAvgPool3d(1),
        nn.Conv3d(8, 5, 1),
    )


def randomize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d | layers.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize(("name", "num_norms"), [("r3d_18", 20), ("mc3_18", 20), ("r2plus1d_18", 37)])
def test_torchvisions_networks_become_group_norm_with_standardized_weights(name, num_norms):
    with torch.device("meta"):
        model = getattr(torchvision_video, name)(num_classes=5)
        before = model.state_dict()
        report = convert(model, norm=divisor_group_norm, conv=layers.WSConv3d)
    kinds = Counter((change.before, change.after.partition("(")[0]) for change in report.changed)
    assert kinds["BatchNorm3d", "GroupNorm3d"] == num_norms
    assert sum(count for (_, after), count in kinds.items() if after == "WSConv3d") == num_norms
    assert not report.left
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert list(model.state_dict()) == [key for key in before if not key.endswith(statistics)]


def test_a_converted_torchvision_network_trains():
    model = torchvision_video.mc3_18(num_classes=5)
    convert(model, norm=layers.GroupNorm3d, conv=layers.WSConv3d)
    logits = model(CLIPS)
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    nodes, operators = [logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in operators:
            operators.add(node)
            nodes += [following for following, _ in node.next_functions]
    standardizations = [node for node in operators if "weight_standardize" in node.name()]
    assert len(standardizations) == 5  # of the stem and of each stage
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_parameters_move_and_the_function_is_group_norm_of_standardized_convolution():
    model = small_network()
    randomize(model)
    conv, norm = model[0][0], model[0][1]
    optimizer_holds = set(model.parameters())
    convert(model, norm=group_norm_4, conv=layers.WSConv3d)
    assert set(model.parameters()) == optimizer_holds
    assert model[0][0].weight is conv.weight and model[0][1].weight is norm.weight

    w = conv.weight
    w_hat = (w - w.mean((1, 2, 3, 4), keepdim=True)) / w.var((1, 2, 3, 4), correction=0, keepdim=True).sqrt()
    y = nn.functional.conv3d(CLIPS, w_hat, padding=1)
    expected = nn.functional.group_norm(y, 4, norm.weight, norm.bias).relu()
    torch.testing.assert_close(model[0](CLIPS), expected, atol=1e-5, rtol=1e-5)


def test_a_moving_average_begins_anew_where_its_buffers_do():
    model = small_network()
    model[0][1].num_batches_tracked.fill_(2000)
    for num_batches in (4, 2):
        convert(model, norm=partial(layers.MovingAverageBatchNorm3d, num_batches=num_batches))
        assert not model[0][1].batches.any()
        model(CLIPS)
        assert model[0][1].batches.max() == 1


def test_batch_renorm_for_batch_norm_keeps_the_function_of_evaluation():
    model = small_network()
    randomize(model)
    expected = model.eval()(CLIPS)
    report = convert(model, norm=layers.BatchRenorm3d)
    assert report.changed and all(change.keeps_function for change in report.changed)
    torch.testing.assert_close(model(CLIPS), expected)


@pytest.mark.parametrize("norm", [layers.BatchNorm3d, layers.SyncBatchNorm3d, nn.BatchNorm3d])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_for_batch_norm_keeps_the_function(norm, training):
    model, reference = small_network(), small_network()
    for network in (model, reference):
        torch.manual_seed(1)
        randomize(network)
        network.train(training)
    keys = list(model.state_dict())
    report = convert(model, norm=norm, conv=nn.Conv3d)
    assert list(model.state_dict()) == keys
    assert all(not change.dropped for change in report.changed)
    assert model[0][1].eps == 1e-3 and model[0][1].momentum == 0.3
    for _ in range(2):  # the second time with running statistics that have moved
        torch.testing.assert_close(model(CLIPS), reference(CLIPS))
    assert all(module.training is training for module in model.modules())


def test_frozen_batch_norm_keeps_the_function_of_evaluation():
    model = small_network()
    randomize(model)
    expected = model.eval()(CLIPS)
    convert(model, norm=layers.FrozenBatchNorm3d)
    torch.testing.assert_close(model.train()(CLIPS), expected, atol=1e-5, rtol=1e-5)
    assert not any(p is model[0][1].weight for p in model.parameters())
    convert(model, norm=layers.BatchNorm3d)
    assert isinstance(model[0][1].weight, nn.Parameter)
    torch.testing.assert_close(model.eval()(CLIPS), expected, atol=1e-5, rtol=1e-5)


def test_sub_batch_norm_starts_all_splits_from_the_running_statistics():
    model = small_network()
    randomize(model)
    mean = model[0][1].running_mean
    convert(model, norm=partial(layers.SubBatchNorm3d, num_splits=2))
    assert torch.equal(model[0][1].split_mean, torch.stack([mean, mean]))


def test_batch_channel_norm_takes_part_with_its_batch_norm():
    model = small_network()
    randomize(model)
    keys = list(model.state_dict())
    gamma, var = model[0][1].weight, model[0][1].running_var
    report = convert(model, norm=partial(layers.BatchChannelNorm3d, num_groups=4))
    assert model[0][1].batch_norm.weight is gamma and model[0][1].batch_norm.running_var is var
    assert model[0][1].batch_norm.eps == 1e-3 and model[0][1].batch_norm.momentum == 0.3
    assert not any(change.dropped for change in report.changed)
    back = convert(model, norm=layers.BatchNorm3d)
    assert list(model.state_dict()) == keys and model[0][1].weight is gamma
    assert back.changed[0].dropped == ("weight", "bias")  # those of the groups


def test_our_own_networks_keep_their_activations():
    model = ResNet3d(10, num_classes=5, width=8, zero_init_residual=False)
    twin = ResNet3d(10, num_classes=5, width=8, norm=group_norm_4, conv=layers.WSConv3d)
    convert(model, norm=group_norm_4, conv=layers.WSConv3d)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(CLIPS), twin(CLIPS))


def test_standardized_convolutions_go_only_where_a_norm_of_their_channels_follows():
    model = small_network()
    report = convert(model, conv=layers.WSConv3d)
    assert [change.name for change in report.changed] == ["0.0", "1.0"]
    assert [(left.name, left.reason) for left in report.left] == [("3", "no norm follows it")]
    assert type(model[3]) is nn.Conv3d
    second = model[1][0]
    assert (second.stride, second.dilation, second.groups) == ((2, 2, 2), (1, 2, 2), 2)
    assert second.bias is not None and model[0][0].bias is None

    unnormalized = VGG3d(11, width=2)
    assert not convert(unnormalized, conv=layers.WSConv3d).changed
    behind_dropout = nn.Sequential(nn.Conv3d(3, 4, 1), nn.Dropout3d(), nn.Identity(), nn.BatchNorm3d(4))
    assert len(convert(behind_dropout, conv=layers.WSConv3d).changed) == 1
    other_channels = nn.Sequential(nn.Conv3d(3, 4, 1), nn.PixelShuffle(1), nn.BatchNorm3d(4))
    assert not convert(other_channels, conv=layers.WSConv3d).changed
    for norm, scale_free in (
        (layers.DynamicTanh3d(4), False),
        (layers.EvoNormS0(4, 2), False),
        (layers.EvoNormS0(4, 2, activation="relu"), True),
        (layers.MovingAverageBatchNorm3d(4), True),
    ):
        model = nn.Sequential(nn.Conv3d(3, 4, 1), norm)
        assert bool(convert(model, conv=layers.WSConv3d).changed) == scale_free


def test_plain_convolutions_go_everywhere_and_get_the_effective_weight():
    model = ResNet3d(10, num_classes=5, width=8, conv=partial(layers.WSConv3d, variant="nf")).eval()
    expected = model(CLIPS)
    report = convert(model, conv=nn.Conv3d)
    assert not any(isinstance(module, layers.ReparametrizedConv3d) for module in model.modules())
    assert all(change.kept == ("weight",) and change.dropped == ("gain",) for change in report.changed)
    torch.testing.assert_close(model(CLIPS), expected)


def test_weight_norm_keeps_the_function():
    model = small_network().eval()
    expected = model(CLIPS)
    convert(model, conv=layers.WeightNormConv3d)
    torch.testing.assert_close(model(CLIPS), expected)


def test_activations_with_parameters_move_and_a_proxy_does_not_keep_the_function():
    model = ResNet3d(10, num_classes=5, width=8, norm=group_norm_4)
    proxy = partial(layers.ProxyNorm3d, num_groups=4)
    assert not any(change.keeps_function for change in convert(model, norm=proxy).changed)
    assert model.stem.norm.proxy_mean is not None
    assert all(change.keeps_function for change in convert(model, norm=proxy).changed)
    convert(model, norm=layers.FilterResponseNorm3d)
    tau = model.stem.norm.tau
    assert tau is not None and model.stages[1][0].shortcut.norm.tau is None
    convert(model, norm=layers.FilterResponseNorm3d)
    assert model.stem.norm.tau is tau
    report = convert(model, norm=layers.BatchNorm3d)
    assert ("tau",) in {change.dropped for change in report.changed} and not report.left


def test_imposed_statistics_move_to_their_like_alone():
    imposed = partial(layers.ImposedBatchNorm3d, spread_of_means=2.0, spread_of_scales=0.5)
    model = nn.Sequential(nn.Conv3d(3, 4, 1), imposed(4)).eval()
    expected = model(CLIPS)
    assert all(change.keeps_function for change in convert(model, norm=imposed).changed)
    assert torch.equal(model(CLIPS), expected)
    assert not any(change.keeps_function for change in convert(model, norm=layers.FrozenBatchNorm3d).changed)
    assert not any(change.keeps_function for change in convert(model, norm=imposed).changed)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_device_dtype_memory_format_and_frozen_parameters_stay(device):
    model = small_network().to(device=device, dtype=torch.bfloat16, memory_format=torch.channels_last_3d)
    model.requires_grad_(False)
    convert(model, norm=group_norm_4, conv=partial(layers.WSConv3d, variant="nf"))
    assert "0.0.gain" in model.state_dict()
    for name, parameter in model.named_parameters():
        assert parameter.device.type == device and parameter.dtype == torch.bfloat16
        assert not parameter.requires_grad, name
    assert model[0][0].weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    "norm", [nn.SyncBatchNorm(8), nn.InstanceNorm3d(8, affine=True), nn.GroupNorm(2, 8), nn.InstanceNorm3d(8)]
)
def test_torchs_other_norms_are_swapped(norm):
    model = small_network(norm)
    bias = norm.bias
    convert(model, norm=layers.LayerNorm3d)
    assert isinstance(model[0][1], layers.LayerNorm3d)
    assert bias is None or model[0][1].bias is bias


def test_what_cannot_be_swapped_is_reported():
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv3d(3, 3, 1))
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.LayerNorm(3),
        layers.NoNorm(3),
        nn.Conv2d(3, 3, 1),
        parametrized,
        nn.BatchNorm3d(3),
    )
    report = convert(model, norm=layers.LayerNorm3d, conv=layers.WSConv3d)
    assert [change.name for change in report.changed] == ["5"]
    assert [(left.name, left.reason) for left in report.left] == [
        ("0", "it is not a norm over (B, C, T, H, W)"),
        ("1", "it is not a norm over (B, C, T, H, W)"),
        ("2", "it does not normalize"),
        ("3", "it is not a Conv3d"),
        ("4", "its weight is parametrized"),
    ]


class CausalConv3d(nn.Conv3d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 0, 0, 0, 2, 0)))


@pytest.mark.parametrize("conv", [nn.Conv3d, layers.WSConv3d])
def test_no_convolution_takes_the_place_of_a_forward_or_a_weight_of_somebodys_own(conv):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        computed = nn.utils.weight_norm(nn.Conv3d(4, 4, 1))  # by a hook, and not as a parametrization
    model = nn.Sequential(CausalConv3d(3, 4, (3, 1, 1)), nn.BatchNorm3d(4), computed).eval()
    logits = model(CLIPS)
    report = convert(model, conv=conv)
    reasons = [("0", "its forward is its own"), ("2", "its weight is parametrized")]
    assert [(left.name, left.reason) for left in report.left] == reasons
    assert torch.equal(model(CLIPS), logits)


def test_a_shared_module_stays_shared():
    shared = nn.BatchNorm3d(3)
    model = nn.Sequential(nn.Conv3d(3, 3, 1), shared, nn.Conv3d(3, 3, 1), shared)
    report = convert(model, norm=layers.LayerNorm3d)
    assert len(report.changed) == 1
    assert model[1] is model[3] and isinstance(model[1], layers.LayerNorm3d)


def test_the_report_reads_well():
    model = nn.Sequential(nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8), nn.Conv3d(8, 5, 1), nn.ReLU())
    assert str(convert(model, norm=group_norm_4, conv=layers.WSCenterOnlyConv3d)).splitlines() == [
        "1 x Conv3d -> WSCenterOnlyConv3d, keeps weight bias",
        "1 x BatchNorm3d -> GroupNorm3d, keeps weight bias,"
        " drops running_mean running_var num_batches_tracked",
        "  0: Conv3d -> WSCenterOnlyConv3d(3, 8, kernel_size=(1, 1, 1), stride=(1, 1, 1))",
        "  1: BatchNorm3d -> GroupNorm3d(8, num_groups=4, eps=1e-05)",
        "1 left as they were",
        "  2: Conv3d, no norm follows it",
    ]


def test_a_refusal_names_the_place_and_changes_nothing():
    model = nn.Sequential(small_network(), nn.BatchNorm3d(5))
    with pytest.raises(ValueError, match=r"num_groups \(4\) must divide num_channels \(5\), at 1"):
        convert(model, norm=group_norm_4)
    assert isinstance(model[0][0][1], nn.BatchNorm3d)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"norm \(None\) and conv \(None\) must not both be None"):
        convert(small_network())
    with pytest.raises(
        ValueError, match=r"model \(BatchNorm3d\) must hold what is to be swapped as submodules"
    ):
        convert(nn.BatchNorm3d(3), norm=group_norm_4)
    with pytest.raises(
        ValueError, match=r"norm \(BatchNorm3d\) must be one of videonorm.layers, like the norm"
    ):
        convert(ResNet3d(10, width=4), norm=nn.BatchNorm3d)
