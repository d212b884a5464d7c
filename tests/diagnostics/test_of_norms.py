"""What recorders write of batch norms, against the same by hand."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from two_layers import ByHand, TwoLayers, batches, rows_of, train, values_of

from videonorm.diagnostics import BatchStatistics, Channels
from videonorm.errors import UserError
from videonorm.layers import AccumulatedBatchNorm3d, BatchNorm3d, GroupNorm3d
from videonorm.layers.effective_sizes import effective_sizes
from videonorm.training import VideoClassifier

GAMMA, BETA = np.array([1.0, 2.0, 0.5, 0.1]), np.array([0.0, 1.0, -0.5, -3.0])


@pytest.fixture
def network():
    torch.manual_seed(3)
    made = TwoLayers(BatchNorm3d).double()
    made.second.norm.weight.data[:] = torch.from_numpy(GAMMA)
    made.second.norm.bias.data[:] = torch.from_numpy(BETA)
    return made


def matrix(conv):
    return conv.weight.detach().numpy()[:, :, 0, 0, 0]


def normalized(x, eps=1e-5):
    """x (B, C, P), its variance (C,)."""
    variance = x.var(axis=(0, 2))
    return (x - x.mean(axis=(0, 2))[:, None]) / np.sqrt(variance + eps)[:, None], variance


def test_channels(tmp_path, network):
    clips, labels = batches()[:4]
    x, places = clips.flatten(2).numpy(), 8
    first = np.maximum(normalized(np.einsum("ci,bip->bcp", matrix(network.first.conv), x))[0], 0)
    x_hat, variance = normalized(np.einsum("ci,bip->bcp", matrix(network.second.conv), first))
    y = np.maximum(GAMMA[:, None] * x_hat + BETA[:, None], 0)
    head, bias = (of.detach().numpy().copy() for of in (network.head.weight, network.head.bias))
    by_logits = ByHand(y, labels.numpy(), [np.eye(4), np.eye(4), head, bias]).by_logits
    inner = (by_logits @ head)[..., None] / places * (y > 0)
    squares = (inner * x_hat).sum(axis=(0, 2)) ** 2 + inner.sum(axis=(0, 2)) ** 2
    scales = GAMMA * np.sqrt(variance / (variance + 1e-5))
    dead = (y == 0).all(axis=(0, 2))
    assert dead.tolist() == [False, False, False, True]

    train(tmp_path, [Channels()], network=network)
    rows = rows_of(tmp_path / "channels.csv", step=0)
    assert [(row["layer"], row["depth"]) for row in rows] == [("first.norm", "0"), ("second.norm", "1")]
    assert values_of(rows[0], ["spread_of_means", "dead"]) == pytest.approx([0, 0], abs=1e-12)
    assert rows[0]["grad_of_dead"] == "nan"
    expected = [BETA.std() / math.sqrt((scales**2).mean()), scales.std() / scales.mean(), 0.25]
    expected += [0.0, math.sqrt(squares[~dead].mean())]
    columns = Channels.tables["channels"][2:]
    assert values_of(rows[1], columns) == pytest.approx(expected, rel=1e-9)


def test_the_spread_of_channels_has_no_scale(tmp_path):
    """And a gamma of 0 has none."""
    torch.manual_seed(3)
    network = TwoLayers(partial(GroupNorm3d, num_groups=2)).double()
    found = []
    for scale in (1.0, 100.0, 0.0):
        for layer in (network.first, network.second):
            layer.norm.weight.data.fill_(scale)
            layer.norm.bias.data.zero_()
        train(tmp_path / str(scale), [Channels()], network=network, steps=1, lr=1e-9)
        row = rows_of(tmp_path / str(scale) / "channels.csv", step=0)[0]
        found.append(values_of(row, ["spread_of_means", "spread_of_scales"]))
    assert found[0] == pytest.approx(found[1]) and min(found[0]) > 0
    assert all(map(math.isnan, found[2]))


def test_a_training_of_too_few_clips_is_told(tmp_path):
    with pytest.warns(UserWarning, match="BatchStatistics has no table: training ended with 8 clips"):
        train(tmp_path, [BatchStatistics()], network=TwoLayers(BatchNorm3d))
    assert not list(tmp_path.glob("*.csv"))


def moments(x):
    """Of x (B, C, P) in all: mean and unbiased variance."""
    return x.mean(axis=(0, 2)), x.var(axis=(0, 2)) * x[:, 0].size / (x[:, 0].size - 1)


def apart(one, other, eps=1e-5):
    squares = (one[0] - other[0]) ** 2 + (np.sqrt(one[1]) - np.sqrt(other[1])) ** 2
    return math.sqrt((squares / (other[1] + eps)).mean())


def test_batch_statistics(tmp_path, network):
    """Of the first batch norm, which is fed what does not depend on others."""
    running = np.arange(4.0), 1 + np.arange(4.0)
    network.first.norm.running_mean[:] = torch.from_numpy(running[0])
    network.first.norm.running_var[:] = torch.from_numpy(running[1])
    network.first.norm.momentum = 0.0  # stays
    recorder = BatchStatistics(every_n_steps=2, clips=12)
    train(tmp_path, [recorder], network=network, steps=3, lr=1e-15)
    rows = rows_of(tmp_path / "batch_statistics.csv")
    assert [row["step"] for row in rows] == ["2", "2", "3", "3"]  # with the third batch of four

    x = np.einsum("ci,bip->bcp", matrix(network.first.conv), batches()[:12][0].flatten(2).numpy())
    to_batch = np.mean([apart(running, moments(x[start : start + 4])) for start in (0, 4, 8)])
    columns = ["running_to_batch", "running_to_precise"]
    assert values_of(rows[0], columns) == pytest.approx([to_batch, apart(running, moments(x))], rel=1e-9)

    # Every batch of four that can be drawn from the twelve clips.
    means, second = x.mean(axis=2), (x**2).mean(axis=2)
    drawn = np.array(np.meshgrid(*[np.arange(12)] * 4)).reshape(4, -1)
    of_mean = means[drawn].mean(axis=0)
    of_variance = second[drawn].mean(axis=0) - of_mean**2
    sizes = (
        x.var(axis=(0, 2)) / of_mean.var(axis=0),
        1 + 2 * of_variance.mean(axis=0) ** 2 / of_variance.var(axis=0),
    )
    assert float(rows[0]["n_eff"]) == pytest.approx(min(map(np.median, sizes)), rel=1e-9)


def test_batches_that_share_statistics_count_together(tmp_path):
    network = TwoLayers(AccumulatedBatchNorm3d).double()
    recorder = BatchStatistics(every_n_steps=2, clips=12)
    train(tmp_path, [recorder], network=network, steps=2, lr=1e-15, accumulate_grad_batches=2)
    row = rows_of(tmp_path / "batch_statistics.csv")[0]
    x = np.einsum("ci,bip->bcp", matrix(network.first.conv), batches()[:12][0].flatten(2).numpy())
    sizes = effective_sizes(x.mean(axis=2), x.var(axis=2), batch_size=8)
    assert float(row["n_eff"]) == pytest.approx(min(map(np.median, sizes)), rel=1e-9)


def test_frozen_batch_norms_are_those_that_take_no_statistics(network):
    """Whatever weights they have, and whether these are trained."""
    network.first.norm.requires_grad_(False)
    network.second.norm = torch.nn.BatchNorm3d(4, affine=False)
    BatchStatistics().require(network)
    VideoClassifier(network, torch.optim.SGD, freeze=["first"])
    BatchStatistics().require(network)
    VideoClassifier(network, torch.optim.SGD, freeze=["norms"])
    with pytest.raises(UserError, match="must have batch norms, and not frozen ones alone"):
        BatchStatistics().require(network)
