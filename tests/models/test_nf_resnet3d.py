"""NFResNet3d against timm's NormFreeNet, and against its definition."""

import math

import pytest
import torch
from torch import nn

from videonorm.layers import WSConv3d
from videonorm.models import NFResNet3d, fold
from videonorm.models.nf_resnet3d import NormFreeBlock


def of_image(name):
    """The name in ours of a tensor of timm's NormFreeNet with bottlenecks."""
    for theirs, ours in (
        ("stem.conv.", "stem."),
        ("downsample.conv", "shortcut"),
        ("skipinit_gain", "skip_gain"),
        ("head.fc", "head"),
        *((f"conv{index + 1}", f"convs.{index}") for index in range(3)),
    ):
        name = name.replace(theirs, ours)
    stage, block = name.split(".")[1:3] if name.startswith("stages") else ("", "")
    strided = stage not in ("", "0") and block == "0"
    return name.replace("shortcut", "shortcut.2") if strided else name


def test_is_timms_norm_free_net_on_one_frame():
    nfnet = pytest.importorskip("timm.models.nfnet")
    torch.manual_seed(0)
    cfg = nfnet.NfCfg(
        depths=(3, 4, 6, 3),
        channels=(32, 64, 128, 256),
        alpha=0.2,
        width_factor=1.0,
        bottle_ratio=0.25,
        stem_type="7x7_pool",
        stem_chs=8,
        reg=False,
        extra_conv=False,
        skipinit=True,
        act_layer="relu",
        std_conv_eps=1e-6,
    )
    theirs = nfnet.NormFreeNet(cfg, num_classes=5).double()
    for name, parameter in theirs.named_parameters():  # biases and gains that tell
        if "weight" not in name:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    ours = NFResNet3d(50, "c2d", num_classes=5, width=8, variant="nf_timm").double()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    state = {of_image(name): tensor for name, tensor in theirs.state_dict().items()}
    assert state.keys() == shapes.keys()
    ours.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in state.items()})

    images = torch.randn(1, 3, 37, 29, dtype=torch.float64)
    logits, want = ours(images[:, :, None]), theirs(images)
    assert want.std() > 0.1
    torch.testing.assert_close(logits, want, rtol=1e-6, atol=1e-9)


def test_expected_variance_is_kept_in_account():
    """1, then alpha^2 more a block, from 1 again behind the first of a stage."""
    with torch.device("meta"):
        stages = NFResNet3d(34, "r3d", width=4, alpha=0.5).stages
    stds = [[1 / block.beta for block in stage] for stage in stages]
    assert [len(stage) for stage in stds] == [3, 4, 6, 3]
    assert stds[0] == pytest.approx([1, math.sqrt(1.25), math.sqrt(1.5)])
    assert stds[1][:3] == pytest.approx([math.sqrt(1.75), math.sqrt(1.25), math.sqrt(1.5)])
    assert stds[2][0] == pytest.approx(math.sqrt(2)) and stds[3][0] == pytest.approx(math.sqrt(2.5))


def test_block_by_its_formula():
    torch.manual_seed(0)
    network = NFResNet3d(18, "mc3", num_classes=3, width=4, zero_init_residual=False).double()
    block = network.stages[1][0]
    nn.init.constant_(block.skip_gain, 0.7)
    x = torch.randn(2, 4, 3, 6, 6, dtype=torch.float64)

    def conv(layer, x):
        w = layer.weight.flatten(1)
        n = w.shape[1]
        centred = w - w.mean(1, keepdim=True)
        scaled = centred / torch.sqrt(torch.clamp(n * centred.square().mean(1, keepdim=True), min=1e-4))
        weight = (scaled * layer.gain[:, None]).view_as(layer.weight)
        return nn.functional.conv3d(x, weight, layer.bias, layer.stride, layer.padding)

    def act(x):
        return 1.71395886 * x.clamp(min=0)

    y = act(x) / math.sqrt(1 + 2 * 0.2**2)
    branch = conv(block.convs[1], act(conv(block.convs[0], y)))
    pooled = y.reshape(2, 4, 3, 3, 2, 3, 2).mean((4, 6))
    want = conv(block.shortcut[2], pooled) + 0.2 * 0.7 * branch
    torch.testing.assert_close(block(x), want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["r3d", "mc3", "c2d", "i3d", "slow", "r3d_pooled", "i3d_strided"])
@pytest.mark.parametrize("depth, num_blocks", [(10, 4), pytest.param(50, 16, marks=pytest.mark.slow)])
def test_every_kind_takes_any_clip(kind, depth, num_blocks):
    with torch.device("meta"):
        model = NFResNet3d(depth, kind, num_classes=7, width=8)
        for shape in ((2, 3, 1, 32, 32), (1, 3, 9, 50, 41)):
            assert model(torch.empty(shape)).shape == (shape[0], 7)
    assert sum(isinstance(module, NormFreeBlock) for module in model.modules()) == num_blocks
    assert all(isinstance(m, WSConv3d) for m in model.modules() if isinstance(m, nn.Conv3d))


def test_starts_as_its_shortcuts():
    network = NFResNet3d(10, "mc3", width=4)
    x = torch.randn(1, 4, 2, 5, 5)
    assert torch.equal(network.stages[0][0](x), x)


def test_folds_into_plain_convolutions():
    torch.manual_seed(0)
    network = NFResNet3d(10, "r3d", num_classes=3, width=4, zero_init_residual=False).double().eval()
    clips = torch.randn(1, 3, 4, 20, 20, dtype=torch.float64)
    want = network(clips)
    report = fold(network, clips.shape)
    assert not report.left and all(
        type(m) is nn.Conv3d for m in network.modules() if isinstance(m, nn.Conv3d)
    )
    torch.testing.assert_close(network(clips), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "r2plus1d"}, r"kind \(r2plus1d\) must be one of r3d, mc3"),
        ({"depth": 20}, r"depth \(20\) must be one of 10, 18"),
        ({"variant": "bit"}, r"variant \(bit\) must be one of nf, nf_timm"),
    ],
)
def test_unknown_choices(options, message):
    with pytest.raises(ValueError, match=message):
        NFResNet3d(**options)
