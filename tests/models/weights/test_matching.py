"""What fits is loaded and reported; what does not is refused in a sentence, and the model is as it was."""

import copy
import warnings

import pytest
import torch
from pytorchvideo.models import hub
from torch import nn
from torchvision.models import video

from videonorm.errors import UserError
from videonorm.layers import FrozenBatchNorm3d, GroupNorm3d, SubBatchNorm3d, WSConv3d
from videonorm.models import ResNet3d, VGG3d, converted, implied_backbone, load_foreign


def resnet(num_classes=3, **options) -> ResNet3d:
    return ResNet3d(10, "mc3", num_classes=num_classes, width=2, **options)


@pytest.fixture
def weights():
    model = resnet()
    return {
        name: torch.rand_like(of) if of.is_floating_point() else of for name, of in model.state_dict().items()
    }


def group_norm(channels):
    return GroupNorm3d(channels, 2)


def test_own_names(weights):
    model = resnet()
    report = load_foreign(model, weights)
    assert all(torch.equal(of, weights[name]) for name, of in model.state_dict().items())
    assert report.tensors == len(weights) and not report.new and not report.left_over
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert str(report).startswith(f"weights, the model's own names: {len(weights)} tensors mapped (")


def test_another_number_of_classes_says_so(weights):
    model = resnet(4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError) as error:
        load_foreign(model, weights, option="--new")
    assert (
        str(error.value)
        == "weights must have the model's 4 classes, and has 3: --new head starts another head"
    )
    assert all(torch.equal(of, before[name]) for name, of in model.state_dict().items())
    report = load_foreign(model, weights, ["head"])
    assert report.new == report.left_over == ["head.weight", "head.bias"]
    assert str(report).endswith("new: head.weight, head.bias; left over: head.weight, head.bias")
    assert torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.stem.conv.weight, weights["stem.conv.weight"])


def test_new_parts_stay_as_they_are_even_where_they_fit(weights):
    model = resnet()
    before = copy.deepcopy(model.state_dict())
    load_foreign(model, weights, ["stages.3", "head"])
    new = {name for name, of in model.state_dict().items() if torch.equal(of, before[name])}
    assert {name for name in new if "num_batches" not in name} == {
        name for name in before if name.startswith(("stages.3.", "head.")) and "num_batches" not in name
    }


def test_new_norms(weights):
    model = resnet(norm=group_norm)
    with pytest.raises(UserError, match=r"must fit ResNet3d, left over: stem.norm.running_mean, .* and"):
        load_foreign(model, weights)
    report = load_foreign(model, weights, ["norms"])
    assert all(".norm." in name for name in [*report.new, *report.left_over])
    assert torch.equal(model.stem.norm.weight, torch.ones(2))
    assert torch.equal(model.stages[3][0].branch[0].conv.weight, weights["stages.3.0.branch.0.conv.weight"])


@pytest.mark.parametrize("part", ["hed", "stages.4", "heads"])
def test_a_part_that_is_none(part, weights):
    with pytest.raises(
        UserError, match=rf"new \({part}\) must be head, norms or a part of the model, such as stem"
    ):
        load_foreign(resnet(), weights, [part])


def test_another_architecture(weights):
    for model in (
        ResNet3d(18, "mc3", num_classes=3, width=2),
        VGG3d(num_classes=3, width=2),
        nn.Linear(2, 3),
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(UserError, match=r"weights .*must "):
            load_foreign(model, weights)
        assert all(torch.equal(of, before[name]) for name, of in model.state_dict().items())


def test_frozen_statistics_are_those_of_the_file(weights):
    model = resnet(norm=FrozenBatchNorm3d).train()
    load_foreign(model, weights)
    model(torch.randn(2, 3, 2, 8, 8)).sum().backward()
    for name in ("running_mean", "running_var", "weight", "bias"):
        assert torch.equal(getattr(model.stem.norm, name), weights[f"stem.norm.{name}"])


def test_splits_of_another_number_start_with_their_union(weights):
    four = resnet(norm=lambda channels: SubBatchNorm3d(channels, 4))
    load_foreign(four, weights)
    two = resnet(norm=lambda channels: SubBatchNorm3d(channels, 2))
    load_foreign(two, four.state_dict())
    assert torch.equal(two.stem.norm.split_var, weights["stem.norm.running_var"].expand(2, -1))
    plain = resnet()
    assert not load_foreign(plain, four.state_dict()).left_over
    assert torch.equal(plain.stem.norm.running_var, weights["stem.norm.running_var"])


def test_files_of_old_torch_count_no_batches(weights):
    model = resnet()
    load_foreign(model, {name: of for name, of in weights.items() if "num_batches" not in name})
    assert torch.equal(model.stem.norm.running_var, weights["stem.norm.running_var"])


IMPLIED = {
    (18, "r3d"): video.r3d_18,
    (18, "mc3"): video.mc3_18,
    (18, "r2plus1d"): video.r2plus1d_18,
    (50, "slow"): hub.slow_r50,
    (50, "c2d"): hub.c2d_r50,
    (50, "i3d"): hub.i3d_r50,
}


@pytest.mark.parametrize(("depth", "kind"), IMPLIED)
def test_networks_that_weights_imply(depth, kind):
    classes = {"num_classes": 7} if depth == 18 else {"model_num_class": 7}
    with torch.device("meta"):
        state = IMPLIED[depth, kind](**classes).state_dict()
    init_args = {"depth": depth, "kind": kind, "num_classes": 7, "width": 64}
    assert implied_backbone(state) == {"class_path": "videonorm.models.ResNet3d", "init_args": init_args}


def test_weights_that_imply_none(weights):
    with torch.device("meta"):
        assert implied_backbone(hub.x3d_xs().state_dict()) is None
    assert implied_backbone(weights) is None


def test_ours_with_names_of_others_were_trained_as_the_model_is(tmp_path):
    """torchvision's names do not mean torchvision's eps and plain filters in a checkpoint of `fit`."""
    model = video.r3d_18(num_classes=3)
    converted(model, conv=WSConv3d)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    trained = {
        name: torch.rand_like(of) if of.is_floating_point() else of for name, of in model.state_dict().items()
    }
    state = {f"backbone.{name}": of for name, of in trained.items()}
    torch.save({"state_dict": state, "videonorm": {"version": "0.1.0"}}, tmp_path / "ours.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load_foreign(model, tmp_path / "ours.ckpt")
    assert report.layout == "the model's own names"
    assert all(torch.equal(of, trained[name]) for name, of in model.state_dict().items())
