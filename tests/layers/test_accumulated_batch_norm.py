"""k micro-batches against one batch of all their clips through BatchNorm3d, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videonorm.layers import (
    AccumulatedBatchNorm3d,
    BatchNorm3d,
    SubBatchNorm3d,
    WSConv3d,
    accumulated_loss,
)
from videonorm.models import ResNet3d, ResNetV2_3d, VGG3d

CLOSE = {"rtol": 1e-6, "atol": 1e-8}
NETWORKS = {
    "basic": lambda norm: ResNet3d(10, "c2d", 3, norm, WSConv3d, width=2),
    "last_only": lambda norm: ResNet3d(10, "mc3", 3, norm, width=2, norm_placement="last_only"),
}
SLOW_NETWORKS = {
    "vgg": lambda norm: VGG3d(11, 3, norm, width=2, dropout=0.0),
    "bottleneck": lambda norm: ResNet3d(50, "i3d", 3, norm, width=1),
    "pre-activation": lambda norm: ResNetV2_3d(50, "slow", 3, norm, nn.Conv3d, width=1),
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


def assert_one_batch(ours, plain, sizes):
    """Of these micro-batches outputs, gradients and running statistics are those of one batch."""
    clips, labels = batches(*sizes)
    seen = []

    value = accumulated_loss(ours, clips, losses(labels, seen))
    (3 * value).backward()

    whole = torch.cat([of.detach() for of in clips]).requires_grad_()
    logits = plain(whole)
    want = F.cross_entropy(logits, torch.cat(labels), reduction="sum")
    (3 * want).backward()
    torch.testing.assert_close(torch.cat(seen), logits, **CLOSE)
    torch.testing.assert_close(value, want, **CLOSE)
    torch.testing.assert_close(torch.cat([of.grad for of in clips]), whole.grad, **CLOSE)
    for got, parameter in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, parameter.grad, **CLOSE)
    for got, buffer in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got, buffer, **CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
def test_micro_batches_are_one_batch(name):
    assert_one_batch(*pair(NETWORKS[name]), (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_NETWORKS)
def test_micro_batches_are_one_batch_in_other_networks(name):
    assert_one_batch(*pair(SLOW_NETWORKS[name]), (1, 2, 1))


def test_of_a_network_that_is_not_cut():
    ours, plain = pair(lambda norm: Small(norm, dropout=0.0))
    assert not hasattr(ours, "chain")
    assert_one_batch(ours, plain, (2, 2))


@pytest.mark.parametrize("name", {**NETWORKS, **SLOW_NETWORKS})
def test_chain_is_forward(name):
    network, _ = pair({**NETWORKS, **SLOW_NETWORKS}[name])
    network.eval()
    (clips,), _ = batches(2, shape=(3, 5, 9, 9))
    x = clips
    for part in network.chain():
        x = part(x)
    assert torch.equal(x, network(clips))


class Small(nn.Module):
    """Two norms in a row, and dropout between them."""

    def __init__(self, norm=AccumulatedBatchNorm3d, dropout=0.5):
        super().__init__()
        self.norm1, self.conv, self.norm2 = norm(3), nn.Conv3d(3, 4, 1), norm(4)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        y = self.norm2(self.conv(self.dropout(self.norm1(x))), residual=None)
        return y.square().mean(dim=(2, 3, 4))


def test_dropout_is_the_same_in_every_pass():
    torch.manual_seed(0)
    network = Small().double()
    clips, labels = batches(2, 1)

    def value():
        torch.manual_seed(5)
        return accumulated_loss(network, clips, losses(labels))

    value().backward()
    weight, step = network.conv.weight, 1e-6
    grad = weight.grad.clone()
    with torch.no_grad():
        weight[1, 2] += step
    above = value()
    with torch.no_grad():
        weight[1, 2] -= 2 * step
    below = value()
    torch.testing.assert_close(grad[1, 2].sum(), (above - below) / (2 * step), rtol=1e-5, atol=1e-7)
    assert not torch.equal(value(), accumulated_loss(network, clips, losses(labels)))  # and is drawn anew


def test_autocast_trains_the_same_weights():
    network, plain = Small(dropout=0.0), Small(BatchNorm3d, dropout=0.0)
    plain.load_state_dict(network.state_dict())
    clips, labels = batches(2, 2)
    clips = [of.detach().float() for of in clips]
    with torch.autocast("cpu", torch.bfloat16):
        accumulated_loss(network, clips, losses(labels)).backward()
        F.cross_entropy(plain(torch.cat(clips)), torch.cat(labels), reduction="sum").backward()
    for got, want in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=0.05, atol=0.05)


def test_frozen_norms_stay_out():
    network = Small(dropout=0.0).double()
    network.norm1.eval()
    clips, labels = batches(1, 1)
    accumulated_loss(network, clips, losses(labels)).backward()
    assert network.norm1.num_batches_tracked == 0 and network.norm2.num_batches_tracked == 1
    assert network.norm1.weight.grad is not None and network.norm2._shared is None


def test_elsewhere_it_is_batch_norm():
    x = torch.randn(4, 3, 2, 3, 3)
    assert torch.equal(AccumulatedBatchNorm3d(3)(x), BatchNorm3d(3)(x))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = AccumulatedBatchNorm3d(3)

    def forward(self, x):
        return self.norm(self.norm(x)).mean(dim=(2, 3, 4))


@pytest.mark.parametrize(
    "network, sizes, message",
    [
        (
            nn.Sequential(AccumulatedBatchNorm3d(3), SubBatchNorm3d(3)),
            (2, 2),
            r"norm \(SubBatchNorm3d\) must not",
        ),
        (Twice(), (2, 2), r"must be called once in a forward, not 4 times in 2"),
        (Small(), (1,), r"batch_size \* accumulated batches \(1\) must be at least 2"),
    ],
)
def test_what_cannot_be_shared_is_refused(network, sizes, message):
    clips, labels = batches(*sizes)
    with pytest.raises(ValueError, match=message):
        accumulated_loss(network.double(), clips, losses(labels))
    assert all(getattr(module, "_shared", None) is None for module in network.modules())
