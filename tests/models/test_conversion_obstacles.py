"""Of whatever somebody has done to a network, `convert` keeps all, or leaves the module and names it."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization

from videonorm import layers
from videonorm.models import convert

CLIPS = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
CONVS = {"plain": nn.Conv3d, "weight_norm": layers.WeightNormConv3d}
NORMS = {"ours": layers.BatchNorm3d, "torch": nn.BatchNorm3d, "frozen": layers.FrozenBatchNorm3d}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1),
        nn.BatchNorm3d(4, eps=1e-3),
        nn.ReLU(),
        nn.Conv3d(4, 4, 3, padding=1),
        nn.BatchNorm3d(4, eps=1e-3),
    )
    for norm in model[1], model[4]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.eval()


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def old_hook(function: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def apply(module: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            function(module)

    return apply


def own_forward(module: nn.Module) -> None:
    module.forward = lambda x: type(module).forward(module, 2 * x)


def subclass(module: nn.Module) -> None:
    base = type(module)
    module.__class__ = type("Doubling", (base,), {"forward": lambda self, x: base.forward(self, 2 * x)})


EVERYWHERE = {
    "forward_pre_hook": (lambda m: m.register_forward_pre_hook(lambda m, x: (2 * x[0],)), "it has hooks"),
    "forward_hook": (lambda m: m.register_forward_hook(lambda m, x, y: 2 * y), "it has hooks"),
    "backward_hook": (lambda m: m.register_full_backward_hook(lambda m, x, y: None), "it has hooks"),
    "state_dict_hook": (lambda m: m.register_state_dict_post_hook(lambda *_: None), "it has hooks"),
    "load_hook": (lambda m: m.register_load_state_dict_pre_hook(lambda *_: None), "it has hooks"),
    "own_forward": (own_forward, "its forward is its own"),
    "subclass": (subclass, "its forward is its own"),
    "parametrized": (
        lambda m: register_parametrization(m, "weight", Doubled()),
        "its weight is parametrized",
    ),
    "parametrized_bias": (
        lambda m: register_parametrization(m, "bias", Doubled()),
        "its bias is parametrized",
    ),
    "pruned": (lambda m: prune.l1_unstructured(m, "weight", 0.5), "its weight is parametrized"),
    "pruned_bias": (lambda m: prune.l1_unstructured(m, "bias", 0.5), "its bias is parametrized"),
}
OF_CONVOLUTIONS = {
    "weight_norm": (parametrizations.weight_norm, "its weight is parametrized"),
    "spectral_norm": (parametrizations.spectral_norm, "its weight is parametrized"),
    "weight_norm_hook": (old_hook(nn.utils.weight_norm), "its weight is parametrized"),
    "spectral_norm_hook": (old_hook(nn.utils.spectral_norm), "its weight is parametrized"),
}


def assert_left(model: nn.Module, reason: str, index: int, **to_what) -> None:
    """Only the other one is swapped; outputs, state and random state are to the bit what they were."""
    old, expected, state = model[index], model(CLIPS), copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    report = convert(model, **to_what)
    assert [(left.name, left.reason) for left in report.left] == [(str(index), reason)]
    assert [change.name for change in report.changed] == [str(index + 3)]
    assert model[index] is old
    torch.testing.assert_close(model(CLIPS), expected)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize(("spoil", "reason"), EVERYWHERE.values(), ids=EVERYWHERE)
def test_a_norm_that_is_more_than_its_class_is_left_and_named(spoil, reason, norm):
    model = network()
    spoil(model[1])
    assert_left(model, reason, 1, norm=norm)


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
@pytest.mark.parametrize(
    ("spoil", "reason"), (EVERYWHERE | OF_CONVOLUTIONS).values(), ids=EVERYWHERE | OF_CONVOLUTIONS
)
def test_a_convolution_that_is_more_than_its_class_is_left_and_named(spoil, reason, conv):
    model = network()
    spoil(model[0])
    assert_left(model, reason, 0, conv=conv)


def test_what_was_pruned_for_good_moves():
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.remove(model[0], "weight")
    expected, weight = model(CLIPS), model[0].weight
    assert len(convert(model, conv=nn.Conv3d).changed) == 2
    assert model[0].weight is weight and torch.equal(model(CLIPS), expected)


def test_a_filter_without_a_direction_gets_no_length():
    """Weight normalization of a filter of zeros is 0 / 0."""
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0
    assert_left(model, "a filter of it is all zeros, which has no direction", 0, conv=layers.WeightNormConv3d)


@pytest.mark.parametrize(
    "nest", [lambda *m: list(m), lambda *m: {"in": [nn.Sequential(*m)]}, lambda *m: m[1].eval]
)
def test_what_an_attribute_holds_too_is_left_and_named(nest):
    """The network may call it by that, so the new one would have its tensors and never be called."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = network()
            self.__dict__["aside"] = nest(self.blocks[0], self.blocks[1])

        def forward(self, x):
            return self.blocks(x)

    model = nn.Sequential(Network())
    report = convert(model, norm=layers.LayerNorm3d)
    assert [(left.name, left.reason) for left in report.left] == [
        ("0.blocks.1", "the attribute 0.aside holds it too")
    ]
    assert [change.name for change in report.changed] == ["0.blocks.4"]


def test_an_attribute_that_holds_a_container_gets_the_new_modules_with_it():
    model = nn.Sequential(network())
    model.stages = (model[0],)
    assert len(convert(model, norm=layers.LayerNorm3d).changed) == 2
    assert isinstance(model.stages[0][1], layers.LayerNorm3d)


def test_lazy_modules_are_left_until_they_have_seen_a_clip():
    model = nn.Sequential(nn.LazyConv3d(4, 1), nn.LazyBatchNorm3d())
    report = convert(model, norm=layers.LayerNorm3d, conv=nn.Conv3d)
    assert [left.reason for left in report.left] == ["it is lazy and has seen no clip yet"] * 2
    model(CLIPS)
    assert len(convert(model, norm=layers.LayerNorm3d, conv=nn.Conv3d).changed) == 2


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_and_quantized_modules_are_left_and_named():
    quantized = torch.ao.nn.quantized
    model = nn.Sequential(torch.jit.script(network()), torch.jit.script(nn.ReLU()), quantized.BatchNorm3d(4))
    report = convert(model, norm=layers.LayerNorm3d)
    assert [(left.name, left.reason) for left in report.left] == [
        ("0", "it is compiled by TorchScript"),
        ("2", "it is quantized"),
    ]
    assert not report.changed
    assert [left.name for left in convert(model, conv=nn.Conv3d).left] == ["0"]
    with pytest.raises(ValueError, match=r"model \(RecursiveScriptModule\) must not be compiled by TorchScr"):
        convert(model[0], norm=layers.LayerNorm3d)


@pytest.mark.slow  # for the import of the compiler
def test_what_was_compiled_alone_is_left_and_named_and_what_holds_it_is_compiled_anew():
    model = network()
    model[1] = torch.compile(model[1], backend="eager")
    model[4].compile(backend="eager")
    report = convert(model, norm=layers.LayerNorm3d)
    assert not report.changed
    assert [(left.name, left.reason) for left in report.left] == [
        ("1._orig_mod", "it is compiled"),
        ("4", "it is compiled"),
    ]
    whole = torch.compile(network(), backend="eager")
    before = whole(CLIPS)
    assert len(convert(whole, norm=layers.LayerNorm3d).changed) == 2
    assert torch.equal(whole(CLIPS), whole._orig_mod(CLIPS)) and not torch.equal(whole(CLIPS), before)
