import copy
import threading
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from videonorm.layers import (
    BatchNorm3d,
    GroupNorm3d,
    InstanceNorm3d,
    LayerNorm3d,
    MaxPool3d,
    WSConv3d,
    recompute_norms,
    require_recomputable_norm,
)
from videonorm.models import ResNet3d, VGG3d

group_norm = partial(GroupNorm3d, num_groups=4)


def make_stack(norm=group_norm, activation="relu") -> nn.Sequential:
    """Convolution, norm, convolution, norm, convolution."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3),
        norm(8, activation=activation),
        nn.Conv3d(8, 8, 1),
        norm(8, activation=activation),
        nn.Conv3d(8, 4, 1),
    )


def make_clips(*size: int) -> Tensor:
    return torch.randn(size or (2, 3, 4, 6, 6), generator=torch.Generator().manual_seed(0))


class Watched:
    """A module whose outputs are watched: which of them are still in memory?"""

    def __init__(self, *modules: nn.Module) -> None:
        self.outputs = []
        for module in modules:
            module.register_forward_hook(
                lambda module, args, y: self.outputs.append(StorageWeakRef(y.untyped_storage()))
            )

    def num_kept(self) -> int:
        return sum(not output.expired() for output in self.outputs)


def gradients(model: nn.Module, clips: Tensor, context=nullcontext) -> list[Tensor]:
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    with context():
        y = model(clips)
    y.square().mean().backward()
    return [p.grad for p in model.parameters()]


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


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
    models = [MODELS[name](recompute_norms=recompute) for recompute in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    clips = make_clips(2, 3, 5, 20, 20).contiguous(memory_format=memory_format)
    want, got = (gradients(model.to(memory_format=memory_format), clips) for model in models)
    assert_same(got, want)


@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("norm", [group_norm, LayerNorm3d, InstanceNorm3d])
def test_outputs_are_not_kept_and_gradients_are_the_same(norm, activation):
    stack = make_stack(norm, activation)
    want = gradients(stack, make_clips())
    for context, num_kept in ((nullcontext, 2), (recompute_norms, 0)):
        watched = Watched(stack[1], stack[3])
        with context():
            y = stack(make_clips())
        assert watched.num_kept() == num_kept
        stack.zero_grad()
        y.square().mean().backward()
        assert_same([p.grad for p in stack.parameters()], want)


def test_inputs_are_kept_once():
    stack = make_stack()
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor.detach()

    clips = make_clips()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recompute_norms():
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
    with recompute_norms():
        y = last(norm(conv(x), x))
    assert watched.num_kept() == 1
    y.sum().backward()


def test_a_norm_of_a_norm():
    stack = make_stack()
    stack.insert(2, group_norm(8))
    watched = Watched(stack[1], stack[2])
    assert_same(gradients(stack, make_clips(), recompute_norms), gradients(stack, make_clips()))
    with recompute_norms():
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
    with recompute_norms():
        y = model(make_clips())
    assert watched.num_kept() == 2
    y.square().mean().backward()
    assert_same([p.grad for p in model.parameters()], want)


def test_views_of_an_output_are_kept():
    norm, conv = group_norm(8, activation="relu"), nn.Conv3d(8, 8, 1)
    grads = []
    for context in (nullcontext, recompute_norms):
        x = make_clips(2, 8, 4, 3, 3).requires_grad_()
        with context():
            y = conv(norm(x)[:, :, ::2])
        grads += torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(*grads)


@pytest.mark.parametrize("change", ["weight", "bias", "x", "convolution"])
def test_change_in_place_before_backward_is_an_error(change):
    """A hook that keeps a tensor has to notice it: autograd leaves that to the hooks."""
    stack = make_stack()
    kept = []
    stack[0].register_forward_hook(lambda module, args, y: kept.append(y))
    with recompute_norms():
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
    with recompute_norms():
        z = conv(y)
    del y
    assert watched.num_kept() == 1
    z.sum().backward()


def test_nothing_is_held_after_a_discarded_forward():
    stack = make_stack()
    watched = Watched(*stack)
    with recompute_norms():
        for _ in range(5):
            stack(make_clips())
        assert watched.num_kept() <= 2
    assert watched.num_kept() == 0


def test_without_gradients_nothing_happens():
    stack = make_stack()
    watched = Watched(*stack)
    with recompute_norms():
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
    assert_same([g for g in gradients(stack, make_clips(), recompute_norms) if g is not None], want)
    watched = Watched(stack[0], stack[1])
    with recompute_norms():
        y = stack(make_clips())
    assert watched.num_kept() == 1 and y.requires_grad


def test_nested_contexts():
    stack = make_stack()

    def nested(x: Tensor) -> Tensor:
        y = stack[1](stack[0](x))
        with recompute_norms():
            return stack[4](stack[3](stack[2](y)))

    want = gradients(stack, make_clips())
    watched = Watched(stack[1], stack[3])
    with recompute_norms():
        y = nested(make_clips())
    assert watched.num_kept() == 0
    y.square().mean().backward()
    assert_same([p.grad for p in stack.parameters()], want)


def test_exception_inside():
    stack = make_stack()
    with pytest.raises(RuntimeError, match="size of tensor|expected input"), recompute_norms():
        stack(make_clips(2, 5, 4, 6, 6))
    watched = Watched(stack[1])
    y = stack(make_clips())
    assert watched.num_kept() == 1 and y.requires_grad


@pytest.mark.parametrize("place", ["inside", "outside", "between"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant, place):
    stack = make_stack()
    want = gradients(stack, make_clips())
    run = partial(checkpoint, use_reentrant=use_reentrant)

    def option(x: Tensor) -> Tensor:
        with recompute_norms():
            return stack(x)

    clips = make_clips().requires_grad_()  # which reentrant checkpointing asks for
    watched = Watched(*stack)
    if place == "inside":
        with recompute_norms():
            y = stack[4](run(stack[1:4], stack[0](clips)))
    elif place == "outside":
        y = run(option, clips)
        assert watched.num_kept() == 1  # the logits
    else:
        with recompute_norms():
            y = run(option, clips)
    y.square().mean().backward()
    assert_same([p.grad for p in stack.parameters()], want)


def test_inside_other_hooks():
    """They get what is kept, and here put it elsewhere."""
    stack = make_stack()
    want = gradients(stack, make_clips())
    watched = Watched(*stack)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda copied: copied), recompute_norms():
        y = stack(make_clips())
    assert watched.num_kept() == 1  # y
    y.square().mean().backward()
    assert_same([p.grad for p in stack.parameters()], want)


def test_backward_in_another_thread():
    stack = make_stack()
    want = gradients(stack, make_clips())
    with recompute_norms():
        y = stack(make_clips())
    thread = threading.Thread(target=y.square().mean().backward)
    thread.start()
    thread.join()
    assert_same([p.grad for p in stack.parameters()], want)


def test_backward_inside_and_twice():
    stack = make_stack()
    want = gradients(stack, make_clips())
    with recompute_norms():
        loss = stack(make_clips()).square().mean()
        loss.backward(retain_graph=True)
    assert_same([p.grad for p in stack.parameters()], want)
    loss.backward()
    assert_same([p.grad for p in stack.parameters()], [2 * grad for grad in want])


def test_autocast_keeps_no_fp32():
    stack = make_stack()
    dtypes = set()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dim() == 5 and tensor.shape[0] == 2:
            dtypes.add(tensor.dtype)
        return tensor.detach()

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, recompute_norms(), torch.autocast("cpu", torch.bfloat16):
        y = stack(make_clips())
    assert dtypes == {torch.bfloat16}
    y.sum().backward()


def test_fake_tensors():
    with FakeTensorMode():
        stack = make_stack()
        watched = Watched(stack[1], stack[3])
        with recompute_norms():
            y = stack(torch.empty(2, 3, 4, 6, 6))
        assert watched.num_kept() == 0
        y.sum().backward()
        assert all(p.grad.shape == p.shape for p in stack.parameters())


def test_compile_and_export():
    torch.manual_seed(0)
    model = ResNet3d(10, "i3d", 5, norm=group_norm, width=8, recompute_norms=True)
    clips = make_clips(2, 3, 4, 16, 16)
    want = gradients(model, clips)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(clips).square().mean().backward()
    for parameter, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)
    program = torch.export.export(model.eval(), (clips,))
    torch.testing.assert_close(program.module()(clips), model(clips))


def test_compiled_part():
    """A compiled model in the context: the compiler has decided, and its graph keeps what it keeps."""
    stack = make_stack()
    want = gradients(stack, make_clips())
    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True)
    with recompute_norms():
        y = compiled(make_clips())
    y.square().mean().backward()
    for parameter, grad in zip(stack.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
        {"kernel_size": (2, 1, 1), "ceil_mode": True},
        {"kernel_size": 2, "stride": 1, "dilation": (1, 2, 1)},
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_max_pool_keeps_no_indices(memory_format, options):
    x = make_clips(2, 4, 5, 7, 7).contiguous(memory_format=memory_format).requires_grad_()
    want = nn.MaxPool3d(**options)(x)
    dtypes = []

    def pack(tensor: Tensor) -> Tensor:
        dtypes.append(tensor.dtype)
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recompute_norms():
        got = MaxPool3d(**options)(x)
    assert dtypes == [torch.float32]
    assert torch.equal(got, want) and got.stride() == want.stride()
    grad_y = torch.randn_like(want)
    assert torch.equal(torch.autograd.grad(got, x, grad_y)[0], torch.autograd.grad(want, x, grad_y)[0])


def test_max_pool_with_indices():
    x = make_clips()
    with recompute_norms():
        y, indices = MaxPool3d(2, return_indices=True)(x)
    assert torch.equal(F.max_unpool3d(y, indices, 2).amax((2, 3, 4)), y.amax((2, 3, 4)).clamp(min=0))


@pytest.mark.parametrize(
    "make, names",
    [
        (partial(ResNet3d, 10, norm=BatchNorm3d), "BatchNorm3d"),
        (partial(ResNet3d, 10, norm=BatchNorm3d, norm_placement="last_only"), "BatchNorm3d, NoNorm"),
        (VGG3d, "NoNorm"),
    ],
)
def test_nothing_to_recompute(make, names):
    message = rf"recompute_norms \(True\) needs a norm .* such as GroupNorm3d, .* norms are {names}$"
    with pytest.raises(ValueError, match=message):
        make(width=8, recompute_norms=True)


def test_require_recomputable_norm():
    require_recomputable_norm(make_stack())
