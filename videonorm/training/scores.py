"""The scores of every video of a data set, filled batch by batch and gathered over processes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.data.entries import UNLABELLED


class VideoScores:
    """A table with one row per video: what a sampler repeats counts once, what a bad video lacks not at all.

    Args:
        num_videos: rows N of the table; a video's row is its index in the manifest.
        num_classes: columns K.
        device: where the table lives; with DDP, a device that the process group can reduce.
    """

    def __init__(self, num_videos: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        # softmax, mean over the views
        self.probabilities = torch.zeros(num_videos, num_classes, device=device)
        # label, mean cross-entropy of a view, share of views whose top class is right, times seen
        self.facts = torch.zeros(num_videos, 4, device=device, dtype=torch.float64)

    def add(self, index: Tensor, label: Tensor, logits: Tensor) -> Tensor:
        """Enter videos ``index`` (B,) with ``label`` (B,) and ``logits`` (B, V, K) of their V views.

        Returns their probabilities (B, K): softmax, averaged over the views.
        """
        logits = logits.float()
        views = label[:, None].expand(logits.shape[:2])
        each = F.cross_entropy(
            logits.flatten(0, 1), views.flatten(), ignore_index=UNLABELLED, reduction="none"
        )
        loss = each.view_as(views).mean(dim=1)
        right = (logits.argmax(dim=-1) == views).double().mean(dim=1)
        probabilities = logits.softmax(dim=-1).mean(dim=1)
        self.probabilities[index] = probabilities
        self.facts[index] = torch.stack([label.double(), loss.double(), right, torch.ones_like(right)], dim=1)
        return probabilities

    def gather(self, reduce_sum: Callable[[Tensor], Tensor]) -> None:
        """Make the table whole on every process; ``reduce_sum`` adds a tensor up over them.

        A video that several processes saw (samplers repeat some to even their shares out) counts once.
        """
        self.probabilities = reduce_sum(self.probabilities)
        self.facts = reduce_sum(self.facts)
        times_seen = self.facts[:, 3:].clamp(min=1)
        self.probabilities /= times_seen.float()
        self.facts /= times_seen

    @property
    def scored(self) -> Tensor:
        """(N,) bool: the videos that have scores; bad ones have none."""
        return self.facts[:, 3] > 0

    @property
    def labels(self) -> Tensor:
        """(N,) int64; meaningless where not ``scored``."""
        return self.facts[:, 0].long()

    def metrics(self) -> dict[str, float]:
        """Means over the scored videos.

        top1 and top5: fractions, softmax averaged over the views (of fewer than five classes all count).
        clip_top1 and loss: over single views. videos: how many were scored.
        """
        scored = self.scored
        if not scored.any():
            return {"top1": 0.0, "top5": 0.0, "clip_top1": 0.0, "loss": float("nan"), "videos": 0.0}
        probabilities, labels = self.probabilities[scored], self.labels[scored]
        best = probabilities.topk(min(5, probabilities.shape[1])).indices == labels[:, None]
        _, loss, clip_top1, _ = self.facts[scored].mean(dim=0).tolist()
        return {
            "top1": best[:, 0].double().mean().item(),
            "top5": best.any(dim=1).double().mean().item(),
            "clip_top1": clip_top1,
            "loss": loss,
            "videos": float(len(labels)),
        }
