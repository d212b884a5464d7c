"""Which frames make a clip: pure integer arithmetic, no files.

A clip is ``num_frames`` frames, ``frame_stride`` source frames apart. A start is the source frame of its
first.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from videonorm.errors import UserError

ClipStarts = Literal["linspace", "slowfast", "offset"]
ShortVideo = Literal["loop", "repeat_last", "error"]


def clip_span(num_frames: int, frame_stride: int) -> int:
    """Source frames from the first to the last of a clip: (num_frames - 1) * frame_stride + 1."""
    return (num_frames - 1) * frame_stride + 1


def random_clip_start(video_frames: int, num_frames: int, frame_stride: int, rng: Random) -> int:
    """A start drawn evenly among all that fit, the last one included; 0 for a video shorter than the clip."""
    return rng.randint(0, max(video_frames - clip_span(num_frames, frame_stride), 0))


def uniform_clip_starts(
    video_frames: int, num_frames: int, frame_stride: int, num_clips: int, rule: ClipStarts
) -> list[int]:
    """Starts of ``num_clips`` clips spread over a video, by the rule of one of the published test protocols.

    With ``last`` the last start that fits (0 for a short video) and i = 0 .. num_clips - 1:

    - ``linspace``: round(last * i / (num_clips - 1)), halves up; the last clip reaches the end (MMAction2;
      PyTorchVideo without the rounding).
    - ``slowfast``: floor(last * i / num_clips); the last clip does not reach the end (PySlowFast).
    - ``offset``: floor(last / (num_clips - 1)) * i (PySlowFast with USE_OFFSET_SAMPLING).

    A single clip is centred under every rule.
    """
    last = max(video_frames - clip_span(num_frames, frame_stride), 0)
    if num_clips == 1:
        return [last // 2]
    gaps = num_clips - 1
    match rule:
        case "linspace":
            return [(2 * last * i + gaps) // (2 * gaps) for i in range(num_clips)]
        case "slowfast":
            return [last * i // num_clips for i in range(num_clips)]
        case "offset":
            return [last // gaps * i for i in range(num_clips)]


def frame_indices(
    start: int, num_frames: int, frame_stride: int, video_frames: int, short_video: ShortVideo
) -> list[int]:
    """The source frames of a clip.

    Args:
        short_video: for frames past the end of the video, ``loop`` begins again at its first frame and
            ``repeat_last`` stays on its last.

    Raises:
        ValueError: the clip does not fit, under ``error``.
    """
    stop = start + clip_span(num_frames, frame_stride)
    indices = range(start, stop, frame_stride)
    if stop <= video_frames:
        return list(indices)
    match short_video:
        case "loop":
            return [i % video_frames for i in indices]
        case "repeat_last":
            return [min(i, video_frames - 1) for i in indices]
        case "error":
            raise ValueError(
                f"{num_frames} frames at frame_stride {frame_stride} do not fit into its {video_frames}"
            )


@dataclass(frozen=True)
class Sampling(ABC):
    """How a dataset takes ``num_clips`` clips from a video."""

    num_frames: int
    frame_stride: int
    num_clips: int = 1

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name} ({value}) must be at least 1")

    @property
    def span(self) -> int:
        """Source frames from the first to the last of a clip."""
        return clip_span(self.num_frames, self.frame_stride)

    def drawn(self, rng: Random) -> "Sampling":
        """What is taken from one video, where that is drawn."""
        return self

    @abstractmethod
    def starts(self, video_frames: int, rng: Random) -> list[int]: ...


class RandomClips(Sampling):
    """Clips at random starts, as in training."""

    def starts(self, video_frames: int, rng: Random) -> list[int]:
        clip = self.num_frames, self.frame_stride
        return [random_clip_start(video_frames, *clip, rng) for _ in range(self.num_clips)]


@dataclass(frozen=True)
class StretchedClips(RandomClips):
    """Random clips whose frames are up to ``stretch`` times as far apart, drawn for each video."""

    stretch: int = 1

    def drawn(self, rng: Random) -> Sampling:
        frame_stride = rng.randint(self.frame_stride, self.frame_stride * self.stretch)
        return RandomClips(self.num_frames, frame_stride, self.num_clips)


@dataclass(frozen=True)
class UniformClips(Sampling):
    """Clips spread over the video, as in validation and test; nothing random."""

    rule: ClipStarts = "linspace"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in get_args(ClipStarts):
            raise UserError(f"clip_starts ({self.rule}) must be linspace, slowfast or offset")

    def starts(self, video_frames: int, rng: Random) -> list[int]:
        clip = self.num_frames, self.frame_stride
        return uniform_clip_starts(video_frames, *clip, self.num_clips, self.rule)
