"""A grouped convolution uses the weight that it would use alone, whatever happens to it in between."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from videonorm.layers import (
    GroupNorm3d,
    WeightNormConv3d,
    WSCenterOnlyConv3d,
    WSConv3d,
    group_weight_standardization,
)

CLIPS = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    convs = WSConv3d(3, 4, 1), WSConv3d(4, 4, 3, padding=1, variant="nf"), WSConv3d(4, 4, 1)
    return nn.Sequential(nn.Sequential(*(part for conv in convs for part in (conv, GroupNorm3d(4, 2)))))


def pair(prepare=lambda model: None):
    models = []
    for grouped in (False, True):
        model = make_model()
        torch.manual_seed(1)
        prepare(model)
        if grouped:
            group_weight_standardization(model)
        models.append(model)
    return models


def step(model, run=None):
    """y and the gradients, then a step of gradient descent."""
    model.zero_grad()
    y = (run or model)(CLIPS)
    y.square().sum().backward()
    results = [y.detach(), *(parameter.grad for parameter in model.parameters())]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
    return results


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def pruned(model):
    prune.l1_unstructured(model[0][2], "weight", 0.5)


def pruned_gain(model):
    prune.l1_unstructured(model[0][2], "gain", 0.5)


def old_weight_norm(model):
    nn.utils.weight_norm(model[0][2])


def old_spectral_norm(model):
    nn.utils.spectral_norm(model[0][2])


def spectral_norm(model):
    nn.utils.parametrizations.spectral_norm(model[0][2])


def changed_in_place(model):
    @torch.no_grad()
    def double_the_first(conv, _):
        conv.weight[0] *= 2

    model[0][2].register_forward_pre_hook(double_the_first)


def another_parameter(model):
    def negate(conv, _):
        conv.weight = nn.Parameter(-conv.weight.detach())

    model[0][2].register_forward_pre_hook(negate)


def loaded(model):
    state = {name: tensor.roll(1, 0) for name, tensor in model[0][2].state_dict().items()}
    model[0][2].register_forward_pre_hook(lambda conv, _: conv.load_state_dict(state) and None)


def frozen(model):
    model[0][2].register_forward_pre_hook(lambda conv, _: conv.requires_grad_(False) and None)


def own_effective_weight(model):
    class Halved(WSConv3d):
        def effective_weight(self, dtype=None):
            return super().effective_weight(dtype) / 2

    model[0][4] = Halved(4, 4, 1, bias=False)
    model[0][5] = nn.Identity()


PREPARATIONS = [
    *(pruned, pruned_gain, old_weight_norm, old_spectral_norm, spectral_norm),
    *(changed_in_place, another_parameter, loaded, frozen, own_effective_weight),
]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("prepare", PREPARATIONS)
def test_weights_that_change(prepare):
    alone, grouped = pair(prepare)
    for _ in range(3):
        assert_equal(step(grouped), step(alone))


class EnableGrad(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.inference_mode(False), torch.enable_grad():
            return self.inner(x.clone())


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
def test_gradients_within_none(outer):
    def prepare(model):
        model[0] = nn.Sequential(EnableGrad(model[0]))

    def run(model):
        with outer():
            return model(CLIPS)

    alone, grouped = pair(prepare)
    assert_equal(step(grouped, lambda _: run(grouped)), step(alone, lambda _: run(alone)))
    assert grouped[0][0].inner[2].weight.grad.any()


class Between(nn.Module):
    """Calls a function in the middle of the forward."""

    call = staticmethod(lambda: None)

    def forward(self, x):
        self.call()
        return x


def test_another_thread_evaluates():
    alone, grouped = pair(lambda model: model[0].insert(3, Between()))

    def evaluate():
        def run():
            grouped[0][3].call = lambda: None
            with torch.no_grad():
                grouped(CLIPS)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    grouped[0][3].call = evaluate
    assert_equal(step(grouped), step(alone))


def test_another_thread_evaluates_a_checkpointed_group():
    alone, grouped = pair(lambda model: model[0].insert(3, Between()))
    between = grouped[0][3]

    def evaluate():
        between.call = lambda: None
        thread = threading.Thread(target=lambda: grouped.eval()(CLIPS))
        thread.start()
        thread.join()

    between.call = evaluate

    def run(x):
        return checkpoint(grouped[0], x, use_reentrant=False)

    assert_equal(step(grouped, run), step(alone))


def test_a_copy_in_the_middle_of_a_forward():
    copies = []
    alone, grouped = pair(lambda model: model[0].insert(3, Between()))
    grouped[0][3].call = lambda: copies.append(copy.deepcopy(grouped[0][2]))
    assert_equal(step(grouped), step(alone))
    assert not copies[0]._weights_at_hand


def test_functional_call():
    alone, grouped = pair()
    parameters = {name: tensor.detach() * 2 for name, tensor in alone.named_parameters()}
    for _ in range(2):
        ours, theirs = (torch.func.functional_call(model, parameters, CLIPS) for model in (grouped, alone))
        assert torch.equal(ours, theirs)
    assert torch.equal(grouped(CLIPS), alone(CLIPS))


@pytest.mark.parametrize("conv", [WSConv3d, WSCenterOnlyConv3d, WeightNormConv3d])
def test_a_parametrized_weight_is_computed_once(conv):
    model = make_model()
    model[0][2] = nn.utils.parametrizations.spectral_norm(conv(4, 4, 3, padding=1))
    group_weight_standardization(model)
    calls = []
    model[0][2].parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    model(CLIPS)
    assert len(calls) == 1
