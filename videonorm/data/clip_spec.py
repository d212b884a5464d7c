"""What a network is fed: one description, from the data module through the checkpoint to the artifact."""

from dataclasses import dataclass

import torch

from videonorm.data.dataset import VideoDataset
from videonorm.data.decoding import Decoder
from videonorm.data.manifest import Manifest
from videonorm.data.sampling import ClipStarts, ShortVideo, SlidingClips, UniformClips
from videonorm.data.transforms import EvalTransform


@dataclass(frozen=True)
class ClipSpec:
    """The clips that a network is judged on: their frames, see ``Sampling``, and their size in pixels.

    Validation, `test`, `predict`, `evaluate` and `classify` take their clips from here alone, so that one
    video gives one row, whoever asks.
    """

    num_frames: int
    frame_stride: int | None
    crop_size: int
    short_side: int | None  # frames are resized to it before the crop; None leaves them as they are
    mean: list[float]  # of R, G and B in [0, 1]
    std: list[float]
    clip_starts: ClipStarts
    short_video: ShortVideo
    frames_per_second: float | None = None  # earlier checkpoints and cards do not know it

    def __post_init__(self) -> None:
        self.sampling(num_clips=1)  # which checks it: a card is a file that anyone may edit

    def sampling(self, num_clips: int) -> UniformClips:
        """``num_clips`` clips of each video."""
        clip = self.num_frames, self.frame_stride
        return UniformClips(*clip, num_clips, self.clip_starts, frames_per_second=self.frames_per_second)

    def windows(self, frame_rate: float, step_seconds: float | None = None) -> SlidingClips:
        """Clips over the whole of a video of so many frames a second; see ``SlidingClips``."""
        clip = self.num_frames, self.frame_stride
        if step_seconds is None or self.frames_per_second is not None:
            return SlidingClips(*clip, frames_per_second=self.frames_per_second, step=step_seconds)
        return SlidingClips(*clip, step=max(step_seconds * frame_rate, 1))

    def dataset(
        self, manifest: Manifest, num_clips: int, *, decoder: Decoder = "auto", cache_mib: float = 0
    ) -> VideoDataset:
        """The videos of ``manifest``, ``num_clips`` clips of each; a bad one is named, never replaced."""
        return VideoDataset(
            manifest,
            self.sampling(num_clips),
            decoder=decoder,
            short_side=self.short_side,
            replace_bad=False,
            short_video=self.short_video,
            cache_mib=cache_mib,
        )

    def transform(
        self, num_crops: int, *, channels_last: bool, dtype: torch.dtype = torch.float32
    ) -> EvalTransform:
        """From the batches of ``dataset`` to all their views (B, num_clips * num_crops, 3, T, H, W)."""
        return EvalTransform(self.crop_size, self.mean, self.std, num_crops, channels_last, dtype=dtype)
