"""k micro-batches against one batch of all their clips through BatchNorm3d, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videonorm.layers import AccumulatedBatchNorm3d, BatchNorm3d, SubBatchNorm3d, accumulated_loss
from videonorm.models import ResNet3d, ResNetV2_3d, VGG3d

CLOSE = {"rtol": 1e-6, "atol": 1e-8}
NETWORKS = {
    "basic": lambda norm: ResNet3d(10, "mc3", 3, norm, width=4, zero_init_residual=False),
    "bottleneck": lambda norm: ResNet3d(50, "c2d", 3, norm, width=1),
    "pre-activation": lambda norm: ResNetV2_3d(50, "slow", 3, norm, nn.Conv3d, width=1),
    "vgg": lambda norm: VGG3d(11, 3, norm, width=2, dropout=0.0),
    "last_only": lambda norm: ResNet3d(10, "r2plus1d", 3, norm, width=4, norm_placement="last_only"),
}


def pair(make):
    """The network with accumulated and with plain batch norms, in training mode, of the same weights."""
    torch.manual_seed(0)
    ours, plain = (make(norm).double() for norm in (AccumulatedBatchNorm3d, BatchNorm3d))
    for parameter in ours.parameters():  # gammas and betas that tell channels apart
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def batches(*sizes, shape=(3, 3, 12, 12)):
    torch.manual_seed(1)
    clips = [3 + index + torch.randn(size, *shape, dtype=torch.float64) for index, size in enumerate(sizes)]
    return [of.requires_grad_() for of in clips], [torch.arange(size) % 3 for size in sizes]


def losses(labels, seen=None):
    """Sums, so that micro-batches of other sizes are weighed by their clips."""

    def loss(target, logits):
        if seen is not None:
            seen.append(logits.detach())
        return F.cross_entropy(logits, target, reduction="sum")

    return [partial(loss, target) for target in labels]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cut", [True, False], ids=["by block", "as a whole"])
def test_micro_batches_are_one_batch(name, cut, monkeypatch):
    if not cut:
        if name not in ("basic", "vgg"):
            pytest.skip("as deep networks go, two are enough")
        monkeypatch.delattr(NETWORKS[name].__globals__[{"basic": "ResNet3d", "vgg": "VGG3d"}[name]], "chain")
    ours, plain = pair(NETWORKS[name])
    clips, labels = batches(1, 2, 1)
    seen = []

    value = accumulated_loss(ours, clips, losses(labels, seen))
    value.backward()

    whole = torch.cat([of.detach() for of in clips]).requires_grad_()
    logits = plain(whole)
    want = F.cross_entropy(logits, torch.cat(labels), reduction="sum")
    want.backward()
    torch.testing.assert_close(torch.cat(seen), logits, **CLOSE)
    torch.testing.assert_close(value, want, **CLOSE)
    torch.testing.assert_close(torch.cat([of.grad for of in clips]), whole.grad, **CLOSE)
    scale = max(parameter.grad.abs().max() for parameter in plain.parameters())
    for got, parameter in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, parameter.grad, rtol=1e-6, atol=1e-9 * float(scale))
    for got, buffer in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got, buffer, **CLOSE)
