"""What recorders write of a network of two layers without norms, against the same by hand."""

import math

import numpy as np
import pytest
import torch
from two_layers import ByHand, TwoLayers, batches, rows_of, train, values_of

from videonorm.diagnostics import (
    Activations,
    Generalization,
    LargestLearningRate,
    LogitGradients,
    LossLandscape,
)
from videonorm.diagnostics.activations import log_slope
from videonorm.errors import UserError


@pytest.fixture
def about_to_train():
    """A network that is about to train, and the same on its first batch by hand."""
    torch.manual_seed(2)
    network = TwoLayers().double()
    x, labels = batches()[:4]
    weights = [network.first.conv.weight, network.second.conv.weight, network.head.weight, network.head.bias]
    arrays = [weight.detach().numpy().copy() for weight in weights]
    flat = [array.reshape(array.shape[:2]) for array in arrays]
    return network, ByHand(x.flatten(2).numpy(), labels.numpy(), flat)


def test_activations(tmp_path, about_to_train):
    network, hand = about_to_train
    network.first.conv.weight.data[0] = 0.0  # a channel that is never anything else
    hand.weights[0][0] = 0.0
    hand.__post_init__()
    train(tmp_path, [Activations()], network=network)
    rows = rows_of(tmp_path / "activations.csv", step=0)
    assert [(row["block"], row["depth"]) for row in rows] == [("first", "0"), ("second", "1")]
    for row, y, by_y in zip(rows, (hand.y1, hand.y2), (hand.by_y1, hand.by_y2), strict=True):
        expected = [y.mean(), abs(y).mean(), y.var(), abs(y).max(), (y == 0).all(axis=(0, 2)).mean()]
        expected += [abs(by_y).mean(), by_y.var(), abs(by_y).max()]
        assert values_of(row, Activations.tables["activations"][2:]) == pytest.approx(expected, rel=1e-12)
    assert float(rows[0]["zero_channels"]) == 0.25
    (slopes,) = rows_of(tmp_path / "activation_slopes.csv", step=0)
    expected = [
        math.log10(second / first)
        for first, second in (
            (abs(hand.y1).mean(), abs(hand.y2).mean()),
            (abs(hand.by_y1).mean(), abs(hand.by_y2).mean()),
        )
    ]
    assert values_of(slopes, ["slope_mean_abs", "slope_grad_mean_abs"]) == pytest.approx(expected, rel=1e-12)
    assert {row["step"] for row in rows_of(tmp_path / "activations.csv")} == {"0", "2"}  # and the end


def test_a_slope_does_not_hide_what_is_not_finite():
    assert log_slope([1.0, 10.0, 100.0]) == pytest.approx(1)
    for magnitudes in ([1.0, math.inf, 2.0], [1.0, 0.0, 2.0], [1.0, math.nan, 2.0], [1.0]):
        assert math.isnan(log_slope(magnitudes))


def test_logit_gradients(tmp_path, about_to_train):
    network, hand = about_to_train
    train(tmp_path, [LogitGradients()], network=network)
    (row,) = rows_of(tmp_path / "logit_gradients.csv", step=0)
    pushed = np.maximum(hand.by_logits, 0).sum(axis=0)
    assert float(row["top_column_share"]) == pytest.approx(pushed.max() / pushed.sum(), rel=1e-12)

    of_clips = [np.outer(g, f).ravel() for g, f in zip(hand.by_logits, hand.features, strict=True)]
    pairs = [a @ b for i, a in enumerate(of_clips) for j, b in enumerate(of_clips) if i != j]
    alike = np.mean(pairs) / np.mean([a @ a for a in of_clips])
    assert float(row["input_dependence"]) == pytest.approx(1 - alike, rel=1e-12)

    values = hand.gradient[1].ravel()  # of the second of two convolutions
    centred = values - values.mean()
    kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
    assert float(row["kurtosis"]) == pytest.approx(kurtosis, rel=1e-12)


def test_gradients_that_are_the_same_for_all_clips(tmp_path, about_to_train):
    """A network that is sure of one class whatever the clip, as deep ones without norms are."""
    network, _ = about_to_train
    network.head.weight.data.zero_()
    network.head.bias.data[:] = network.head.bias.data.new_tensor([50.0, 0.0, 0.0])
    train(tmp_path, [LogitGradients()], network=network)
    (row,) = rows_of(tmp_path / "logit_gradients.csv", step=0)
    assert float(row["top_column_share"]) == pytest.approx(1)
    assert row["kurtosis"] == "nan"  # nothing passes the head


def test_loss_landscape(tmp_path, about_to_train):
    network, hand = about_to_train
    train(tmp_path, [LossLandscape(min_step=0.01, max_step=100.0, per_decade=1)], network=network)
    rows = rows_of(tmp_path / "loss_landscape.csv", step=0)
    assert [float(row["step_size"]) for row in rows] == pytest.approx([0.01, 0.1, 1, 10, 100])

    def length(arrays):
        return math.sqrt(sum((array**2).sum() for array in arrays))

    there = [hand.after(float(row["step_size"])) for row in rows]
    ratios = [of.loss / hand.loss for of in there]
    distances = [length([a - b for a, b in zip(of.gradient, hand.gradient, strict=True)]) for of in there]
    assert [float(row["loss_ratio"]) for row in rows] == pytest.approx(ratios, rel=1e-10)
    assert [float(row["grad_distance"]) for row in rows] == pytest.approx(distances, rel=1e-8)

    (summary,) = rows_of(tmp_path / "loss_landscape_summary.csv", step=0)
    sizes = [0.01, 0.1, 1, 10, 100]
    lower = [size for size, ratio in zip(sizes, ratios, strict=True) if ratio <= 1]
    assert 0 < len(lower) < 5
    steepness = [d / (s * length(hand.gradient)) for d, s in zip(distances, sizes, strict=True)]
    expected = [max(lower), max(distances), max(steepness), length(hand.gradient), length(hand.weights)]
    columns = LossLandscape.tables["loss_landscape_summary"]
    assert values_of(summary, columns) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_largest_learning_rate(tmp_path, about_to_train, momentum):
    """By a training at each of the learning rates of the grid."""
    network, hand = about_to_train
    recorder = LargestLearningRate(min_lr=0.1, max_lr=1e4, steps=5, limit=1.5)
    assert len(recorder.grid) == 21 and recorder.grid[4] == pytest.approx(1)

    def is_stable(lr):
        here, speed = hand, [0.0] * 4
        for _ in range(5):
            speed = [momentum * v + g for v, g in zip(speed, here.gradient, strict=True)]
            moved = [w - lr * v for w, v in zip(here.weights, speed, strict=True)]
            here = ByHand(hand.x, hand.labels, moved)
            if not here.loss <= 1.5 * hand.loss:
                return False
        return True

    stable = [is_stable(lr) for lr in recorder.grid]
    assert stable == sorted(stable, reverse=True) and 0 < sum(stable) < 21
    train(tmp_path, [recorder], network=network, momentum=momentum)
    (row,) = rows_of(tmp_path / "largest_learning_rate.csv")
    assert float(row["largest_lr"]) == pytest.approx(recorder.grid[sum(stable) - 1])
    assert row["step"] == "0"


def test_the_ends_of_the_grid(tmp_path, about_to_train):
    network, _ = about_to_train
    for min_lr, max_lr, expected in ((1e-4, 1e-3, 1e-3), (1e6, 1e7, 0.0)):
        train(tmp_path, [LargestLearningRate(min_lr, max_lr, steps=2)], network=network, steps=1)
        (row,) = rows_of(tmp_path / "largest_learning_rate.csv")
        assert float(row["largest_lr"]) == pytest.approx(expected)


def test_generalization(tmp_path):
    """Of the trained network, in evaluation mode, on the first eight clips."""
    torch.manual_seed(2)
    network = TwoLayers(dropout=0.5)
    train(tmp_path, [Generalization(clips=8)], network=network, steps=3)
    x, labels = batches()[:8]
    weights = [network.first.conv.weight, network.second.conv.weight, network.head.weight, network.head.bias]
    flat = [weight.detach().numpy().reshape(weight.shape[:2]) for weight in weights]
    hand = ByHand(x.flatten(2).numpy(), labels.numpy(), flat)
    right = ((hand.features @ flat[2].T + flat[3]).argmax(axis=1) == hand.labels).mean()
    (row,) = rows_of(tmp_path / "generalization.csv")
    assert row["step"] == "3" and row["val_loss"] == row["gap"] == "nan"  # there was no validation
    assert values_of(row, ["train_loss", "train_top1"]) == pytest.approx([hand.loss, right], rel=1e-6)


@pytest.mark.parametrize(
    "make, mistake",
    [
        (lambda: Activations(0), r"every_n_steps \(0\) must be at least 1"),
        (lambda: Generalization(0), r"clips \(0\) must be at least 1"),
        (lambda: LargestLearningRate(min_lr=0.0), r"min_lr \(0\) must be above 0"),
        (lambda: LargestLearningRate(1.0, 0.1), r"max_lr \(0.1\) must be at least min_lr \(1\)"),
        (lambda: LargestLearningRate(steps=0), r"steps \(0\) must be at least 1"),
        (lambda: LargestLearningRate(limit=1.0), r"limit \(1\) must be above 1"),
        (lambda: LossLandscape(per_decade=0), r"per_decade \(0\) must be at least 1"),
    ],
)
def test_mistakes(make, mistake):
    with pytest.raises(UserError, match=mistake):
        make()
