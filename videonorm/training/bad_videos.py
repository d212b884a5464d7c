"""The bad videos that the processes of a run meet: brought together, in bad_videos.csv, and told the user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from videonorm.data import BadVideo, BadVideos, Split


class BadVideosOfRun(BadVideos):
    """As each process notes them; the first of them writes the file and speaks.

    Args:
        max_bad_fraction: share of a split's videos that may be bad before it is an error.
    """

    def __init__(self, max_bad_fraction: float) -> None:
        super().__init__()
        self.max_bad_fraction = max_bad_fraction
        self._here: list[BadVideo] = []  # met by this process since the processes last told each other

    def meet(self, trainer: Trainer, split: Split, videos: Sequence[BadVideo], num_videos: int) -> None:
        """Note bad videos that this process has met in a split, of ``num_videos``.

        Raises:
            UserError: more than ``max_bad_fraction`` of the split is bad.
        """
        self._here += videos
        self._note(trainer, split, videos, num_videos)

    def share(self, trainer: Trainer, split: Split, num_videos: int) -> None:
        """Tell the other processes, and the user, of the bad videos met; at the end of an epoch, by all."""
        if trainer.world_size > 1:
            found: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, self._here)
            self._note(trainer, split, [video for videos in found for video in videos], num_videos)
        self._here = []
        if trainer.is_global_zero:
            self.warn_of_new(split)

    def _note(self, trainer: Trainer, split: Split, videos: Sequence[BadVideo], num_videos: int) -> None:
        if not self.add(split, videos):
            return
        if trainer.is_global_zero:
            self.write(Path(trainer.default_root_dir) / "bad_videos.csv")
        self.check(split, num_videos, self.max_bad_fraction)
