"""The gradient of a convolution's weight where the kernel is longer than what it is laid over."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videonorm.models import ResNet3d
from videonorm.ops import convolution_backward

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
KERNELS = [(3, 1, 2), (3, 3, 1), (5, 1, 2), (5, 3, 3), (5, 3, 4), (7, 1, 4)]  # frames, pixels; frames of x


def poison() -> None:
    """NaN into the memory that the next operation gets."""
    del [torch.full((size,), torch.nan) for size in range(256, 2**15, 256) for _ in range(4)][:]


def gradients(conv, x, grad_y, autocast=False):
    conv.zero_grad()
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv(x)
    poison()
    y.backward(grad_y.to(y.dtype))
    return [x.grad, conv.weight.grad, conv.bias.grad]


def assert_close(got, exact):
    for one, other in zip(got, exact, strict=True):
        error = (one.double() - other).abs().max()
        assert error <= 0.02 * other.abs().max()  # not of NaN


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("channels", [(3, 16), (8, 8), (16, 32)], ids=str)
@pytest.mark.parametrize("time, space, num_frames", KERNELS)
def test_few_frames(time, space, num_frames, channels, memory_format):
    torch.manual_seed(0)
    size = (time, space, space)
    for stride, side in itertools.product((1, 2), (1, 4)):
        conv = nn.Conv3d(*channels, size, stride, padding=[n // 2 for n in size]).to(torch.bfloat16)
        conv = conv.to(memory_format=memory_format)
        x = torch.randn(2, channels[0], num_frames, side, side).bfloat16().to(memory_format=memory_format)
        exact = copy.deepcopy(conv).double()
        grad_y = torch.randn_like(conv(x))
        assert_close(gradients(conv, x, grad_y), gradients(exact, x.double(), grad_y))


def test_seven_taps_in_fp32():
    """Of which oneDNN's gradient is wrong as well, or writes beyond its own memory."""
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 16, (7, 3, 3), (2, 1, 1), padding=(3, 1, 1))
    x = torch.randn(2, 16, 6, 4, 4)
    grad_y = torch.randn_like(conv(x))
    exact = gradients(copy.deepcopy(conv).double(), x.double(), grad_y)
    assert_close(gradients(conv, x, grad_y), exact)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_under_autocast_and_compiled(compiled):
    torch.manual_seed(0)
    conv, x = nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, 2, 4, 4)
    grad_y = torch.randn_like(conv(x))
    exact = gradients(copy.deepcopy(conv).double(), x.double(), grad_y)
    run = torch.compile(conv, backend="aot_eager", fullgraph=True) if compiled else conv
    assert_close(gradients(run, x, grad_y, autocast=True), exact)


def test_other_shapes_are_torchs(monkeypatch):
    """Long enough, without padding, without a gradient of the weight, of no clips: nothing is padded."""
    monkeypatch.setattr(convolution_backward.F, "pad", None)
    for x, padding, wanted in (
        (torch.ones(1, 4, 3, 4, 4), 1, True),
        (torch.ones(1, 4, 3, 3, 3), 0, True),
        (torch.ones(1, 4, 2, 4, 4), 1, False),
        (torch.ones(0, 4, 2, 4, 4), 1, True),
        (torch.ones(1, 4, 2, 4, 4).double(), 1, True),
    ):
        x = x if x.dtype == torch.float64 else x.bfloat16()
        weight = torch.ones(4, 4, 3, 3, 3, dtype=x.dtype, requires_grad=wanted)
        F.conv3d(x.requires_grad_(), weight, padding=padding).sum().backward()
    x = torch.ones(1, 4, 2, 4, 4, dtype=torch.bfloat16)
    weight = torch.ones(4, 4, 3, 3, 3, dtype=x.dtype, requires_grad=True)
    with pytest.raises(TypeError):
        F.conv3d(x, weight, padding=1).sum().backward()


def test_a_network_learns_from_two_frames():
    torch.manual_seed(0)
    model = ResNet3d(10, num_classes=3, width=16, zero_init_residual=False)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(torch.randn(2, 3, 2, 32, 32))
        poison()
        logits.float().square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        assert max(parameter.grad.abs().max() for parameter in model.parameters()) < 1e4


def test_torchs_own_for_a_while(monkeypatch):
    calls = []
    monkeypatch.setattr(
        convolution_backward, "_zeros_in_memory", lambda *args: calls.append(args) or [0, 0, 0]
    )

    def backward() -> None:
        conv = torch.nn.Conv3d(2, 2, 3, padding=1)
        conv(torch.randn(1, 2, 2, 4, 4)).sum().backward()

    with convolution_backward.unguarded():
        backward()
    assert not calls
    backward()
    assert calls
