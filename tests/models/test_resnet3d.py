import itertools
from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn

from videonorm import layers
from videonorm.models import ResNet3d
from videonorm.models.resnet3d import Depth, KindName, ResidualBlock

NORMS = {
    "batch": layers.BatchNorm3d,
    "sub_batch": partial(layers.SubBatchNorm3d, num_splits=2, min_clips=1),
    "sync_batch": layers.SyncBatchNorm3d,
    "frozen_batch": layers.FrozenBatchNorm3d,
    "frozen_batch_affine": partial(layers.FrozenBatchNorm3d, train_affine=True),
    "group": partial(layers.GroupNorm3d, num_groups=4),
    "layer": layers.LayerNorm3d,
    "instance": layers.InstanceNorm3d,
    "batch_channel": partial(layers.BatchChannelNorm3d, num_groups=4),
    "batch_channel_micro": partial(layers.BatchChannelNorm3d, num_groups=4, statistics="estimated"),
    "batch_renorm": layers.BatchRenorm3d,
    "imposed_batch": partial(layers.ImposedBatchNorm3d, spread_of_means=1.0, spread_of_scales=0.5),
    "moving_average": layers.MovingAverageBatchNorm3d,
    "filter_response": layers.FilterResponseNorm3d,
    "proxy": partial(layers.ProxyNorm3d, num_groups=4),
    "tanh": layers.DynamicTanh3d,
    "evo": partial(layers.EvoNormS0, num_groups=4),
    "none": layers.NoNorm,
}
CONVS = {
    "plain": nn.Conv3d,
    "ws": layers.WSConv3d,
    "ws_nf": partial(layers.WSConv3d, variant="nf"),
    "ws_center_only": layers.WSCenterOnlyConv3d,
    "ws_scale_only": layers.WSScaleOnlyConv3d,
    "weight_norm": layers.WeightNormConv3d,
}


def last_norms(model: nn.Module) -> list[nn.Module]:
    return [module.branch[-1].norm for module in model.modules() if isinstance(module, ResidualBlock)]


@pytest.mark.parametrize("kind", get_args(KindName))
@pytest.mark.parametrize(
    "depth", [pytest.param(of, marks=pytest.mark.slow if of > 50 else ()) for of in get_args(Depth)]
)
def test_every_depth_and_kind_takes_any_clip(depth, kind):
    with torch.device("meta"):
        model = ResNet3d(depth, kind, num_classes=7, norm=layers.LayerNorm3d, width=32)
        for shape in ((2, 3, 1, 32, 32), (1, 3, 9, 50, 41)):
            assert model(torch.empty(shape)).shape == (shape[0], 7)
    assert model.head.in_features == 256 * (4 if depth >= 50 else 1)


@pytest.mark.parametrize(
    ("depth", "kind", "kernels"),
    [
        (18, "r3d", ["333 333", "333 333"]),
        (18, "mc3", ["133 133", "133 133"]),
        (18, "i3d", ["333 133", "133 133"]),
        (18, "slow", ["133 133", "133 133"]),
        (50, "r3d", ["111 333 111"] * 4),
        (50, "c2d", ["111 133 111"] * 4),
        (50, "i3d", ["311 133 111", "111 133 111"] * 2),
        (50, "slow", ["111 133 111"] * 4),
    ],
)
def test_kernels_of_stage_2(depth, kind, kernels):
    with torch.device("meta"):
        model = ResNet3d(depth, kind)
    found = [
        " ".join("".join(map(str, u.conv.kernel_size)) for u in block.branch) for block in model.stages[1]
    ]
    assert found == kernels


@pytest.mark.parametrize(
    ("kind", "num_frames"),
    [
        *(("r3d", 2), ("r2plus1d", 2), ("mc3", 16), ("c2d", 8), ("i3d", 8), ("slow", 16)),
        *(("r3d_pooled", 1), ("r2plus1d_pooled", 2), ("i3d_strided", 2)),
    ],
)
def test_frames_after_the_last_stage(kind, num_frames):
    model = ResNet3d(10, kind, width=4)
    shapes = []
    model.stages[-1].register_forward_hook(lambda module, args, output: shapes.append(output.shape[2]))
    model(torch.randn(2, 3, 16, 32, 32))
    assert shapes == [num_frames]


@pytest.mark.parametrize("kind", ["c2d", "i3d"])
def test_last_frame_of_an_odd_number_is_seen(kind):
    torch.manual_seed(0)
    model = ResNet3d(10, kind, width=4, zero_init_residual=False).eval()
    clips = torch.randn(1, 3, 15, 32, 32)
    changed = clips.clone()
    changed[:, :, -1] += 1
    assert not torch.allclose(model(clips), model(changed))


# Every norm and every convolution, one with another. The other pairs have no code of their own, and are slow.
COVERING = list(zip(NORMS, itertools.cycle(CONVS)))
PAIRS = [
    pytest.param(*pair, marks=() if pair in COVERING else pytest.mark.slow)
    for pair in itertools.product(NORMS, CONVS)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("norm, conv", PAIRS)
def test_every_norm_and_convolution_trains(norm, conv, dtype):
    torch.manual_seed(0)
    options = {"norm": NORMS[norm], "conv": CONVS[conv], "width": 8, "zero_init_residual": False}
    model = ResNet3d(10, "i3d", num_classes=3, **options)
    half = dtype != torch.float32
    with torch.autocast("cpu", dtype, enabled=half):
        logits = model(torch.randn(4, 3, 2, 16, 16))
    logits.float().square().sum().backward()
    assert logits.dtype == dtype and logits.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_blocks_start_as_their_shortcuts_whatever_the_norm(norm):
    model = ResNet3d(18, width=8, norm=norm)
    learnt = [n.weight for n in last_norms(model) if isinstance(getattr(n, "weight", None), nn.Parameter)]
    assert len(learnt) == (0 if norm in (layers.NoNorm, layers.FrozenBatchNorm3d) else 8)
    assert all(gamma.count_nonzero() == 0 for gamma in learnt)
    if learnt:
        x = torch.rand(4, 8, 4, 8, 8)  # not negative, as behind a ReLU
        torch.testing.assert_close(model.stages[0](x), x)
    others = set(model.modules()) - set(last_norms(model))
    assert all(m.weight.all() for m in others if isinstance(m, layers.Norm) and hasattr(m, "weight"))


def test_zero_gamma_is_an_option():
    model = ResNet3d(10, width=8, zero_init_residual=False)
    assert all(norm.weight.eq(1).all() for norm in last_norms(model))


def test_initialization_is_he_by_fan_out():
    torch.manual_seed(0)
    model = ResNet3d(10, width=32)
    weight = model.stages[3][0].branch[1].conv.weight  # (256, 256, 3, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (256 * 27)) ** 0.5, rel=0.01)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.head.bias.count_nonzero() == 0


def test_weight_norm_starts_with_the_weights_of_the_initialization():
    model = ResNet3d(10, width=4, conv=layers.WeightNormConv3d)
    conv = model.stages[0][0].branch[0].conv
    torch.testing.assert_close(conv.effective_weight(), conv.weight)


def test_last_only_has_one_norm_and_biases():
    model = ResNet3d(18, "i3d", norm=layers.BatchNorm3d, width=4, norm_placement="last_only")
    norms = [m for m in model.modules() if isinstance(m, layers.Norm) and not isinstance(m, layers.NoNorm)]
    assert norms == [model.final_norm]
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv3d))

    features = []
    model.final_norm.register_forward_hook(lambda module, args, output: features.append(output))
    model(torch.randn(4, 3, 2, 32, 32))
    torch.testing.assert_close(features[0].mean((0, 2, 3, 4)), torch.zeros(32), atol=1e-5, rtol=0)


def test_only_unnormalized_convolutions_have_biases():
    for norm, has_bias in ((layers.LayerNorm3d, False), (layers.NoNorm, True)):
        convs = [m for m in ResNet3d(10, width=4, norm=norm).modules() if isinstance(m, nn.Conv3d)]
        assert all((conv.bias is not None) is has_bias for conv in convs)


def test_state_does_not_depend_on_the_length_of_the_clips():
    torch.manual_seed(0)
    model = ResNet3d(10, "i3d", width=8, norm=partial(layers.GroupNorm3d, num_groups=4)).eval()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    for num_frames in (1, 2, 3, 8):
        assert model(torch.randn(1, 3, num_frames, 32, 32)).shape == (1, 400)
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


def test_residual_and_relu_are_part_of_the_norms_call():
    model = ResNet3d(18, width=4)
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    shortcuts = [
        m.shortcut for m in model.modules() if isinstance(m, ResidualBlock) and m.shortcut is not None
    ]
    without = [m for m in model.modules() if isinstance(m, layers.Norm) and m.activation is None]
    assert without == [shortcut.norm for shortcut in shortcuts]
    assert len(shortcuts) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, r"depth \(20\) must be one of 10, 18, 34, 50, 101, 152"),
        ({"kind": "r4d"}, r"kind \(r4d\) must be one of r3d, r2plus1d, mc3, c2d, i3d, slow"),
        ({"norm_placement": "none"}, r"norm_placement \(none\) must be one of all, last_only"),
        ({"norm": nn.BatchNorm3d}, r"norm \(BatchNorm3d\) must be one of videonorm.layers"),
        ({"norm": layers.GroupNorm3d, "width": 48}, r"num_groups \(32\) must divide num_channels \(48\)"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet3d(**options)
