"""What a 2D network makes of a frame, one of ours with its weights makes of a clip that stands still."""

import re
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.resnetv2 import ResNetV2
from torch import nn

from videonorm import layers
from videonorm.errors import UserError
from videonorm.models import ResNet3d, ResNetV2_3d, VGG3d, load_foreign
from videonorm.models.weights import big_transfer, image_resnet, timm_resnetv2

TIMM_BIT = partial(layers.WSConv3d, variant="timm_bit")


def fill(model: nn.Module) -> nn.Module:
    """Random weights for a model made on "meta"; norms and statistics where a mistake would show."""
    torch.manual_seed(0)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if isinstance(module, timm.layers.StdConv2d):  # off centre, and so small that eps counts
                module.weight.data += 0.1 * module.weight.std()
                module.weight.data *= 3e-3
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def assert_still_clip_is_its_frame(theirs, their_features, ours, our_features, num_frames, exact):
    """Features of the frames `exact`, and, where these are all, logits."""
    dtype = next(theirs.parameters()).dtype
    frames = 0.5 + torch.randn(1, 3, 33, 33, dtype=dtype)
    ours = ours.to(dtype).eval()
    kept = []
    hooks = [
        module.register_forward_hook(lambda module, arguments, output: kept.append(output))
        for module in (their_features, our_features)
    ]
    with torch.no_grad():
        expected = theirs(frames)
        logits = ours(frames.unsqueeze(2).expand(-1, -1, num_frames, -1, -1))
    for hook in hooks:
        hook.remove()
    image, clip = kept
    scale, clip = image.abs().max().item(), clip[:, :, exact]
    torch.testing.assert_close(clip, image.unsqueeze(2).expand_as(clip), rtol=1e-5, atol=1e-5 * scale)
    if exact == slice(None):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def resnet3d(depth: int, kind: str, norm=layers.BatchNorm3d) -> ResNet3d:
    with torch.device("meta"):
        return ResNet3d(depth, kind, num_classes=5, norm=norm).to_empty(device="cpu")


def test_resnet50_of_torchvision_as_slow_by_either_inflation():
    """The middle one of 21 frames is among those that nine kernels of three do not take beyond the ends."""
    with torch.device("meta"):
        resnet50 = torchvision.models.resnet50(num_classes=5)
    resnet50 = fill(resnet50)
    ours = resnet3d(50, "slow")
    load_foreign(ours, resnet50.state_dict())
    assert_still_clip_is_its_frame(resnet50, resnet50.layer4, ours, ours.stages[-1], 2, slice(None))
    load_foreign(ours, image_resnet.translate(resnet50.state_dict(), ours, inflation="repeat"))
    assert_still_clip_is_its_frame(resnet50, resnet50.layer4, ours, ours.stages[-1], 21, slice(10, 11))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["c2d", "i3d"])
@pytest.mark.parametrize(
    "name", ["torchvision.resnet101", "resnet50.tv_in1k", "resnet101.tv_in1k", "resnet50_gn"]
)
def test_resnets_of_timm_and_torchvision(tmp_path, name, kind):
    with torch.device("meta"):
        theirs = (
            torchvision.models.resnet101(num_classes=5)
            if name.startswith("torchvision")
            else timm.create_model(name, num_classes=5)
        )
    theirs = fill(theirs)
    norm = layers.GroupNorm3d if name.endswith("gn") else layers.FrozenBatchNorm3d
    ours = resnet3d(101 if "101" in name else 50, kind, norm)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    load_foreign(ours, tmp_path / "weights.pth")
    assert_still_clip_is_its_frame(theirs, theirs.layer4, ours, ours.stages[-1], 4, slice(None))


def big_transfer_2d(eps: float, channels: int = 32) -> ResNetV2:
    """timm's resnetv2_50x1_bit, thinner."""
    with torch.device("meta"):
        model = ResNetV2(
            (3, 4, 6, 3),
            channels=[4 * channels * 2**stage for stage in range(4)],
            stem_chs=channels,
            stem_type="fixed",
            num_classes=5,
            conv_layer=partial(timm.layers.StdConv2d, eps=eps),
        )
    return fill(model).double()  # in fp32, both round to 1e-5 over fifty layers


@pytest.mark.parametrize(
    ("kind", "conv", "inflation", "num_frames"),
    [
        pytest.param("c2d", TIMM_BIT, "repeat", 3, marks=pytest.mark.slow),
        ("i3d", TIMM_BIT, "center", 3),
        ("i3d", nn.Conv3d, "center", 2),
    ],
)
def test_big_transfer_of_timm(kind, conv, inflation, num_frames):
    theirs = big_transfer_2d(1e-8)
    ours = ResNetV2_3d(50, kind, num_classes=5, conv=conv, width=32)
    load_foreign(ours, timm_resnetv2.translate(theirs.state_dict(), ours, inflation=inflation))
    assert_still_clip_is_its_frame(theirs, theirs.norm, ours, ours.final_norm, num_frames, slice(None))


@pytest.mark.slow
def test_big_transfer_of_timm_at_its_size(tmp_path):
    with torch.device("meta"):
        theirs = timm.create_model("resnetv2_50x1_bit", num_classes=5)
    theirs = fill(theirs)
    save_file(theirs.state_dict(), tmp_path / "resnetv2_50x1_bit.safetensors")
    ours = ResNetV2_3d(50, "slow", num_classes=5, conv=TIMM_BIT)
    load_foreign(ours, tmp_path / "resnetv2_50x1_bit.safetensors")
    assert_still_clip_is_its_frame(theirs, theirs.norm, ours, ours.final_norm, 4, slice(None))


def as_big_transfer_saves(model: ResNetV2) -> dict[str, np.ndarray]:
    """The names of BiT's .npz files."""
    arrays = {}
    for name, value in model.state_dict().items():
        place, _, part = name.rpartition(".")
        is_norm = re.search(r"norm\d?$", place) is not None
        if found := re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.(.+)", place):
            stage, block, layer = found.groups()
            unit = f"block{int(stage) + 1}/unit{int(block) + 1:02d}"
            if layer == "downsample.conv":
                place = f"{unit}/a/proj/standardized_conv2d"
            else:
                kind = "group_norm" if is_norm else "standardized_conv2d"
                place = f"{unit}/{'abc'[int(layer[-1]) - 1]}/{kind}"
        else:
            places = {
                "stem.conv": "root_block/standardized_conv2d",
                "norm": "group_norm",
                "head.fc": "head/conv2d",
            }
            place = places[place]
        part = {"weight": "gamma", "bias": "beta"}[part] if is_norm else {"weight": "kernel"}.get(part, part)
        value = value.permute(2, 3, 1, 0) if value.dim() == 4 else value
        arrays[f"resnet/{place}/{part}"] = value.numpy()
    return arrays


def test_big_transfer_of_its_own_files(tmp_path):
    theirs = big_transfer_2d(1e-10)
    arrays = as_big_transfer_saves(theirs)
    path = tmp_path / "BiT-M-R50x1.npz"
    np.savez(path, **arrays)
    big_transfer_2d(1e-10).load_pretrained(str(path))  # timm reads them, so that these are the names
    ours = ResNetV2_3d(50, "i3d", num_classes=5, width=32)
    load_foreign(ours, path)
    assert_still_clip_is_its_frame(theirs, theirs.norm, ours, ours.final_norm, 2, slice(None))


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, **{"resnet/root_block/standardized_conv2d/kernel": np.array([print], dtype=object)})
    with torch.device("meta"):
        model = ResNetV2_3d(50)
    with pytest.raises(
        UserError, match=r"objects.npz\) must be an npz file of plain arrays, without objects"
    ):
        load_foreign(model, path)


def test_head_of_other_classes_is_new():
    resnet = torchvision.models.resnet
    theirs = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=1000)
    ours = ResNet3d(10, "i3d", num_classes=7)
    with pytest.raises(UserError, match="must have the model's 7 classes, and has 1000"):
        load_foreign(ours, theirs.state_dict())
    before = ours.head.weight.clone()
    report = load_foreign(ours, theirs.state_dict(), new=["head"])
    assert torch.equal(ours.head.weight, before)
    assert report.new == report.left_over == ["head.weight", "head.bias"]
    assert torch.equal(ours.stem.conv.weight[:, :, 2], theirs.conv1.weight)  # of five taps


@pytest.mark.parametrize(
    ("layout", "model", "message"),
    [
        (
            image_resnet,
            partial(ResNet3d, 10, "r3d"),
            r"model \(ResNet3d\) must be a ResNet3d with a pool after its stem",
        ),
        (image_resnet, VGG3d, r"model \(VGG3d\) must be a ResNet3d"),
        (image_resnet, partial(ResNet3d, 10, "slow", norm=layers.LayerNorm3d), r"norm \(LayerNorm3d"),
        (big_transfer, partial(ResNet3d, 10, "slow"), r"model \(ResNet3d\) must be a ResNetV2_3d"),
        (timm_resnetv2, VGG3d, r"model \(VGG3d\) must be a ResNetV2_3d"),
        (
            timm_resnetv2,
            partial(ResNetV2_3d, norm=partial(layers.GroupNorm3d, num_groups=16)),
            r"norm \(GroupNorm3d\(64, .*num_groups=16, eps=1e-05\)\) must be GroupNorm3d of 32 groups",
        ),
        (timm_resnetv2, partial(ResNetV2_3d, norm=layers.LayerNorm3d), r"norm \(LayerNorm3d"),
    ],
)
def test_networks_that_would_compute_something_else_are_refused(layout, model, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        layout.translate({}, model())


@pytest.mark.parametrize(
    ("their_norm", "norm", "message"),
    [
        ("batchnorm", layers.GroupNorm3d, "left over: stem.norm.running_mean"),
        ("groupnorm", layers.BatchNorm3d, "missing: stem.norm.running_mean"),
    ],
)
def test_norms_of_another_kind_do_not_fit(their_norm, norm, message):
    options = {"block": timm.models.resnet.Bottleneck, "layers": (1, 1, 1, 1), "num_classes": 5}
    with torch.device("meta"):
        theirs = timm.models.resnet.ResNet(norm_layer=their_norm, **options).state_dict()
        ours = ResNet3d(50, "c2d", num_classes=5, norm=norm)
    with pytest.raises(UserError, match=message):
        load_foreign(ours, theirs)


def test_timms_other_resnetv2_is_not_taken_for_big_transfer():
    with torch.device("meta"):
        names = timm.create_model("resnetv2_50").state_dict()
        of_big_transfer = timm.create_model("resnetv2_50x1_bit").state_dict()
    assert not timm_resnetv2.matches(names)
    assert timm_resnetv2.matches(of_big_transfer)
