"""What every norm layer must do, whatever it normalizes."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm import layers
from videonorm.layers import (
    BatchChannelNorm3d,
    BatchNorm3d,
    FrozenBatchNorm3d,
    GroupNorm3d,
    InstanceNorm3d,
    LayerNorm3d,
    NoNorm,
    Norm,
    SubBatchNorm3d,
    SyncBatchNorm3d,
)

C, G = 8, 4
SHAPE = (4, C, 3, 5, 6)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def batch_norm(x, p):
    return F.batch_norm(x, None, None, p["weight"], p["bias"], training=True)


def frozen_batch_norm(x, p):
    return F.batch_norm(x, p["running_mean"], p["running_var"], p["weight"], p["bias"])


def sub_batch_norm(x, p):
    return torch.cat([batch_norm(part, p) for part in x.chunk(2)])


def group_norm(num_groups):
    # Contiguous, because torch's channels-last kernel for CPU is too far off to be a peer.
    return lambda x, p: F.group_norm(x.contiguous(), num_groups, p["weight"], p["bias"])


def channel_norm(z, p):
    weight, bias = (p[name].repeat_interleave(C // G) for name in ("weight", "bias"))
    return F.group_norm(z.contiguous(), G, weight, bias)


def batch_channel_norm(x, p):
    inner = {"weight": p["batch_norm.weight"], "bias": p["batch_norm.bias"]}
    return channel_norm(batch_norm(x, inner), p)


def estimated_batch_channel_norm(x, p):
    mean, var = p["batch_norm.running_mean"].detach(), p["batch_norm.running_var"].detach()
    deviation = (x.detach() - mean.view(-1, 1, 1, 1)).square().mean((0, 2, 3, 4))
    mean = 0.5 * mean + 0.5 * x.detach().mean((0, 2, 3, 4))
    var = 0.5 * var + 0.5 * deviation
    return channel_norm(F.batch_norm(x, mean, var, p["batch_norm.weight"], p["batch_norm.bias"]), p)


class Case(NamedTuple):
    make: Callable[[], Norm]
    definition: Callable[[Tensor, dict[str, Tensor]], Tensor]  # of x and the layer's parameters and buffers


NORMS = {
    "gn": Case(lambda: GroupNorm3d(C, G), group_norm(G)),
    "ln": Case(lambda: LayerNorm3d(C), group_norm(1)),
    "in": Case(lambda: InstanceNorm3d(C), group_norm(C)),
    "bn": Case(lambda: BatchNorm3d(C), batch_norm),
    "sub_bn": Case(lambda: SubBatchNorm3d(C, 2), sub_batch_norm),
    "sync_bn": Case(lambda: SyncBatchNorm3d(C), batch_norm),
    "frozen_bn": Case(lambda: FrozenBatchNorm3d(C), frozen_batch_norm),
    "frozen_bn_affine": Case(lambda: FrozenBatchNorm3d(C, train_affine=True), frozen_batch_norm),
    "bcn": Case(lambda: BatchChannelNorm3d(C, G), batch_channel_norm),
    "bcn_micro": Case(
        lambda: BatchChannelNorm3d(C, G, statistics="estimated", momentum=0.5), estimated_batch_channel_norm
    ),
    "none": Case(lambda: NoNorm(C), lambda x, p: x.clone()),
}


@pytest.fixture(params=NORMS)
def case(request) -> Case:
    return NORMS[request.param]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_layer(case: Case) -> Norm:
    """With no parameter at its initial value, running statistics near those of the data, exact in bf16."""
    layer = case.make()
    for seed, (name, value) in enumerate(layer.state_dict().items()):
        if name.endswith("running_mean"):
            value.copy_((29 + randn(*value.shape, seed=seed)).bfloat16())
        elif value.is_floating_point():
            value.copy_((randn(*value.shape, seed=seed).abs() + 0.5).bfloat16())
    return layer


def make_inputs(dtype=torch.float64, memory_format=torch.contiguous_format) -> list[Tensor]:
    """x with mean 30 and std 1, a residual, and grad_y; all of them exact in `dtype`."""
    tensors = (30 + randn(*SHAPE), randn(*SHAPE, seed=1), randn(*SHAPE, seed=2))
    return [t.to(dtype).contiguous(memory_format=memory_format) for t in tensors]


def tensors_of(layer: Norm, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of parameters and buffers."""
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: t.detach().to(dtype).requires_grad_(t.requires_grad) for name, t in tensors.items()}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_error_is_at_most_twice_eager(case, dtype, memory_format, fused, assert_at_most_twice):
    layer = make_layer(case)
    layer.activation = "relu" if fused else None
    x, residual, grad_y = make_inputs(dtype, memory_format)
    exact_parameters = tensors_of(layer, torch.float64)
    if fused:
        # A value that rounding moves across the kink has either gradient: leave those out.
        z = case.definition(x.double(), exact_parameters) + residual.double()
        grad_y = grad_y * (z.abs() > 0.1)

    def gradients(y, x, residual, parameters):
        leaves = [x, *([residual] if fused else []), *(p for p in parameters if p.requires_grad)]
        return [y, *torch.autograd.grad(y, leaves, grad_y.to(y.dtype))]

    def defined(to, parameters):
        leaf, added = (t.to(to).requires_grad_() for t in (x, residual))
        y = case.definition(leaf, parameters)
        return gradients(F.relu(y + added) if fused else y, leaf, added, parameters.values())

    eager = defined(dtype, tensors_of(layer, dtype))
    exact = defined(torch.float64, exact_parameters)
    leaf, added = (t.clone().requires_grad_() for t in (x, residual))
    ours = gradients(layer(leaf, added if fused else None), leaf, added, layer.parameters())
    for values in zip(ours, eager, exact, strict=True):
        assert_at_most_twice(*values)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "add_relu"])
def test_float64_is_the_definition(case, fused):
    layer = make_layer(case).double()
    layer.activation = "relu" if fused else None
    x, residual, _ = make_inputs()
    want = case.definition(x, tensors_of(layer, torch.float64))
    if fused:
        want = (want + residual).clamp(min=0)
    torch.testing.assert_close(layer(x, residual if fused else None), want)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("residual_dtype", DTYPES.values(), ids=[f"residual_{name}" for name in DTYPES])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dtype_and_memory_format_are_kept(case, training, residual_dtype, memory_format):
    """Under autocast, with fp32 parameters; and in a module cast to bf16, which keeps fp32 statistics."""
    x, residual, grad_y = make_inputs(torch.bfloat16, memory_format)
    residual = residual.to(residual_dtype).requires_grad_()
    layer = make_layer(case).train(training)
    outputs = []
    for module in (layer, copy.deepcopy(layer).bfloat16()):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = module(leaf, residual)
        y.backward(grad_y)
        for tensor in (y, leaf.grad):
            assert tensor.dtype == torch.bfloat16 and tensor.is_contiguous(memory_format=memory_format)
        outputs.append(y)
    torch.testing.assert_close(*outputs, rtol=1 / 64, atol=1 / 64)


def test_the_input_and_the_residual_are_not_changed(case):
    layer = make_layer(case)
    layer.activation = "relu"
    x, residual, _ = make_inputs(torch.float32)
    x -= 30
    for given in (None, residual):
        before = x.clone(), residual.clone()
        layer(x, given)
        assert torch.equal(x, before[0]) and torch.equal(residual, before[1])


def test_two_calls_before_one_backward(case):
    """As in a network that sees two views of a clip."""
    layer = make_layer(case)
    layer.activation = "relu"
    x, other, _ = make_inputs(torch.float32)
    x.requires_grad_()
    (layer(x) + layer(x * other)).sum().backward()
    assert x.grad.isfinite().all()


def test_evaluation_depends_on_no_other_clip(case):
    layer = make_layer(case).eval()
    x, residual, _ = make_inputs(torch.float32)
    torch.testing.assert_close(layer(x, residual)[:1], layer(x[:1], residual[:1]))


def test_compile(case):
    layer = make_layer(case)
    layer.activation = "relu"
    x, residual, grad_y = make_inputs(torch.float32)
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    leaves = [x.requires_grad_(), residual.requires_grad_()]
    outputs = [module(*leaves) for module in (layer, compiled)]
    torch.testing.assert_close(*outputs)
    for want, got in zip(*(torch.autograd.grad(y, leaves, grad_y) for y in outputs), strict=True):
        torch.testing.assert_close(got, want)


def test_export(case):
    layer = make_layer(case).eval()
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = {"x": {0: batch, 2: time}, "residual": {0: batch, 2: time}}
    x, residual, _ = make_inputs(torch.float32)
    program = torch.export.export(layer, (x, residual), dynamic_shapes=shapes)
    fewer = x[:3, :, :2], residual[:3, :, :2]
    torch.testing.assert_close(program.module()(*fewer), layer(*fewer))


def test_role_and_repr(case):
    layer = case.make()
    layer.activation = "relu"
    assert layer.is_norm and layer.num_channels == C
    assert repr(layer).startswith(type(layer).__name__)
    assert f"{C}, activation='relu'" in repr(layer)


def test_state_dict_round_trip(case):
    layer, other = make_layer(case), case.make()
    other.load_state_dict(layer.state_dict())
    x = make_inputs(torch.float32)[0]
    torch.testing.assert_close(layer.eval()(x), other.eval()(x))


@pytest.mark.parametrize("case", [case for name, case in NORMS.items() if name != "none"])
def test_zero_weight_leaves_the_residual(case):
    """What zero gamma in the last norm of a block counts on: with weight 0 the block is the identity."""
    layer = case.make()
    nn.init.zeros_(layer.weight)
    x, residual, _ = make_inputs(torch.float32)
    assert torch.equal(layer(x, residual), residual)


def test_activation_is_checked_when_it_is_set(case):
    layer = case.make()
    with pytest.raises(ValueError, match=r"activation \('gelu'\) must be 'relu' or None"):
        layer.activation = "gelu"


def test_num_channels_is_checked():
    with pytest.raises(ValueError, match=r"num_channels \(0\) must be at least 1"):
        NoNorm(0)


def test_every_public_norm_is_here():
    public = {getattr(layers, name) for name in layers.__all__}
    norms = {c for c in public if isinstance(c, type) and issubclass(c, Norm)} - {Norm}
    assert norms == {type(case.make()) for case in NORMS.values()}
