"""torch.func, forward-mode AD and torch.fx on every layer: the same derivatives and outputs as without."""

import copy
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as fwd
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torchvision.models.feature_extraction import create_feature_extractor

from videonorm import layers
from videonorm.models import ResNet3d

NORMS = {
    "group": partial(layers.GroupNorm3d, num_groups=2),
    "layer": layers.LayerNorm3d,
    "instance": layers.InstanceNorm3d,
    "frozen": layers.FrozenBatchNorm3d,
    "batch": layers.BatchNorm3d,
    "batch_channel": partial(layers.BatchChannelNorm3d, num_groups=2),
    "batch_renorm": layers.BatchRenorm3d,
    "imposed": partial(layers.ImposedBatchNorm3d, spread_of_means=1.0, spread_of_scales=0.5),
    "moving_average": layers.MovingAverageBatchNorm3d,
    "filter_response": layers.FilterResponseNorm3d,
    "proxy": partial(layers.ProxyNorm3d, num_groups=2),
    "tanh": layers.DynamicTanh3d,
    "evo": partial(layers.EvoNormS0, num_groups=2),
    "none": layers.NoNorm,
}
CONVS = {
    "ws": layers.WSConv3d,
    "ws_gain": partial(layers.WSConv3d, variant="nf"),
    "center": layers.WSCenterOnlyConv3d,
    "scale": layers.WSScaleOnlyConv3d,
    "weight_norm": layers.WeightNormConv3d,
}
PARTS = [*((norm, nn.Conv3d) for norm in NORMS.values()), *((NORMS["group"], c) for c in CONVS.values())]
NAMES = [*NORMS, *CONVS]


def make_model(norm, conv):
    torch.manual_seed(0)
    first, second = norm(4), norm(4)
    first.activation = "relu"
    model = nn.Sequential(nn.Sequential(conv(3, 4, 3, padding=1), first, conv(4, 4, 1), second)).double()
    layers.group_weight_standardization(model)
    return model.eval()


def clips(count=3):
    return torch.randn(count, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss(model, parameters, x):
    return functional_call(model, parameters, (x,)).pow(3).sum()


def eager_grads(model, x):
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(model(x).pow(3).sum(), list(parameters.values()))
    return dict(zip(parameters, grads, strict=True))


def detached(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("norm, conv", PARTS, ids=NAMES)
def test_gradients_of_each_sample(norm, conv):
    model, x = make_model(norm, conv), clips()
    each = vmap(grad(lambda p, clip: loss(model, p, clip[None])), (None, 0))(detached(model), x)
    for index in range(len(x)):
        for name, want in eager_grads(model, x[index : index + 1]).items():
            torch.testing.assert_close(each[name][index], want)


@pytest.mark.parametrize("norm, conv", PARTS, ids=NAMES)
def test_forward_mode(norm, conv):
    """Through torch.func.jvp and through dual numbers: the directional derivative of reverse mode."""
    model, x = make_model(norm, conv), clips()
    parameters = detached(model)
    tangents = {name: torch.randn_like(value) for name, value in parameters.items()}
    want = sum((g * tangents[name]).sum() for name, g in eager_grads(model, x).items())
    got = jvp(lambda p: loss(model, p, x), (parameters,), (tangents,))[1]
    torch.testing.assert_close(got, want)
    with fwd.dual_level():
        duals = {name: fwd.make_dual(value, tangents[name]) for name, value in parameters.items()}
        torch.testing.assert_close(fwd.unpack_dual(loss(model, duals, x)).tangent, want)


@pytest.mark.parametrize("norm, conv", PARTS, ids=NAMES)
def test_a_vmapped_ensemble(norm, conv):
    models = [make_model(norm, conv) for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(-1.5)
    parameters, buffers = torch.func.stack_module_state(models)
    x = clips()
    base = copy.deepcopy(models[0])
    got = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(got, torch.stack([model(x) for model in models]))


FEATURES = {"stages.1": (2, 16, 2, 4, 4), "head": (2, 3)}


@pytest.mark.parametrize("norm, conv", PARTS, ids=NAMES)
def test_feature_extractor(norm, conv):
    torch.manual_seed(0)
    model = ResNet3d(10, num_classes=3, width=8, norm=norm, conv=conv, zero_init_residual=False)
    extractor = create_feature_extractor(model, list(FEATURES))
    x = torch.randn(2, 3, 4, 16, 16)
    features = extractor(x)
    assert {name: tuple(value.shape) for name, value in features.items()} == FEATURES
    assert torch.equal(features["head"], model(x))
    assert torch.equal(extractor.eval()(x)["head"], model.eval()(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(x)["head"], model(x))
