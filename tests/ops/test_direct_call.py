"""Operators called without the dispatcher, where nothing but autograd would see it; and elsewhere with it."""

import contextlib

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from videonorm.ops import group_norm as norms
from videonorm.ops import weight_standardize as weights
from videonorm.ops.group_norm import group_norm
from videonorm.ops.weight_standardize import BIG_TRANSFER, weight_standardize, weight_standardize_layers


@pytest.fixture
def dispatched(monkeypatch) -> list[str]:
    """The names of the operators that the dispatcher is asked for."""
    names: list[str] = []

    def watch(operator):
        overload = operator._overload

        def call(*args):
            names.append(overload._opname)
            return overload(*args)

        monkeypatch.setattr(operator, "_overload", call)

    for operator in (norms._group_norm, norms.group_norm_backward, norms.group_norm_apply):
        watch(operator)
    for operator in (weights._weight_standardize, weights._weight_standardize_backward):
        watch(operator)
    return names


class Passive(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class PassiveFunction(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    pass


X = torch.randn(2, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))


def norm_gradients(x: Tensor = X) -> list[Tensor]:
    x, weight, bias = x.detach().requires_grad_(), torch.arange(4.0), torch.ones(4)
    leaves = [x, weight.requires_grad_(), bias.requires_grad_()]
    y = group_norm(*leaves, 2, relu=True)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def filter_gradients() -> list[Tensor]:
    """Of three layers with gains, of which one has no part in the loss."""
    generator = torch.Generator().manual_seed(0)
    filters = [torch.randn(n, 3, 1, 2, generator=generator).requires_grad_() for n in (2, 4, 3)]
    gains = [torch.rand(len(w), generator=generator).requires_grad_() for w in filters]
    w_hats = weight_standardize_layers(filters, gains, [BIG_TRANSFER] * 3)
    leaves = [*filters, *gains]
    loss = w_hats[0].square().sum() + w_hats[2].pow(3).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert [grad is None for grad in grads] == [False, True, False] * 2
    return [*w_hats, *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("gradients", [norm_gradients, filter_gradients])
def test_the_same_to_the_bit_either_way(dispatched, gradients):
    direct = gradients()
    assert not dispatched
    with Passive():
        seen = gradients()
    assert len(dispatched) == 2  # forward and backward
    for one, other in zip(direct, seen, strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


@pytest.mark.parametrize(
    "context",
    [Passive, PassiveFunction, FakeTensorMode, lambda: torch.device("cpu")],
    ids=lambda c: c.__name__,
)
def test_modes_see_the_operators(dispatched, context):
    with context():
        x = torch.ones(2, 4, 1, 1, 2)
        group_norm(x, None, None, 2)
    assert dispatched == ["group_norm"]


@pytest.mark.parametrize("x", [X.as_subclass(Subclass), X.double(), X.to("meta"), torch._neg_view(X)])
def test_other_tensors_go_through_the_dispatcher(dispatched, x):
    y = group_norm(x, None, None, 2)
    assert dispatched == ["group_norm"] and y.shape == x.shape
    if x.device.type == "cpu":
        want = group_norm(X, None, None, 2)
        torch.testing.assert_close(y.as_subclass(Tensor), -want if x.is_neg() else want, check_dtype=False)


def test_a_gradient_of_another_sign_goes_through_the_dispatcher(dispatched):
    x = X.clone().requires_grad_()
    y = group_norm(x, None, None, 2)
    (grad,) = torch.autograd.grad(y, x, torch._neg_view(X), retain_graph=True)
    assert dispatched == ["group_norm_backward"]
    torch.testing.assert_close(grad, torch.autograd.grad(y, x, -X)[0])


def test_what_hooks_give_back_is_looked_at(dispatched):
    x = X.clone().requires_grad_()
    (want,) = torch.autograd.grad(group_norm(x, None, None, 2), x, X)
    with torch.autograd.graph.saved_tensors_hooks(torch.neg, torch._neg_view):
        y = group_norm(x, None, None, 2)
    (grad,) = torch.autograd.grad(y, x, X)
    assert dispatched == ["group_norm_backward"]
    torch.testing.assert_close(grad, want)


@pytest.mark.parametrize(
    ("passes", "kept"),
    [
        (lambda x: group_norm(x, torch.ones(4), None, 2), 4),  # x, weight, mean, rstd
        (lambda x: weight_standardize(x, torch.ones(2)), 4),  # weight, gain, mean, var
    ],
    ids=["norm", "filters"],
)
def test_nothing_within_a_node_is_recorded(passes, kept):
    packed: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        y = passes(X.clone().requires_grad_())
    assert len(packed) == kept
    assert [node.name() for node, _ in y.grad_fn.next_functions if node] == [
        "torch::autograd::AccumulateGrad"
    ]


def test_a_tensor_that_has_left_its_transform(dispatched):
    left: list[Tensor] = []
    torch.func.grad(lambda x: left.append(x) or x.sum())(X)
    torch.testing.assert_close(group_norm(left[0], None, None, 2), group_norm(X, None, None, 2))
    assert dispatched == ["group_norm"]


def test_a_gradient_within_a_transform_of_other_tensors(dispatched):
    """There, torch makes no node of ours but by the dispatcher."""
    x = X.clone().requires_grad_()
    y = group_norm(x, None, None, 2)

    def scaled(factor: Tensor) -> Tensor:
        return factor * torch.autograd.grad(y, x, X, create_graph=True)[0]

    got = torch.func.vmap(scaled)(torch.tensor([1.0, 2.0]))
    assert dispatched == ["group_norm_backward"]
    (grad,) = torch.autograd.grad(y, x, X)
    torch.testing.assert_close(got, torch.stack([grad, 2 * grad]))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    "passes", [lambda x: group_norm(x, None, None, 2), weight_standardize], ids=["x", "w"]
)
def test_a_tangent_is_not_lost(passes, create_graph):
    """That of a gradient within a dual level, of what was computed outside, where no reference ran."""
    x = X.clone().requires_grad_()
    y = passes(x)
    (want,) = torch.autograd.grad(y, x, X, retain_graph=True)
    with forward_ad.dual_level():
        (grad,) = torch.autograd.grad(y, x, X, retain_graph=True, create_graph=create_graph)
        assert torch.equal(grad, want)
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.autograd.grad(y, x, forward_ad.make_dual(X, X), create_graph=create_graph)


def test_a_trace_holds_the_operator():
    traced = torch.jit.trace(lambda x: group_norm(x, None, None, 2), X)
    assert "videonorm::group_norm" in str(traced.graph)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
def test_without_gradients_there_is_no_graph(dispatched, context):
    with context():
        y = group_norm(X, None, None, 2, relu=True)
    assert y.grad_fn is None and not y.requires_grad and not dispatched
    if not y.is_inference():
        y.add_(1)  # a result like any other


def test_a_graph_node_has_the_name_of_its_operator():
    assert group_norm(X.clone().requires_grad_(), None, None, 2).grad_fn.name() == "group_normBackward"
