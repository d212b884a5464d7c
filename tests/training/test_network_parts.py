"""Parts of a network that are frozen, or trained at learning rates of their own."""

import pytest
import torch

from videonorm.errors import UserError
from videonorm.layers import GroupNorm3d, norm_layers
from videonorm.models import ResNet3d
from videonorm.training.batch_sizes import clips_sharing_statistics
from videonorm.training.classifier import VideoClassifier
from videonorm.training.network_parts import freeze, parameter_groups, part


def network(**options):
    torch.manual_seed(0)
    return ResNet3d(10, "r3d", num_classes=3, width=4, **options)


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.5, weight_decay=0.1)


def names_of(model, group):
    ours = {id(parameter): name for name, parameter in model.named_parameters()}
    return {ours[id(parameter)] for parameter in group["params"]}


def test_a_part_is_a_role_or_a_name():
    model = network()
    assert part(model, "norms", "freeze") == list(norm_layers(model))
    assert part(model, "stages.0", "freeze") == [model.stages[0]]
    with pytest.raises(UserError, match=r"freeze \(stage.0\) must be norms or a submodule of ResNet3d, such"):
        part(model, "stage.0", "freeze")
    with pytest.raises(UserError, match=r"lr_scales \(norms\) must be"):
        part(torch.nn.Sequential(torch.nn.Linear(2, 2)), "norms", "lr_scales")


@pytest.mark.parametrize("norm", [None, lambda channels: GroupNorm3d(channels, 2)])
def test_what_is_frozen_does_not_move(norm):
    """Weights, and the running statistics of batch norms; the rest does, in training mode."""
    model = network(**({"norm": norm} if norm else {}), zero_init_residual=False)
    classifier = VideoClassifier(model, sgd, freeze=["norms", "stages.0"])
    optimizer = classifier.configure_optimizers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):  # Lightning trains a module in the modes that it finds
        assert model.training and model.stages[1].training and not model.stages[0].training
        model(torch.randn(1, 3, 4, 16, 16) * 3 + 1).square().sum().backward()  # a batch norm refuses one clip
        optimizer.step()
        classifier.eval().train()
    moved = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    norms = {id(tensor) for of in norm_layers(model) for tensor in of.state_dict(keep_vars=True).values()}
    expected = {
        name
        for name, tensor in model.state_dict(keep_vars=True).items()
        if id(tensor) not in norms and not name.startswith("stages.0.")
    }
    assert moved == expected and "head.weight" in moved
    assert clips_sharing_statistics(model, 1, 1, classifier.frozen) is None


def test_batch_norms_that_are_not_frozen_still_refuse_one_clip():
    model = network()
    assert clips_sharing_statistics(model, 8, 1, [model.stem]) == 8
    with pytest.raises(UserError, match=r"batch_size \(1\) must give BatchNorm3d at least 2"):
        clips_sharing_statistics(model, 1, 1, [model.stem])


def test_something_must_be_left_to_train():
    with pytest.raises(UserError, match=r"freeze \(stem, stages, head\) must leave something to train"):
        freeze(network(), ["stem", "stages", "head"])


def test_learning_rates_by_part():
    model = network()
    scales = {"stages": 0.5, "stages.0": 0.1, "head": 10.0}
    groups = parameter_groups(model, norm_weight_decay=False, lr_scales=scales)
    of = {(group.get("lr_scale", 1.0), "weight_decay" in group): names_of(model, group) for group in groups}
    assert set(of) == {(scale, kept) for scale in (0.1, 0.5, 1.0, 10.0) for kept in (False, True)}
    assert of[10.0, False] == {"head.weight"} and of[10.0, True] == {"head.bias"}
    assert all(name.startswith("stages.0.") for name in of[0.1, False] | of[0.1, True])
    assert of[1.0, False] == {"stem.conv.weight"}
    assert sum(map(len, of.values())) == len(list(model.parameters()))
    assert "lr_scale" not in groups[0]

    classifier = VideoClassifier(model, sgd, lr_scales=scales)
    optimizer = classifier.configure_optimizers()
    assert classifier.base_lr == 0.5
    assert {group["lr"] / group.get("lr_scale", 1.0) for group in optimizer.param_groups} == {0.5}
    with pytest.raises(UserError, match=r"lr_scales \(head: 0\) must be above 0"):
        VideoClassifier(model, sgd, lr_scales={"head": 0.0})
