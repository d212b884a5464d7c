"""From the scores of videos to accuracies: over all of them, and class by class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def rank_of_label(probabilities: Tensor, labels: Sequence[int]) -> list[int]:
    """Place of each video's label among its scores (B, K), from 1; of equal scores the lower class leads."""
    label = torch.tensor(labels)[:, None]
    own = probabilities.gather(1, label)
    tied_before = (probabilities == own) & (torch.arange(probabilities.shape[1]) < label)
    ranks: list[int] = (1 + (probabilities > own).sum(dim=1) + tied_before.sum(dim=1)).tolist()
    return ranks


def accuracy(
    labels: Sequence[int], ranks: Sequence[int], class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Accuracies, as fractions, of videos with these labels, ranked by `rank_of_label`.

    Returns:
        top1 and top5 over all videos; mean_class_accuracy, the mean of the classes' own top1; classes, those
        that have videos: label, name, videos, top1, top5.
    """

    def within(place: int, of: Sequence[int]) -> float:
        return sum(rank <= place for rank in of) / len(of)

    ranks_of_class: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for label, rank in zip(labels, ranks, strict=True):
        ranks_of_class[label].append(rank)
    classes = [
        {
            "label": label,
            "name": class_names[label] if class_names else None,
            "videos": len(of),
            "top1": within(1, of),
            "top5": within(5, of),
        }
        for label, of in ranks_of_class.items()
    ]
    return {
        "top1": within(1, ranks),
        "top5": within(5, ranks),
        "mean_class_accuracy": sum(within(1, of) for of in ranks_of_class.values()) / len(classes),
        "classes": classes,
    }
