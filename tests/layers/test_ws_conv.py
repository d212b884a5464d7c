import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers import WSCenterOnlyConv3d, WSConv3d, WSScaleOnlyConv3d
from videonorm.ops.weight_standardize import Formula

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
FILTER = (1, 2, 3, 4)


def moments(w: Tensor, correction: int) -> tuple[Tensor, Tensor]:
    return w.mean(FILTER, keepdim=True), w.var(FILTER, correction=correction, keepdim=True)


def orig(w, gain):
    mean, var = moments(w, 1)
    return (w - mean) / (var.sqrt() + 1e-5)


def bcn(w, gain):
    mean, var = moments(w, 1)
    return (w - mean) / (var + 1e-5).sqrt()


def bit(w, gain):
    mean, var = moments(w, 0)
    return (w - mean) / (var + 1e-10).sqrt()


def timm(w, gain, eps=1e-6):
    """As timm computes it, by batch norm over the filters."""
    filters = w.reshape(1, len(w), -1)
    return F.batch_norm(filters, None, None, training=True, momentum=0.0, eps=eps).reshape(w.shape)


def timm_bit(w, gain):
    return timm(w, gain, eps=1e-8)


def nf(w, gain):
    """As DeepMind's code: gain * (w - mean) * rsqrt(max(fan_in * var, 1e-4))."""
    mean, var = moments(w, 0)
    scale = torch.rsqrt((w[0].numel() * var).clamp(min=1e-4)) * gain.view(-1, 1, 1, 1, 1)
    return w * scale - mean * scale


def nf_timm(w, gain):
    return gain.view(-1, 1, 1, 1, 1) * 1.7139588594436646 * w[0].numel() ** -0.5 * timm(w, gain)


FORMULAS = {
    **{"orig": orig, "bcn": bcn, "bit": bit, "timm": timm, "timm_bit": timm_bit},
    **{"nf": nf, "nf_timm": nf_timm},
}


def make_conv(conv=WSConv3d, std=1e-2, **options) -> nn.Conv3d:
    torch.manual_seed(0)
    layer = conv(6, 4, (3, 1, 2), groups=2, padding=(1, 0, 0), **options)
    nn.init.normal_(layer.weight, 0.01, std)
    return layer


@pytest.mark.parametrize("std", [1e-3, 1e-1])
@pytest.mark.parametrize("variant", FORMULAS)
def test_variants_are_their_formulas(variant, std):
    """With Cout = 4 unlike Cin = 6: a port that takes the wrong dimensions would not survive."""
    layer = make_conv(variant=variant, std=std).double()
    if layer.gain is not None:
        nn.init.uniform_(layer.gain, 0.5, 2)
    gain = layer.gain
    leaves = [layer.weight] if gain is None else [layer.weight, gain]
    got, want = layer.effective_weight(), FORMULAS[variant](layer.weight, gain)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    grad = torch.randn_like(want)
    for computed, expected in zip(
        torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad), strict=True
    ):
        torch.testing.assert_close(computed, expected, rtol=1e-7, atol=1e-9)
    assert torch.autograd.gradcheck(lambda *_: layer.effective_weight(), leaves, eps=1e-7, rtol=1e-4)


def test_the_default_is_big_transfer():
    assert torch.equal(make_conv().effective_weight(), make_conv(variant="bit").effective_weight())


def test_eps_tells_the_variants_apart():
    """At weight std 1e-3, 1e-5 under the root leaves 0.30 of what 1e-10 gives."""
    small = {v: make_conv(variant=v, std=1e-3).effective_weight().std().item() for v in ("bit", "bcn")}
    assert small["bcn"] / small["bit"] == pytest.approx(0.30, abs=0.05)


def test_center_only_and_scale_only():
    layer = make_conv(WSCenterOnlyConv3d).double()
    mean, var = moments(layer.weight, 0)
    torch.testing.assert_close(layer.effective_weight(), layer.weight - mean)
    layer = make_conv(WSScaleOnlyConv3d).double()
    torch.testing.assert_close(layer.effective_weight(), layer.weight / (var + 1e-10).sqrt())


@pytest.mark.parametrize("conv", [WSConv3d, WSCenterOnlyConv3d, WSScaleOnlyConv3d])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_folds_into_a_plain_convolution(conv, memory_format):
    layer = make_conv(conv, stride=(1, 2, 1), bias=True).to(memory_format=memory_format)
    x = torch.randn(2, 6, 5, 7, 8).contiguous(memory_format=memory_format)
    plain = nn.Conv3d(6, 4, (3, 1, 2), groups=2, padding=(1, 0, 0), stride=(1, 2, 1))
    plain.load_state_dict({"weight": layer.effective_weight(), "bias": layer.bias})
    torch.testing.assert_close(layer(x), plain.to(memory_format=memory_format)(x))
    assert layer.effective_weight().stride() == layer.weight.stride()


@pytest.mark.parametrize("conv", [WSConv3d, WSCenterOnlyConv3d, WSScaleOnlyConv3d])
def test_autocast(conv):
    """The weight is standardized in fp32 and rounded once."""
    layer, x = make_conv(conv), torch.randn(2, 6, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    bf16 = torch.bfloat16
    want = F.conv3d(x.to(bf16), layer.effective_weight().to(bf16), layer.bias.to(bf16), 1, (1, 0, 0), 1, 2)
    assert torch.equal(y, want)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_compile_and_export_under_autocast():
    layer, x = make_conv(variant="nf"), torch.randn(2, 6, 4, 5, 5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), layer(x))
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    torch.testing.assert_close(
        program.module()(x[:1].repeat(3, 1, 1, 1, 1)), layer(x[:1].repeat(3, 1, 1, 1, 1))
    )


@pytest.mark.parametrize("conv", [WSConv3d, WSCenterOnlyConv3d, WSScaleOnlyConv3d])
def test_a_filter_of_one_weight_is_refused(conv):
    with pytest.raises(ValueError, match=r"fan-in \(1\) must be at least 2 to standardize a filter"):
        conv(8, 8, 1, groups=8)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"variant \('big'\) must be one of \('bit', 'orig', "):
        WSConv3d(8, 8, 3, variant="big")


def test_state_dict_is_that_of_conv3d():
    assert make_conv().state_dict().keys() == nn.Conv3d(6, 4, 1).state_dict().keys()
    assert make_conv(variant="nf").gain.shape == (4,)


def test_repr():
    assert repr(make_conv(variant="orig")).endswith("groups=2, variant='orig')")


def test_the_formula_follows_the_layer():
    conv = WSConv3d(4, 6, 3, variant="nf")
    assert conv.formula is conv.formula  # made once
    assert conv.formula == Formula(
        eps_placement="floor", eps=1e-4 / conv.fan_in, multiplier=conv.fan_in**-0.5
    )
    conv.variant = "timm"
    assert conv.formula == Formula(eps=1e-6)
    conv.variant, conv.in_channels = "nf", 2
    assert conv.formula.multiplier == pytest.approx((2 * 27) ** -0.5)
    assert copy.deepcopy(conv).formula == conv.formula
