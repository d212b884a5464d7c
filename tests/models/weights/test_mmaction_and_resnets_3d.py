"""What MMAction2 and 3D-ResNets-PyTorch would compute, computed by our networks with their weights."""

import functools
import re
import warnings

import pytest
import torch
from models.weights.foreign import HaraResNet, MMActionBackbone, Recognizer3D, randomize, unfilled
from torch import nn

from videonorm.errors import UserError
from videonorm.layers import BatchNorm3d, FrozenBatchNorm3d, WSConv3d
from videonorm.models import ResNet3d, from_pytorchvideo, load_foreign

I3D_INFLATE = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
CLIPS = (1, 3, 8, 16, 16)


def mmaction_i3d() -> nn.Module:
    return Recognizer3D(MMActionBackbone(I3D_INFLATE), 128, 5)


def mmaction_slowonly() -> nn.Module:
    inflate = ((0,) * 3, (0,) * 4, (1,) * 6, (1,) * 3)
    options = {"stem_kernel": (1, 7, 7), "stem_stride_t": 1, "pool_stride_t": 1, "pool2": False}
    return Recognizer3D(MMActionBackbone(inflate, **options), 128, 5)


def mmaction_r2plus1d() -> nn.Module:
    options = {"stem_kernel": (3, 7, 7), "stem_stride_t": 1, "pool_stride_t": 1, "pool2": False}
    inflate = [(1,) * number for number in (2, 2, 2, 2)]
    backbone = MMActionBackbone(inflate, **options, temporal_stride=2, factorized=True, eps=1e-3)
    return Recognizer3D(backbone, 32, 5)


def outputs(ours: nn.Module, theirs: nn.Module, shape=CLIPS):
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return ours.eval()(clips), theirs.eval()(clips)


def as_mmaction_saves(model: nn.Module, path):
    torch.save({"meta": {"epoch": 3}, "state_dict": model.state_dict()}, path)
    return path


@pytest.mark.parametrize(
    ("theirs", "depth", "kind"),
    [(mmaction_i3d, 50, "i3d_strided"), (mmaction_slowonly, 50, "slow")],
    ids=["i3d", "slowonly"],
)
def test_mmaction(theirs, depth, kind, tmp_path):
    model = randomize(theirs)
    ours = unfilled(lambda: ResNet3d(depth, kind, num_classes=5, width=4))
    report = load_foreign(ours, as_mmaction_saves(model, tmp_path / "their.pth"))
    assert report.layout == "MMAction2" and not report.new and not report.left_over
    assert report.tensors == len(model.state_dict())
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    torch.testing.assert_close(*outputs(ours, model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [FrozenBatchNorm3d, functools.partial(BatchNorm3d, eps=1e-3)])
def test_mmaction_r2plus1d_has_two_epsilons(norm):
    """Of 1e-3 and 1e-5, one at least is not the model's: what it computes is the same, and is told."""
    model = randomize(mmaction_r2plus1d)
    ours = unfilled(lambda: ResNet3d(18, "r2plus1d_pooled", num_classes=5, width=4, norm=norm))
    with pytest.warns(UserWarning, match="weights were trained with eps"):
        load_foreign(ours, model.state_dict())
    ours_logits, logits = outputs(ours, model)
    torch.testing.assert_close(ours_logits, logits, atol=1e-5 * logits.abs().max().item(), rtol=1e-5)
    assert len(ours.state_dict()) == len(model.state_dict())


def as_mmaction_names(name: str) -> str:
    """Of PyTorchVideo's csn."""
    for pattern, replacement in (
        (r"^blocks\.0\.(conv|norm)", r"backbone.conv1.\1"),
        (r"^blocks\.(\d)\.res_blocks\.(\d+)\.", r"backbone.layer\1.\2."),
        (r"branch1_(conv|norm)", r"downsample.\1"),
        (r"branch2\.(conv|norm)_a", r"conv1.\1"),
        (r"branch2\.(conv|norm)_b", r"conv2.0.\1"),
        (r"branch2\.(conv|norm)_c", r"conv3.\1"),
        (r"\.norm\.", ".bn."),
        (r"^blocks\.5\.proj", "cls_head.fc_cls"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def test_mmaction_csn_into_that_of_pytorchvideo():
    with torch.device("meta"):
        model = from_pytorchvideo("csn_r101", 5)
        weights = {as_mmaction_names(name): tensor for name, tensor in model.state_dict().items()}
        with pytest.warns(UserWarning, match="trained with eps 0.001 in place of the model's 1e-05: running"):
            report = load_foreign(model, weights)
    assert report.layout == "MMAction2" and report.tensors == len(model.state_dict())
    assert not report.new and not report.left_over


@pytest.mark.slow
def test_mmaction_csn_computes_the_same_with_another_eps():
    norm = functools.partial(BatchNorm3d, eps=1e-3)
    theirs = randomize(lambda: from_pytorchvideo("csn_r101", 5, norm=norm))
    ours = unfilled(lambda: from_pytorchvideo("csn_r101", 5))
    weights = {as_mmaction_names(name): tensor for name, tensor in theirs.state_dict().items()}
    with pytest.warns(UserWarning, match="weights were trained with eps"):
        load_foreign(ours, weights)
    ours_logits, logits = outputs(ours, theirs)
    torch.testing.assert_close(ours_logits, logits, atol=1e-5 * logits.abs().max().item(), rtol=1e-5)


def test_mmaction_i3d_is_no_i3d():
    model = ResNet3d(50, "i3d", num_classes=5, width=4)
    before = model.stem.conv.weight.clone()
    with torch.device("meta"):
        weights = mmaction_i3d().state_dict()
    with pytest.raises(UserError, match=r"kind \(i3d\) must be i3d_strided for weights of MMAction2's i3d"):
        load_foreign(model, weights)
    assert torch.equal(model.stem.conv.weight, before)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_resnets_3d(prefix, tmp_path):
    model = randomize(lambda: HaraResNet((2, 2, 2, 2), 5))
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "arch": "resnet-18", "state_dict": state, "optimizer": {}}, tmp_path / "r.pth")
    ours = unfilled(lambda: ResNet3d(18, "r3d_pooled", num_classes=5, width=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no eps is another
        report = load_foreign(ours, tmp_path / "r.pth")
    assert report.layout == "3D-ResNets-PyTorch" and report.tensors == len(state)
    torch.testing.assert_close(*outputs(ours, model), atol=1e-5, rtol=1e-5)


def test_standardized_filters_are_told():
    model = ResNet3d(10, "r3d_pooled", num_classes=5, width=4, conv=WSConv3d)
    with pytest.warns(UserWarning, match="weights are of plain convolutions, and the model standardizes"):
        load_foreign(model, HaraResNet((1, 1, 1, 1), 5).state_dict())


def test_a_2d_network_of_the_same_names_is_none_of_theirs():
    weights = {
        name: of[:, :, 0] if of.ndim == 5 else of for name, of in HaraResNet((1,) * 4, 5).state_dict().items()
    }
    with pytest.raises(UserError, match=r"weights \(conv1.weight, .* must "):
        load_foreign(ResNet3d(10, "r3d_pooled", num_classes=5, width=4), weights)
