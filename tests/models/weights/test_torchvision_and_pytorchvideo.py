"""ResNet3d with torchvision's and PyTorchVideo's weights computes what their networks compute."""

import pytest
import torch
from pytorchvideo.models import hub
from torch import nn
from torchvision.models import video as torchvision_video
from torchvision.models.video import resnet as torchvision_resnet

from videonorm.errors import UserError
from videonorm.layers import FrozenBatchNorm3d
from videonorm.models import ResNet3d, from_pytorchvideo, load_foreign


def fill(model: nn.Module) -> nn.Module:
    """Random weights for a model made on "meta"; gamma, beta and statistics where a mistake would show."""
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm3d):
            module.reset_running_stats()
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.normal_(module.bias)
    return model


def torchvision_r2plus1d_50(num_classes: int) -> nn.Module:
    return torchvision_resnet.VideoResNet(
        torchvision_resnet.Bottleneck,
        [torchvision_resnet.Conv2Plus1D] * 4,
        [3, 4, 6, 3],
        torchvision_resnet.R2Plus1dStem,
        num_classes,
    )


def pytorchvideo_r50(name: str, num_classes: int) -> nn.Module:
    """PyTorchVideo's model with a head that takes small clips, and without its dropout."""
    model = getattr(hub, name)(model_num_class=num_classes)
    head = model.blocks[-1]
    head.pool = nn.AdaptiveAvgPool3d(1)
    head.dropout = None
    return model


THEIRS = {
    (18, "r3d"): lambda: torchvision_video.r3d_18(num_classes=5),
    (18, "mc3"): lambda: torchvision_video.mc3_18(num_classes=5),
    (18, "r2plus1d"): lambda: torchvision_video.r2plus1d_18(num_classes=5),
    (50, "r2plus1d"): lambda: torchvision_r2plus1d_50(5),
    (50, "slow"): lambda: pytorchvideo_r50("slow_r50", 5),
    (50, "c2d"): lambda: pytorchvideo_r50("c2d_r50", 5),
    (50, "i3d"): lambda: pytorchvideo_r50("i3d_r50", 5),
}


@pytest.mark.parametrize(("depth", "kind"), THEIRS, ids=lambda value: str(value))
def test_outputs_gradients_and_statistics_equal_theirs(depth, kind):
    torch.manual_seed(0)
    with torch.device("meta"):  # no time for weights that are replaced
        theirs = fill(THEIRS[depth, kind]())
        ours = ResNet3d(depth, kind, num_classes=5).to_empty(device="cpu")
    load_foreign(ours, theirs.state_dict())
    clips = torch.randn(2, 3, 4, 32, 32)

    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(clips), theirs.eval()(clips), atol=1e-5, rtol=1e-5)
    logits, expected = ours.train()(clips), theirs.train()(clips)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)

    logits.square().sum().backward()
    expected.square().sum().backward()
    stem, their_stem = (next(model.parameters()).grad for model in (ours, theirs))
    torch.testing.assert_close(stem, their_stem, atol=1e-5 * their_stem.abs().max().item(), rtol=1e-5)
    with torch.no_grad():  # the running statistics have moved, and by as much
        torch.testing.assert_close(ours.eval()(clips), theirs.eval()(clips), atol=1e-5, rtol=1e-5)


def test_every_tensor_is_used_once():
    with torch.device("meta"):
        theirs = torchvision_video.r2plus1d_18(num_classes=5)
        ours = ResNet3d(18, "r2plus1d", num_classes=5)
    assert len(ours.state_dict()) == len(theirs.state_dict()) == 224
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def tiny_checkpoint() -> dict[str, torch.Tensor]:
    """A state dict with PyTorchVideo's names for a ResNet3d of depth 50 and width 2."""
    model = hub.slow_r50(stem_dim_out=2, model_num_class=3)
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_reads_files_bare_and_as_pytorchvideo_and_pyslowfast_write_them(tmp_path, prefix, wrapped):
    state_dict = tiny_checkpoint()
    renamed = {prefix + name: value for name, value in state_dict.items()}
    path = tmp_path / "weights.pyth"
    torch.save({"model_state": renamed} if wrapped else renamed, path)
    model = ResNet3d(50, "slow", num_classes=3, width=2)
    load_foreign(model, path)
    assert torch.equal(model.stem.conv.weight, state_dict["blocks.0.conv.weight"])
    assert torch.equal(model.head.bias, state_dict["blocks.5.proj.bias"])


def test_misfits_are_named_and_the_model_is_as_it_was():
    weights = tiny_checkpoint()
    del weights["blocks.0.norm.bias"]
    weights["blocks.1.extra"] = torch.zeros(1)
    model = ResNet3d(50, "slow", num_classes=4, width=2)
    before = model.stem.conv.weight.clone()
    with pytest.raises(ValueError, match="must fit ResNet3d") as error:
        load_foreign(model, weights)
    assert "missing: stem.norm.bias" in str(error.value)
    assert "left over: blocks.1.extra" in str(error.value)
    assert "head.weight (3, 64) instead of (4, 64)" in str(error.value)
    assert torch.equal(model.stem.conv.weight, before)


def test_names_of_neither_source_are_refused():
    with pytest.raises(
        ValueError, match=r"weights \(conv1.weight, bn1.weight\) must have the names of torchvision's"
    ):
        load_foreign(ResNet3d(10, width=2), {"conv1.weight": torch.zeros(1), "bn1.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["csn_r101", "x3d_s", "slowfast_r50", "r2plus1d_r50"])
def test_its_own_networks_take_files_of_the_hub(name):
    with torch.device("meta"):
        weights = getattr(hub, name)(model_num_class=5).state_dict()
        ours = from_pytorchvideo(name, 5, norm=lambda channels: FrozenBatchNorm3d(channels))
        report = load_foreign(ours, weights)
    assert report.layout == "PyTorchVideo" and report.tensors == len(weights)
    assert not report.new and not report.left_over


def test_pytorchvideos_i3d_is_no_strided_one():
    with torch.device("meta"):
        weights = hub.i3d_r50(model_num_class=5).state_dict()
        ours = ResNet3d(50, "i3d_strided", num_classes=5)
    with pytest.raises(UserError, match=r"kind \(i3d_strided\) must be i3d for weights of PyTorchVideo"):
        load_foreign(ours, weights)
