"""The scores of every video of a data set, and the accuracies that follow: one rule for all commands.

A video's probabilities are the softmax, averaged over its views. Where the label's probability equals that of
other classes, their order is taken to be random, and what counts is the expectation: of four classes with
equal probabilities the right one is first with 1/4. Scores that are not finite are no result but an error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from videonorm.data.entries import UNLABELLED
from videonorm.errors import UserError

Network = Callable[[Tensor], Tensor]


def view_logits(network: Network, views: Tensor) -> Tensor:
    """Logits (B, V, K) of all views (B, V, 3, T, H, W).

    As many clips at a time as there are videos: the memory of a plain batch, however many views there are.
    """
    clips = views.flatten(0, 1)  # side by side in memory: those of one view of each video would be copied
    logits = torch.cat([network(some) for some in torch.split(clips, len(views))])
    return logits.view(*views.shape[:2], *logits.shape[1:])


def _places(scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """How many of ``scores`` (..., K) are above that of ``label`` (...,), and how many are equal to it."""
    own = scores.gather(-1, label.unsqueeze(-1))
    return (scores > own).sum(dim=-1), (scores == own).sum(dim=-1)


def within(places: int, scores: Tensor, label: Tensor) -> Tensor:
    """The chance (...,) that ``label`` (...,) is among the first ``places`` of ``scores`` (..., K).

    It is 0 or 1, but where others have the label's own score: these come in random order. NaN where a score
    is NaN.
    """
    ahead, tied = _places(scores, label)
    chance = ((places - ahead) / tied.double()).clamp(0, 1)
    return chance.masked_fill(scores.isnan().any(dim=-1), torch.nan)


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
        # label, mean cross-entropy of a view, chance that a view's top class is right, times seen
        self._facts = torch.zeros(num_videos, 4, device=device, dtype=torch.float64)

    def add(self, index: Tensor, label: Tensor, logits: Tensor) -> Tensor:
        """Enter videos ``index`` (B,) with ``label`` (B,) and ``logits`` (B, V, K) of their V views.

        Returns their probabilities (B, K): softmax, averaged over the views.
        """
        logits = logits.float()
        views = label[:, None].expand(logits.shape[:2])
        each = F.cross_entropy(
            logits.flatten(0, 1), views.flatten(), ignore_index=UNLABELLED, reduction="none"
        )
        loss = each.view_as(views).double().mean(dim=1)
        right = within(1, logits, views.clamp(min=0)).mean(dim=1)
        probabilities = logits.softmax(dim=-1).mean(dim=1)
        self.probabilities[index] = probabilities
        self._facts[index] = torch.stack([label.double(), loss, right, torch.ones_like(right)], dim=1)
        return probabilities

    def gather(self, reduce_sum: Callable[[Tensor], Tensor]) -> None:
        """Make the table whole on every process; ``reduce_sum`` adds a tensor up over them.

        A video that several processes saw (samplers repeat some to even their shares out) counts once.
        """
        self.probabilities = reduce_sum(self.probabilities)
        self._facts = reduce_sum(self._facts)
        times_seen = self._facts[:, 3:].clamp(min=1)
        self.probabilities /= times_seen.float()
        self._facts /= times_seen

    def state(self, rows: range) -> dict[str, NDArray[Any]]:
        """All that is entered in some rows, for ``load``."""
        of = slice(rows.start, rows.stop)
        return {"probabilities": self.probabilities[of].numpy(), "facts": self._facts[of].numpy()}

    def load(self, rows: range, state: Mapping[str, NDArray[Any]]) -> None:
        """Enter a ``state``; ValueError where it is not of so many rows and these classes."""
        of = slice(rows.start, rows.stop)
        for name, table in (("probabilities", self.probabilities), ("facts", self._facts)):
            if state[name].shape != table[of].shape:
                raise ValueError(f"{name} {state[name].shape} must be {tuple(table[of].shape)}")
            table[of] = torch.from_numpy(state[name])

    def check_finite(self, what: str, name: Callable[[int], str]) -> None:
        """Raise UserError, naming the first video by its row, if ``what`` gave scores that are not finite."""
        wrong = (~self.probabilities.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if wrong:
            raise UserError(
                f"{what} must give finite scores, and gives none for {len(wrong)} of "
                f"{int(self.scored.sum())} videos, such as {name(wrong[0])}"
            )

    @property
    def scored(self) -> Tensor:
        """(N,) bool: the videos that have scores; bad ones have none."""
        return self._facts[:, 3] > 0

    @property
    def labels(self) -> Tensor:
        """(N,) int64; meaningless where not ``scored``."""
        return self._facts[:, 0].long()

    @property
    def loss(self) -> Tensor:
        """(N,) float64: cross-entropy, averaged over the views."""
        return self._facts[:, 1]

    def within(self, places: int) -> Tensor:
        """(N,) float64: the chance that the label is among the first ``places``; 0 where not ``scored``."""
        return within(places, self.probabilities, self.labels.clamp(min=0)) * self.scored

    @property
    def rank(self) -> Tensor:
        """(N,) float64: place of the label among the scores, from 1; the mean of them in random order."""
        ahead, tied = _places(self.probabilities, self.labels.clamp(min=0))
        return 1 + ahead + (tied - 1) / 2.0

    def metrics(self) -> dict[str, float]:
        """Means over the scored videos, nan where there are none.

        top1, top5 (of fewer than five classes all count) and mean_class_accuracy, the mean of the classes'
        own top1: fractions. clip_top1 and loss: over single views. videos: how many were scored.
        """
        scored = self.scored
        classes = [of["top1"] for of in self.classes()]
        return {
            "top1": self.within(1)[scored].mean().item(),
            "top5": self.within(5)[scored].mean().item(),
            "mean_class_accuracy": sum(classes) / len(classes) if classes else float("nan"),
            "clip_top1": self._facts[scored, 2].mean().item(),
            "loss": self.loss[scored].mean().item(),
            "videos": float(scored.sum()),
        }

    def classes(self, class_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The classes that have scored videos: label, name, videos, top1, top5."""
        labels = self.labels[self.scored]
        places = [self.within(k)[self.scored] for k in (1, 5)]
        found = []
        for label in sorted(set(labels.tolist())):
            of = labels == label
            top1, top5 = (chance[of].mean().item() for chance in places)
            name = class_names[label] if class_names else None
            found.append({"label": label, "name": name, "videos": int(of.sum()), "top1": top1, "top5": top5})
        return found
