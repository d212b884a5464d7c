"""Which frames make a clip: pure arithmetic, no files.

A clip is ``num_frames`` frames. Either they are ``frame_stride`` source frames apart: a start is then the
source frame of its first. Or they are those nearest to times that are 1 / ``frames_per_second`` apart,
whatever the rate of the video: a start is then the first of these times, in seconds after the first frame of
the video, or of the stretch of it that clips are taken from.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from random import Random
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from videonorm.errors import UserError

ClipStarts = Literal["linspace", "slowfast", "offset"]
ShortVideo = Literal["loop", "repeat_last", "error"]

_ROUNDING = 1e-6  # seconds, of times that are sums


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


def uniform_start_times(latest: float, num_clips: int, rule: ClipStarts) -> list[float]:
    """``uniform_clip_starts`` in time, where nothing is rounded, and offset is linspace.

    Args:
        latest: the latest start that fits; 0 for a short video.
    """
    if num_clips == 1:
        return [latest / 2]
    gaps = num_clips if rule == "slowfast" else num_clips - 1
    return [latest * i / gaps for i in range(num_clips)]


def frame_duration(seconds: NDArray[np.float64], frames_per_second: float) -> float:
    """How long the last frame is shown: as long as the others on average, or a single one as in a clip."""
    return float(seconds[-1]) / (len(seconds) - 1) if len(seconds) > 1 else 1 / frames_per_second


def nearest_frames(
    start: float,
    num_frames: int,
    frames_per_second: float,
    seconds: NDArray[np.float64],
    short_video: ShortVideo,
) -> NDArray[np.int64]:
    """The source frames that are nearest to the times of a clip, of two that are as near the earlier.

    Args:
        seconds: (N,) times of all frames, increasing from 0.
        short_video: for times that are nearer to the end of the last frame (``frame_duration``) than to its
            beginning, ``loop`` begins again at the first frame and ``repeat_last`` stays on the last.

    Returns:
        (num_frames,) indices; a frame comes again where the video has fewer of them than the clip.

    Raises:
        ValueError: there is such a time, under ``error``.
    """
    end = seconds[-1] + frame_duration(seconds, frames_per_second)
    # (N,) times beyond which the next frame is the nearer one; after the last that is frame N, which is none.
    borders = (seconds + np.append(seconds[1:], end)) / 2 + _ROUNDING
    times = start + np.arange(num_frames) / frames_per_second
    indices = np.searchsorted(borders, times)
    if indices[-1] < len(seconds):
        return indices
    match short_video:
        case "loop":
            again: NDArray[np.int64] = np.searchsorted(borders, times % end) % len(seconds)
            return again
        case "repeat_last":
            return np.minimum(indices, len(seconds) - 1)
        case "error":
            clip = f"{num_frames} frames at frames_per_second {frames_per_second:g}"
            raise ValueError(f"{clip} do not fit into its {end:.2f} s")


@dataclass(frozen=True)
class Sampling(ABC):
    """How a dataset takes ``num_clips`` clips from a video.

    Exactly one of ``frame_stride`` and ``frames_per_second`` is given. Lengths are in source frames with the
    one, in seconds with the other.
    """

    num_frames: int
    frame_stride: int | None = None
    num_clips: int = 1
    frames_per_second: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} ({value}) must be at least 1")
        rate = self.frames_per_second
        if rate is not None and not 0 < rate < float("inf"):
            raise UserError(f"frames_per_second ({rate:g}) must be above 0")
        if rate is not None and self.frame_stride is not None:
            raise UserError(
                f"frame_stride ({self.frame_stride}) must be null beside frames_per_second ({rate:g})"
            )
        if rate is None and self.frame_stride is None:
            raise UserError("frame_stride (null) must be given, or frames_per_second in its place")

    def __str__(self) -> str:
        if self.frames_per_second is None:
            return f"{self.num_frames} frames at frame_stride {self.frame_stride}"
        return f"{self.num_frames} frames at frames_per_second {self.frames_per_second:g}"

    @property
    def span(self) -> float:
        """From the first to the last of a clip."""
        if self.frames_per_second is None:
            assert self.frame_stride is not None
            return clip_span(self.num_frames, self.frame_stride)
        return (self.num_frames - 1) / self.frames_per_second

    def length(self, seconds: NDArray[np.float64]) -> float:
        """What the ``span`` of a clip must not exceed to fit into a video with frames at ``seconds``."""
        if self.frames_per_second is None:
            return len(seconds)
        return float(seconds[-1]) + frame_duration(seconds, self.frames_per_second) / 2 + _ROUNDING

    def in_words(self, length: float) -> str:
        """A length as a sentence has it."""
        return f"{length:g}" if self.frames_per_second is None else f"{length:.2f} s"

    def clips(self, seconds: NDArray[np.float64], rng: Random, short_video: ShortVideo) -> NDArray[np.int64]:
        """The source frames (num_clips, num_frames) of clips of a video with frames at ``seconds``.

        Args:
            seconds: (N,) increasing from 0.

        Raises:
            ValueError: the clips do not fit, where ``short_video`` is ``error``.
        """
        if self.frames_per_second is None:
            assert self.frame_stride is not None
            clip, video_frames = (self.num_frames, self.frame_stride), len(seconds)
            starts = self.starts(video_frames, rng)
            return np.array([frame_indices(start, *clip, video_frames, short_video) for start in starts])
        times = self.start_times(max(float(seconds[-1]) - self.span, 0.0), rng)
        clip_of = self.num_frames, self.frames_per_second
        return np.stack([nearest_frames(time, *clip_of, seconds, short_video) for time in times])

    def drawn(self, rng: Random) -> "Sampling":
        """What is taken from one video, where that is drawn."""
        return self

    @abstractmethod
    def starts(self, video_frames: int, rng: Random) -> list[int]:
        """Of its clips, by ``frame_stride``."""

    @abstractmethod
    def start_times(self, latest: float, rng: Random) -> list[float]:
        """Of its clips, by ``frames_per_second``; ``latest`` is the latest that fits, 0 in a short video."""


class RandomClips(Sampling):
    """Clips at random starts, as in training."""

    def starts(self, video_frames: int, rng: Random) -> list[int]:
        assert self.frame_stride is not None
        clip = self.num_frames, self.frame_stride
        return [random_clip_start(video_frames, *clip, rng) for _ in range(self.num_clips)]

    def start_times(self, latest: float, rng: Random) -> list[float]:
        return [rng.uniform(0.0, latest) for _ in range(self.num_clips)]


@dataclass(frozen=True)
class StretchedClips(RandomClips):
    """Random clips whose frames are up to ``stretch`` times as far apart, drawn for each video."""

    stretch: int = 1

    def drawn(self, rng: Random) -> Sampling:
        if self.frames_per_second is not None:
            rate = self.frames_per_second / rng.uniform(1, self.stretch)
            return RandomClips(self.num_frames, num_clips=self.num_clips, frames_per_second=rate)
        assert self.frame_stride is not None
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
        assert self.frame_stride is not None
        clip = self.num_frames, self.frame_stride
        return uniform_clip_starts(video_frames, *clip, self.num_clips, self.rule)

    def start_times(self, latest: float, rng: Random) -> list[float]:
        return uniform_start_times(latest, self.num_clips, self.rule)


@dataclass(frozen=True)
class SlidingClips(Sampling):
    """Clips one after the other: windows over a whole video, of which the last reaches its end.

    Args:
        step: from the start of one to that of the next, a length as ``span`` is; ``None`` lets them follow
            each other, without a gap or a frame in two of them.
    """

    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None and self.step <= 0:
            raise UserError(f"step ({self.step:g}) must be above 0")

    def starts(self, video_frames: int, rng: Random) -> list[int]:
        assert self.frame_stride is not None
        last = max(video_frames - clip_span(self.num_frames, self.frame_stride), 0)
        step = self.num_frames * self.frame_stride if self.step is None else max(round(self.step), 1)
        return [*range(0, last, step), last]

    def start_times(self, latest: float, rng: Random) -> list[float]:
        assert self.frames_per_second is not None
        step = self.num_frames / self.frames_per_second if self.step is None else self.step
        return [*np.arange(0, latest - _ROUNDING, step).tolist(), latest]
