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
    AccumulatedBatchNorm3d,
    BatchChannelNorm3d,
    BatchNorm3d,
    BatchRenorm3d,
    DynamicErf3d,
    DynamicTanh3d,
    EvoNormS0,
    FilterResponseNorm3d,
    FrozenBatchNorm3d,
    GroupNorm3d,
    ImposedBatchNorm3d,
    InstanceNorm3d,
    LayerNorm3d,
    MovingAverageBatchNorm3d,
    NoNorm,
    Norm,
    ProxyNorm3d,
    SubBatchNorm3d,
    SyncBatchNorm3d,
)

C, G = 8, 4
SHAPE = (4, C, 3, 5, 6)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
SITES = (0, 2, 3, 4)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def batch_norm(x, p):
    return F.batch_norm(x, None, None, p["weight"], p["bias"], training=True)


def imposed_batch_norm(x, p):
    weight, bias = p["weight"] * p["scale"], p["weight"] * p["shift"] + p["bias"]
    return batch_norm(x, {"weight": weight, "bias": bias})


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


def per_channel(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def affine(z, p):
    return per_channel(p["weight"]) * z + per_channel(p["bias"])


def batch_renorm(x, p):
    std, running_std = (
        var.add(1e-5).sqrt() for var in (x.detach().var(SITES, correction=0), p["running_var"])
    )
    r = (std / running_std).clamp(1 / 1.25, 1.25)
    d = ((x.detach().mean(SITES) - p["running_mean"]) / running_std).clamp(-0.5, 0.5)
    return affine(F.batch_norm(x, None, None, training=True) * per_channel(r) + per_channel(d), p)


def moving_average_batch_norm(x, p):
    """By autograd through this batch's share of the statistics, and a term for the batches before it."""
    place, k = 1, len(p["squares"])  # of batch 2001
    before = [i for i in range(k) if i != place]
    x = x.clone()
    square = (p["squares"][before].sum(0) + x.square().mean(SITES)) / k
    std = per_channel(square + 1e-5).sqrt()
    if x.requires_grad:
        along = per_channel(p["gradients"][before].sum(0) / k) * (x / std**2).detach()
        x.register_hook(lambda grad_x: grad_x - along)
    r = ((square.detach() + 1e-5) / (p["running_square"] + 1e-5)).sqrt().clamp(1 / 5, 5)
    return affine(per_channel(r) * x / std, p)


def warm(layer: MovingAverageBatchNorm3d) -> MovingAverageBatchNorm3d:
    layer.batches.fill_(2000)
    return layer


def filter_response_norm(x, p):
    return affine(x * torch.rsqrt(x.square().mean((2, 3, 4), keepdim=True) + 1e-5), p)


def evo_norm_s0(x, p):
    if "v" in p:
        var = x.reshape(len(x), G, -1).var(2, correction=0).repeat_interleave(C // G, 1)
        x = x * torch.sigmoid(per_channel(p["v"]) * x) / (var + 1e-5).sqrt()[..., None, None, None]
    return affine(x, p)


def no_gradient(*names):
    """ReLU, and parameters that only take part where there is no residual."""
    return lambda z, p: F.relu(z) + 0 * sum(per_channel(p[name]) for name in names)


class Case(NamedTuple):
    make: Callable[[], Norm]
    definition: Callable[[Tensor, dict[str, Tensor]], Tensor]  # of x and the layer's parameters and buffers
    activation: Callable[[Tensor, dict[str, Tensor]], Tensor] = lambda z, p: F.relu(z)  # behind a residual
    whole_graph: bool = True  # whether torch.compile makes one of it


NORMS = {
    "gn": Case(lambda: GroupNorm3d(C, G), group_norm(G)),
    "ln": Case(lambda: LayerNorm3d(C), group_norm(1)),
    "in": Case(lambda: InstanceNorm3d(C), group_norm(C)),
    "bn": Case(lambda: BatchNorm3d(C), batch_norm),
    "imposed_bn": Case(
        lambda: ImposedBatchNorm3d(C, spread_of_means=1.0, spread_of_scales=0.5), imposed_batch_norm
    ),
    "sub_bn": Case(lambda: SubBatchNorm3d(C, 2), sub_batch_norm),
    "accumulated_bn": Case(lambda: AccumulatedBatchNorm3d(C), batch_norm),
    "sync_bn": Case(lambda: SyncBatchNorm3d(C), batch_norm),
    "frozen_bn": Case(lambda: FrozenBatchNorm3d(C), frozen_batch_norm),
    "frozen_bn_affine": Case(lambda: FrozenBatchNorm3d(C, train_affine=True), frozen_batch_norm),
    "bcn": Case(lambda: BatchChannelNorm3d(C, G), batch_channel_norm),
    "bcn_micro": Case(
        lambda: BatchChannelNorm3d(C, G, statistics="estimated", momentum=0.5), estimated_batch_channel_norm
    ),
    "batch_renorm": Case(
        lambda: BatchRenorm3d(C, r_max=1.25, d_max=0.5, r_max_steps=(0, 0), d_max_steps=(0, 0)), batch_renorm
    ),
    "mabn": Case(lambda: warm(MovingAverageBatchNorm3d(C, 4)), moving_average_batch_norm, whole_graph=False),
    "frn_tlu": Case(
        lambda: FilterResponseNorm3d(C),
        filter_response_norm,
        lambda z, p: torch.maximum(z, per_channel(p["tau"])),
    ),
    "gn_pn": Case(lambda: ProxyNorm3d(C, G), group_norm(G), no_gradient("proxy_mean", "proxy_scale")),
    "dyt": Case(lambda: DynamicTanh3d(C, alpha=0.02), lambda x, p: affine(torch.tanh(p["alpha"] * x), p)),
    "derf": Case(lambda: DynamicErf3d(C), lambda x, p: affine(torch.erf(p["alpha"] * x + p["shift"]), p)),
    "evonorm_s0": Case(lambda: EvoNormS0(C, G), evo_norm_s0, lambda z, p: z),
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
        y = case.activation(y + added, parameters) if fused else y
        return gradients(y, leaf, added, parameters.values())

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
    parameters = tensors_of(layer, torch.float64)
    want = case.definition(x, parameters)
    if fused:
        want = case.activation(want + residual, parameters)
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
    other = copy.deepcopy(layer)
    torch.compiler.reset()  # the norms share a forward, which may be compiled again so many times and no more
    compiled = torch.compile(other, backend="aot_eager", fullgraph=case.whole_graph)
    leaves = [x.requires_grad_(), residual.requires_grad_()]
    outputs = [module(*leaves) for module in (layer, compiled)]
    torch.testing.assert_close(*outputs)
    for want, got in zip(*(torch.autograd.grad(y, leaves, grad_y) for y in outputs), strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(other.state_dict(), layer.state_dict())  # with what it keeps of the batch


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
