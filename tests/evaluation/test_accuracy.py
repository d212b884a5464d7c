import pytest
import torch

from videonorm.evaluation.accuracy import accuracy, rank_of_label


def test_rank_of_label() -> None:
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    assert rank_of_label(probabilities, [0, 0, 1]) == [3, 1, 2]


def test_accuracy_by_hand() -> None:
    # label: 0 0 0 2; rank of the label among the scores: 1 1 6 5
    result = accuracy([0, 0, 0, 2], [1, 1, 6, 5], ["left", "right", "still"])
    assert result["top1"] == pytest.approx(2 / 4)
    assert result["top5"] == pytest.approx(3 / 4)
    assert result["mean_class_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert result["classes"] == [
        {"label": 0, "name": "left", "videos": 3, "top1": 2 / 3, "top5": 2 / 3},
        {"label": 2, "name": "still", "videos": 1, "top1": 0.0, "top5": 1.0},
    ]
