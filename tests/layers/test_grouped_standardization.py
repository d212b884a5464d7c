import copy
import io

import pytest
import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from videonorm.layers import (
    GroupNorm3d,
    WSCenterOnlyConv3d,
    WSConv3d,
    WSScaleOnlyConv3d,
    group_weight_standardization,
)
from videonorm.models import ResNet3d, VGG3d, convert


class Calls(TorchDispatchMode):
    """Counts, for every call of the operator in this context, the layers that it standardizes."""

    def __init__(self):
        super().__init__()
        self.layers = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) == "videonorm.weight_standardize.default":
            self.layers.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def stage(*convs: nn.Module) -> nn.Module:
    layers = [layer for conv in convs for layer in (conv, GroupNorm3d(conv.out_channels, num_groups=2))]
    return nn.Sequential(*layers)


def make_model() -> nn.Module:
    """Three stages, of which the last two are in a list, and a head. One weight is frozen."""
    torch.manual_seed(0)
    model = Stages()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1)
    model.stages[1][0].weight.requires_grad_(False)
    return model


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = stage(WSConv3d(3, 4, (1, 3, 3)))
        self.stages = nn.ModuleList(
            [
                stage(WSConv3d(4, 6, 3, padding=1), WSConv3d(6, 4, 1, variant="orig"), WSConv3d(4, 6, 1)),
                stage(
                    WSConv3d(6, 4, 1),
                    WSConv3d(4, 4, (1, 3, 3), variant="nf"),
                    WSConv3d(4, 4, (3, 1, 1), variant="nf", padding=(1, 0, 0)),
                    WSCenterOnlyConv3d(4, 4, 1),
                    WSScaleOnlyConv3d(4, 4, 1),
                ),
            ]
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        for part in self.stages:
            x = part(x)
        return self.head(x.mean((2, 3, 4)))


CALLS = [1, 2, 1, 1, 2, 1, 1]  # layers for each call: by stage, and in it by kind
CLIPS = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def alone() -> nn.Module:
    return make_model()


@pytest.fixture
def grouped(alone) -> nn.Module:
    model = copy.deepcopy(alone)
    group_weight_standardization(model)
    return model


def outputs(model, run=None):
    """Logits, and the gradients of the parameters."""
    model.zero_grad()
    logits = (model if run is None else run)(CLIPS)
    logits.float().square().sum().backward()
    return [logits, *(parameter.grad for parameter in model.parameters())]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_the_same_to_the_bit_in_fewer_calls(alone, grouped):
    with Calls() as calls:
        ours = outputs(grouped)
    assert calls.layers == CALLS
    assert_equal(ours, outputs(alone))
    assert grouped.stages[1][0].weight.grad is None  # the frozen one


def test_under_autocast(alone, grouped):
    with torch.autocast("cpu", torch.bfloat16), Calls() as calls:
        ours, theirs = outputs(grouped), outputs(alone)
    assert calls.layers[: len(CALLS)] == CALLS
    assert_equal(ours, theirs)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(alone, grouped, context):
    with context():
        assert torch.equal(grouped.eval()(CLIPS), alone.eval()(CLIPS))


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_a_file])
def test_copies_are_grouped_and_their_own(alone, grouped, duplicate):
    twin = duplicate(grouped)
    with torch.no_grad():
        for model in (alone, twin):
            model.stem[0].weight.mul_(-1)
    with Calls() as calls:
        ours = outputs(twin)
    assert calls.layers == CALLS
    assert_equal(ours, outputs(alone))


def test_calling_twice_changes_nothing(grouped):
    for _ in range(2):
        group_weight_standardization(grouped)
        with Calls() as calls:
            grouped(CLIPS)
        assert calls.layers == CALLS
        assert all(len(module._forward_pre_hooks) <= 1 for module in grouped.modules())


def test_compile(alone, grouped):
    compiled = torch.compile(grouped, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(outputs(grouped, compiled), outputs(alone), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(conv._weights_at_hand for conv in convolutions(grouped))


def test_export(grouped):
    program = torch.export.export(grouped.eval(), (CLIPS,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(CLIPS[:1]), grouped(CLIPS[:1]))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_of_groups(alone, grouped, use_reentrant):
    def run(x):
        x = grouped.stem(x)
        for part in grouped.stages:
            x = checkpoint(part, x, use_reentrant=use_reentrant)
        return grouped.head(x.mean((2, 3, 4)))

    with Calls() as calls:
        ours = outputs(grouped, run)
    assert calls.layers == [*CALLS, *CALLS[3:], *CALLS[1:3]]  # the stages again, the last one first
    assert_equal(ours, outputs(alone))


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module, use_reentrant: bool) -> None:
        super().__init__()
        self.inner = inner
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_within_a_group(alone, use_reentrant):
    model = copy.deepcopy(alone)
    model.stages[0] = nn.Sequential(Checkpointed(model.stages[0], use_reentrant))
    group_weight_standardization(model)
    assert_equal(outputs(model), outputs(alone))


def convolutions(model):
    return [module for module in model.modules() if hasattr(module, "weight_at_hand")]


def test_an_error_leaves_no_weights_behind(grouped):
    with pytest.raises(RuntimeError):
        grouped.stages[0](CLIPS)  # 3 channels for 4
    assert not any(conv._weights_at_hand for conv in convolutions(grouped))


def test_a_convolution_outside_its_group_is_alone(alone, grouped):
    x = torch.randn(1, 4, 3, 4, 4)
    grouped(CLIPS)
    assert torch.equal(grouped.stages[0][0](x), alone.stages[0][0](x))


class Autocast(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x).float()


def test_autocast_within_a_group(alone):
    alone.stem = Autocast(alone.stem)
    model = copy.deepcopy(alone)
    group_weight_standardization(model)
    assert_equal(outputs(model), outputs(alone))


def test_effective_weight_is_computed_alone(grouped):
    weights = []
    conv = grouped.stages[0][0]
    conv.register_forward_hook(
        lambda *_: weights.extend([conv.effective_weight(), conv.weight_at_hand(torch.float32)])
    )
    grouped(CLIPS)
    assert torch.equal(*weights) and weights[0] is not weights[1]


def test_a_layer_without_part_in_the_loss_has_no_gradient(grouped):
    grouped.stages[0].append(WSConv3d(6, 6, 1))
    grouped.stages[0][-1].register_forward_hook(lambda _, arguments, __: arguments[0])
    outputs(grouped)
    assert grouped.stages[0][-1].weight.grad is None and grouped.stages[0][0].weight.grad is not None


def test_conversions_of_a_grouped_model():
    model = ResNet3d(10, num_classes=5, width=8, conv=WSConv3d, norm=lambda n: GroupNorm3d(n, 4)).eval()
    logits = model(CLIPS)
    convert(model, conv=nn.Conv3d)
    with Calls() as calls:
        torch.testing.assert_close(model(CLIPS), logits)
    assert calls.layers == []
    convert(model, conv=WSConv3d)
    with Calls() as calls:
        torch.testing.assert_close(model(CLIPS), logits)
    assert calls.layers == [1, 2, 3, 3, 3]


def grouped_children(model):
    return [name for name, module in model.named_modules() if module._forward_pre_hooks]


STAGES = [f"stages.{index}" for index in range(4)]


def test_groups_are_stages():
    assert grouped_children(ResNet3d(10, width=8, conv=WSConv3d)) == ["stem", *STAGES]
    vgg = VGG3d(11, 3, norm=lambda n: GroupNorm3d(n, 2), conv=WSConv3d, width=4)
    assert grouped_children(vgg) == [*STAGES, "stages.4"]
    assert grouped_children(ResNet3d(10, width=8)) == []
    torchvisions = torchvision.models.video.r3d_18(num_classes=5)
    convert(torchvisions, norm=GroupNorm3d, conv=WSConv3d)
    group_weight_standardization(torchvisions)
    assert grouped_children(torchvisions) == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_a_lone_convolution_is_no_group():
    model = nn.Sequential(WSConv3d(3, 4, 1), nn.ModuleDict({"stage": stage(WSConv3d(4, 4, 1))}))
    group_weight_standardization(model)
    assert grouped_children(model) == ["1.stage"]
