"""What every decoder offers: frames by index, upright, as uint8 RGB."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from videonorm.data.decoding.location import BadVideoError


class Reader(ABC):
    """One open video file.

    Frame ``i`` is the i-th picture in display order, in every decoder. Pictures are turned and mirrored
    upright as the file's display matrix asks (orientation.py); pixels count as square whatever their aspect
    in the file, as in PyTorchVideo, decord and torchcodec; ``data_prep/transcode.py`` makes them so. Use it
    as a context manager, inside the process that opened it.
    """

    path: str
    seconds: NDArray[np.float64]  # (num_frames,) time of each frame, the first at 0

    @property
    def num_frames(self) -> int:
        return len(self.seconds)

    @property
    def frame_rate(self) -> float:
        """Mean frames a second; 0 for a single frame."""
        return (self.num_frames - 1) / float(self.seconds[-1]) if self.num_frames > 1 else 0.0

    @property
    def height(self) -> int:
        """Pixels of the upright picture; decodes a frame."""
        return int(self.read([0]).shape[1])

    @property
    def width(self) -> int:
        """Pixels of the upright picture; decodes a frame."""
        return int(self.read([0]).shape[2])

    @abstractmethod
    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        """Decode frames.

        Args:
            indices: strictly increasing, within ``range(num_frames)``.
            short_side: scale the pictures, up or down, so that the shorter side has exactly so many pixels
                and the aspect is kept (bilinear); ``None`` keeps the file's size.

        Returns:
            (len(indices), H, W, 3), RGB.

        Raises:
            BadVideoError: a wanted frame is missing or damaged.
        """

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frames_between(
    path: str, seconds: NDArray[np.float64], start_seconds: float | None, end_seconds: float | None
) -> tuple[int, int]:
    """The frames of a stretch of a video, from the first to the one behind the last.

    Args:
        seconds: (N,) time of each frame, increasing.
        start_seconds, end_seconds: frames from the one until before the other; ``None`` is no bound.

    Raises:
        BadVideoError: there are none.
    """
    bounds = (0.0 if start_seconds is None else start_seconds, np.inf if end_seconds is None else end_seconds)
    first, stop = np.searchsorted(seconds, np.array(bounds) - 1e-6).tolist()  # times are rounded
    if first >= stop:
        raise BadVideoError(
            path, f"has no frame between start_seconds ({start_seconds}) and end_seconds ({end_seconds})"
        )
    return first, stop


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) once the shorter side is ``short_side``."""
    if short_side is None:
        return height, width
    if height <= width:
        return short_side, round(width * short_side / height)
    return round(height * short_side / width), short_side


def scale(frames: NDArray[np.uint8], short_side: int | None) -> NDArray[np.uint8]:
    """Scale decoded frames (N, H, W, 3) as ``Reader.read`` does."""
    height, width = scaled_size(frames.shape[1], frames.shape[2], short_side)
    if (height, width) == frames.shape[1:3]:
        return frames
    reformatter = VideoReformatter()
    scaled = [
        reformatter.reformat(
            av.VideoFrame.from_ndarray(frame, "rgb24"), width, height, interpolation="BILINEAR", threads=1
        ).to_ndarray()
        for frame in frames
    ]
    return np.stack(scaled)
