"""A clip that stands still: an inflated filter does to it what the 2D filter does to its frame."""

import math
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

from videonorm import layers
from videonorm.errors import UserError
from videonorm.models.inflation import inflate

TIMM_BIT = partial(layers.WSConv3d, variant="timm_bit")


def standardized_2d(**options) -> nn.Conv2d:
    """timm's convolution with filters off centre, so small that eps counts: at 1e-4, 1e-8 takes 30 % away."""
    torch.manual_seed(0)
    conv = timm.layers.StdConv2d(6, 4, 3, **options)
    nn.init.normal_(conv.weight, 1e-4, 1e-4)
    return conv


def responses(conv: nn.Conv2d, conv3d: nn.Conv3d, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of the 2D convolution to a frame, (C, H, W), and of the 3D one to five of it, (C, 5, H, W)."""
    frame = 3 + torch.randn(1, 6, 8, 8, dtype=torch.float64)
    conv, conv3d = conv.double(), conv3d.double()
    with torch.no_grad():
        conv3d.weight.copy_(weight)
        return conv(frame)[0], conv3d(frame.unsqueeze(2).expand(-1, -1, 5, -1, -1))[0]


def conv3d(kind: type[nn.Conv3d] = nn.Conv3d, **options) -> nn.Conv3d:
    return kind(6, 4, (3, 3, 3), padding=1, bias=False, **options)


@pytest.mark.parametrize(("inflation", "exact"), [("center", slice(None)), ("repeat", slice(1, 4))])
@pytest.mark.parametrize("standardized", [None, "timm", "timm_bit"])
def test_a_plain_convolution_responds_as_the_2d_one(standardized, inflation, exact):
    """That of a standardized one has its filters folded. Repeated ones see zeros beyond the ends."""
    if standardized is None:
        torch.manual_seed(0)
        conv = nn.Conv2d(6, 4, 3, padding=1, bias=False)
    else:
        conv = standardized_2d(eps={"timm": 1e-6, "timm_bit": 1e-8}[standardized])
    target = conv3d()
    weight = inflate(conv.weight.detach().double(), target, standardized=standardized, inflation=inflation)
    frame, clip = responses(conv, target, weight)
    torch.testing.assert_close(clip[:, exact], frame.unsqueeze(1).expand_as(clip[:, exact]))
    if inflation == "repeat":
        assert not torch.allclose(clip[:, 0], frame)


@pytest.mark.parametrize(
    ("inflation", "exact", "factor"), [("center", slice(None), math.sqrt(3)), ("repeat", slice(1, 4), 3)]
)
def test_a_standardized_convolution_responds_in_proportion(inflation, exact, factor):
    conv, target = standardized_2d(eps=1e-8), conv3d(TIMM_BIT)
    weight = inflate(conv.weight.detach().double(), target, standardized="timm_bit", inflation=inflation)
    frame, clip = responses(conv, target, weight)
    torch.testing.assert_close(clip[:, exact], factor * frame.unsqueeze(1).expand_as(clip[:, exact]))
    if inflation == "center":  # zeros as they are used, not only as they are stored
        assert target.effective_weight()[:, :, [0, 2]].abs().max() < 1e-15


def test_a_kernel_without_time_keeps_its_numbers():
    weight = standardized_2d().weight.detach()
    target = TIMM_BIT(6, 4, (1, 3, 3))
    assert torch.equal(inflate(weight, target, standardized="timm_bit"), weight.unsqueeze(2))


@pytest.mark.parametrize(
    ("conv", "standardized", "message"),
    [
        (
            layers.WSConv3d,
            "timm_bit",
            r"conv \(WSConv3d of variant bit\) must be WSConv3d of variant timm_bit",
        ),
        (layers.WSCenterOnlyConv3d, "bit", r"conv \(WSCenterOnlyConv3d\) must be WSConv3d of variant bit"),
        (layers.WeightNormConv3d, "bit", r"conv \(WeightNormConv3d\) must be WSConv3d of variant bit"),
    ],
)
def test_another_formula_is_refused(conv, standardized, message):
    with pytest.raises(UserError, match=message):
        inflate(torch.zeros(4, 6, 3, 3), conv3d(conv), standardized=standardized)


def test_unknown_inflations_are_named():
    with pytest.raises(ValueError, match=r"inflation \(copy\) must be one of center, repeat"):
        inflate(torch.zeros(4, 6, 3, 3), conv3d(), inflation="copy")
