"""The scores of the videos that an evaluation sees, whoever loads them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from videonorm.data import Manifest
from videonorm.data.batches import Views, one_view
from videonorm.data.decoding.location import without_credentials
from videonorm.data.entries import UNLABELLED
from videonorm.errors import UserError
from videonorm.evaluation.scores import Network, VideoScores, view_logits

Reduce = Callable[[Tensor, str], Tensor]


class Scored(NamedTuple):
    """A row of the table."""

    path: str  # of the video; the number that its loader gave it, where that tells no paths
    label: int | None


class EpochScores:
    """Enters an epoch's batches into a table of scores: by our manifests' rows, or in the order they come in.

    Args:
        loaders: what Lightning evaluates on; it must be one.
        num_classes: of the network.
        device: where the table lives, so that NCCL can reduce it: 20,000 videos x 400 classes are 32 MB.
        rank, world_size: of this process. Another's loader deals its videos out in turn, as Lightning does.
    """

    def __init__(
        self, loaders: Any, num_classes: int, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> None:
        if isinstance(loaders, list | tuple) and len(loaders) != 1:
            raise UserError(f"data loaders to evaluate on ({len(loaders)}) must be one")
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        self.num_classes, self.device, self.rank, self.world_size = num_classes, device, rank, world_size
        manifest = getattr(getattr(loader, "dataset", None), "manifest", None)
        self._manifest = manifest if isinstance(manifest, Manifest) else None
        sampler = getattr(loader, "sampler", None)
        # Lightning's has some videos twice to even the shares out.
        self._videos = len(sampler.dataset) if isinstance(sampler, DistributedSampler) else None  # type: ignore[arg-type]
        # Rows, labels and logits, until it is known how large a table they make.
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self._count = 0
        self.table = VideoScores(len(self._manifest.entries) if self._manifest else 0, num_classes, device)

    def add(self, batch: Any, network: Network) -> Tensor:
        """Enter a batch on the device; returns the probabilities (B, K) of its videos."""
        if self._manifest is not None:
            views: Views = batch
            if not len(views.clips):
                return torch.zeros(0, self.num_classes)
            return self.table.add(views.rows, views.label, view_logits(network, views.clips))
        views = one_view(batch, self._count * self.world_size + self.rank, self.world_size)
        logits = view_logits(network, views.clips).detach()
        self._count += len(logits)
        self._seen.append((views.rows, views.label, logits))
        return logits.float().softmax(dim=-1).mean(dim=1)

    def finish(self, what: str, reduce: Reduce) -> VideoScores:
        """Make the table whole on every process.

        Args:
            what: was scored, for an error.
            reduce: a tensor over the processes, by "sum" or "max".

        Raises:
            UserError: scores are not finite.
        """
        if self._manifest is None:
            most = int(reduce(torch.tensor(self._count, device=self.device), "max")) * self.world_size
            self.table = VideoScores(self._videos or most, self.num_classes, self.device)
            for rows, label, logits in self._seen:
                self.table.add(rows % (self._videos or most), label, logits)
            self._seen = []
        self.table.gather(lambda tensor: reduce(tensor, "sum"))
        self.table.check_finite(what, lambda row: self.videos[row].path)
        return self.table

    @property
    def videos(self) -> list[Scored]:
        """Of every row."""
        if self._manifest is None:
            labels = self.table.labels.tolist()
            return [
                Scored(str(row), None if label == UNLABELLED else label) for row, label in enumerate(labels)
            ]
        labelled = self._manifest.labelled
        return [
            Scored(without_credentials(entry.path), entry.label if labelled else None)
            for entry in self._manifest.entries
        ]
