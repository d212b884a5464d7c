"""MimicNorm: one batch norm of the logits, and large filters of mean 0."""

from functools import partial

import pytest
import torch
from torch import nn

from videonorm.layers import BatchNorm3d, NoNorm, WSCenterOnlyConv3d, is_norm
from videonorm.models import ResNet3d, fold
from videonorm.training.network_parts import parameter_groups


@pytest.fixture
def network():
    torch.manual_seed(0)
    conv = partial(WSCenterOnlyConv3d, min_fan_in=51)
    return ResNet3d(10, "r3d", 5, BatchNorm3d, conv, width=4, norm_placement="logits").double()


def test_logits_are_normalized_over_the_batch_alone(network):
    seen = []
    network.head.register_forward_hook(lambda head, args, logits: seen.append(logits))
    clips = torch.randn(4, 3, 4, 16, 16, dtype=torch.float64)
    logits = network(clips)
    (raw,) = seen
    want = (raw - raw.mean(0)) / torch.sqrt(raw.var(0, correction=0) + 1e-5)
    torch.testing.assert_close(logits, want)
    network.eval()
    scale = torch.rsqrt(network.logits_norm.running_var + 1e-5)
    torch.testing.assert_close(network(clips), (raw - network.logits_norm.running_mean) * scale)


def test_it_is_the_only_norm_and_nothing_of_it_is_learnt(network):
    norms = [module for module in network.modules() if is_norm(module) and not isinstance(module, NoNorm)]
    assert norms == [network.logits_norm]
    assert all(conv.bias is not None for conv in network.modules() if isinstance(conv, nn.Conv3d))
    learnt = [id(p) for group in parameter_groups(network, False) for p in group["params"]]
    assert len(learnt) == len(list(network.parameters())) - 2
    assert not {id(p) for p in network.logits_norm.parameters()} & set(learnt)


def test_only_filters_of_more_than_fifty_weights_are_centred(network):
    centred = {}
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv3d)):
        weight, mean = conv.weight, conv.weight.mean((1, 2, 3, 4), keepdim=True)
        is_large = conv.weight[0].numel() > 50
        torch.testing.assert_close(conv.effective_weight(), weight - mean if is_large else weight)
        centred[is_large] = True
    assert set(centred) == {True, False}  # shortcuts have 4 to 16


def test_filters_move_as_if_centred_after_every_step():
    """As in the source's code: SGD, momentum, weight decay."""
    torch.manual_seed(0)
    ours = WSCenterOnlyConv3d(6, 4, 3, min_fan_in=51).double()
    theirs = nn.Conv3d(6, 4, 3).double()
    theirs.load_state_dict(ours.state_dict())

    def centre():
        with torch.no_grad():
            theirs.weight -= theirs.weight.mean((1, 2, 3, 4), keepdim=True)

    centre()
    clips = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    steps = [torch.optim.SGD(of.parameters(), 0.1, momentum=0.9, weight_decay=0.01) for of in (ours, theirs)]
    for _ in range(4):
        for conv, optimizer in zip((ours, theirs), steps, strict=True):
            optimizer.zero_grad()
            conv(clips).sin().sum().backward()
            optimizer.step()
        centre()
    torch.testing.assert_close(ours.effective_weight(), theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_folds_into_plain_convolutions_with_the_norm_of_the_logits_left(network):
    clips = torch.randn(4, 3, 4, 16, 16, dtype=torch.float64)
    network(clips)
    want = network.eval()(clips)
    report = fold(network, clips.shape)
    (left,) = report.left
    assert left.name == "logits_norm" and left.reason == "what it normalizes is not what a Conv3d gives"
    assert all(type(m) is nn.Conv3d for m in network.modules() if isinstance(m, nn.Conv3d))
    torch.testing.assert_close(network(clips), want)
