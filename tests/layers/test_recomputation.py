from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers import (
    BatchNorm3d,
    InstanceNorm3d,
    LayerNorm3d,
    WSConv3d,
    recompute,
    require_recomputable_norm,
)
from videonorm.models import ResNet3d, VGG3d

from .stack import (
    Watched,
    assert_gradients,
    assert_same,
    backward,
    gradients,
    group_norm,
    make_clips,
    make_stack,
)

norms = partial(recompute, "norms")
MODELS = {
    "r3d": partial(ResNet3d, 18, "r3d", 5, group_norm, width=8),
    "r2plus1d": partial(ResNet3d, 10, "r2plus1d", 5, InstanceNorm3d, width=8),
    "i3d": partial(ResNet3d, 50, "i3d", 5, group_norm, width=8),
    "last_only": partial(ResNet3d, 10, "r3d", 5, group_norm, width=8, norm_placement="last_only"),
    "ws": partial(ResNet3d, 10, "i3d", 5, group_norm, WSConv3d, width=8),
    "vgg": partial(VGG3d, 11, 5, group_norm, width=8),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_models_are_the_same_to_the_bit(name, memory_format):
    torch.manual_seed(0)
    model = MODELS[name]().to(memory_format=memory_format)
    clips = make_clips(2, 3, 5, 20, 20).contiguous(memory_format=memory_format)
    want = gradients(model, clips)
    for model.recompute in ("norms", "blocks"):
        assert_same(gradients(model, clips), want)


@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("norm", [group_norm, LayerNorm3d, InstanceNorm3d])
def test_outputs_are_not_kept_and_gradients_are_the_same(norm, activation):
    stack = make_stack(norm, activation)
    want = gradients(stack, make_clips())
    for what, num_kept in (("none", 2), ("norms", 0), ("blocks", 0), ("blocks_8bit", 0)):
        watched = Watched(stack[1], stack[3])
        with recompute(what):
            y = stack(make_clips())
        assert watched.num_kept() == num_kept
        stack.zero_grad()
        backward(y)
        if what != "blocks_8bit":
            assert_gradients(stack, want)


def test_inputs_are_kept_once():
    stack = make_stack()
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor.detach()

    clips = make_clips()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), norms():
        y = stack(clips)
    parameters = {p.untyped_storage()._cdata for p in stack.parameters()}
    sizes = sorted(s.nbytes() for address, s in saved.items() if address not in parameters)
    x_bytes = 8 * y[:, 0].numel() * 4
    statistics = [2 * 4 * 4] * 4
    assert sizes == sorted([clips.nbytes, x_bytes, x_bytes, *statistics])


def test_after_a_residual_the_output_stays():
    conv, norm, last = nn.Conv3d(8, 8, 1), group_norm(8, activation="relu"), nn.Conv3d(8, 8, 1)
    x = make_clips(2, 8, 2, 3, 3)
    watched = Watched(norm)
    with norms():
        y = last(norm(conv(x), x))
    assert watched.num_kept() == 1
    y.sum().backward()


def test_a_norm_of_a_norm():
    stack = make_stack()
    stack.insert(2, group_norm(8))
    watched = Watched(stack[1], stack[2])
    assert_same(gradients(stack, make_clips(), norms), gradients(stack, make_clips()))
    with norms():
        y = stack(make_clips())
    assert watched.num_kept() == 0 and y.requires_grad


class ChangedInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack = make_stack(activation=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack[1](self.stack[0](x)).add_(1)
        y = self.stack[3](self.stack[2](y))
        y = self.stack[4](F.relu(y, inplace=True))
        return y


def test_output_changed_in_place_is_kept():
    model = ChangedInPlace()
    want = gradients(model, make_clips())
    watched = Watched(model.stack[1], model.stack[3])
    with norms():
        y = model(make_clips())
    assert watched.num_kept() == 2
    backward(y)
    assert_gradients(model, want)


def test_views_of_an_output_are_kept():
    norm, conv = group_norm(8, activation="relu"), nn.Conv3d(8, 8, 1)
    grads = []
    for what in ("none", "norms"):
        x = make_clips(2, 8, 4, 3, 3).requires_grad_()
        with recompute(what):
            y = conv(norm(x)[:, :, ::2])
        grads += torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(*grads)


@pytest.mark.parametrize("change", ["weight", "bias", "x", "convolution"])
def test_change_in_place_before_backward_is_an_error(change):
    """A hook that keeps a tensor has to notice it: autograd leaves that to the hooks."""
    stack = make_stack()
    kept = []
    stack[0].register_forward_hook(lambda module, args, y: kept.append(y))
    with norms():
        y = stack(make_clips())
    tensor = {"weight": stack[1].weight, "bias": stack[1].bias, "x": kept[0], "convolution": stack[2].weight}
    with torch.no_grad():
        tensor[change].mul_(2)
    with pytest.raises(
        RuntimeError, match="modified by an inplace operation: .* version .; expected version"
    ):
        y.sum().backward()


def test_only_norms_inside_the_context():
    norm, conv = InstanceNorm3d(3), nn.Conv3d(3, 3, 1)
    watched = Watched(norm)
    y = norm(make_clips().requires_grad_())
    with norms():
        z = conv(y)
    del y
    assert watched.num_kept() == 1
    z.sum().backward()


def test_nothing_is_held_after_a_discarded_forward():
    stack = make_stack()
    watched = Watched(*stack)
    with norms():
        for _ in range(5):
            stack(make_clips())
        assert watched.num_kept() <= 2
    assert watched.num_kept() == 0


def test_without_gradients_nothing_happens():
    stack = make_stack()
    watched = Watched(*stack)
    with norms():
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                stack(make_clips())
        stack.requires_grad_(False)
        stack(make_clips())
        assert watched.num_kept() == 0


def test_frozen_norm_on_frozen_input():
    """Nobody keeps that norm's x, so that its y is kept."""
    stack = make_stack()
    stack[:2].requires_grad_(False)
    want = [g for g in gradients(stack, make_clips()) if g is not None]
    assert_same([g for g in gradients(stack, make_clips(), norms) if g is not None], want)
    watched = Watched(stack[0], stack[1])
    with norms():
        y = stack(make_clips())
    assert watched.num_kept() == 1 and y.requires_grad


def test_nested_contexts():
    stack = make_stack()

    def nested(x: Tensor) -> Tensor:
        y = stack[1](stack[0](x))
        with norms():
            return stack[4](stack[3](stack[2](y)))

    want = gradients(stack, make_clips())
    watched = Watched(stack[1], stack[3])
    with norms():
        y = nested(make_clips())
    assert watched.num_kept() == 0
    backward(y)
    assert_gradients(stack, want)


def test_exception_inside():
    stack = make_stack()
    with pytest.raises(RuntimeError, match="size of tensor|expected input"), norms():
        stack(make_clips(2, 5, 4, 6, 6))
    watched = Watched(stack[1])
    y = stack(make_clips())
    assert watched.num_kept() == 1 and y.requires_grad


@pytest.mark.parametrize(
    "make, names",
    [
        (partial(ResNet3d, 10, norm=BatchNorm3d), "BatchNorm3d"),
        (partial(ResNet3d, 10, norm=BatchNorm3d, norm_placement="last_only"), "BatchNorm3d, NoNorm"),
        (VGG3d, "NoNorm"),
    ],
)
def test_nothing_to_recompute(make, names):
    message = rf"recompute \(blocks\) needs a norm .* such as GroupNorm3d, .* norms are {names}$"
    with pytest.raises(ValueError, match=message):
        make(width=8, recompute="blocks")


@pytest.mark.parametrize("make", [partial(ResNet3d, 10), VGG3d])
def test_what_is_unknown(make):
    message = r"recompute \(True\) must be one of none, norms, blocks, blocks_8bit, blocks_8bit_stochastic$"
    with pytest.raises(ValueError, match=message):
        make(width=8, recompute=True)
    with pytest.raises(ValueError, match=message), recompute(True):
        pass


def test_require_recomputable_norm():
    require_recomputable_norm(make_stack(), "norms")
