"""What every decoder offers: frames by index, upright, as uint8 RGB; and the error for a bad video."""

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from videonorm.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/?#@]*@")
_SECRET = re.compile(
    r"(?<=[?&])([^=&#]*(?:key|token|secret|sig|credential|passw)[^=&#]*)=[^&#]*", re.IGNORECASE
)


def is_remote(path: str) -> bool:
    """Whether a path is a URL, which fsspec reads: ``https://...``, ``s3://...``, ``gs://...``."""
    return _URL.match(path) is not None


def without_credentials(path: str) -> str:
    """A path as it may be shown: of a URL without its user, password and signature."""
    return _SECRET.sub(r"\1=***", _PASSWORD.sub("***@", path)) if is_remote(path) else path


class BadVideoError(UserError):
    """A video that cannot be used; ``reason`` completes the sentence "the video ..."."""

    def __init__(self, path: str, reason: str) -> None:
        path = without_credentials(path)
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class Reader(ABC):
    """One open video file.

    Frame ``i`` is the i-th picture in display order, in every decoder. Pictures are rotated upright as the
    file's display matrix asks; pixels count as square whatever the file's pixel aspect, as in PyTorchVideo,
    decord and torchcodec; ``data_prep/transcode.py`` makes them so. Use it as a context manager, inside the
    process that opened it.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) once the shorter side is ``short_side``."""
    if short_side is None:
        return height, width
    if height <= width:
        return short_side, round(width * short_side / height)
    return round(height * short_side / width), short_side


class FileStatus(NamedTuple):
    """Together they tell one version of a file from another."""

    size: int  # bytes
    stamp: int  # time of the last change in ns; of a URL a hash of what its server says of the version


def check_file(path: str) -> FileStatus:
    """Raise BadVideoError for what no decoder should be given: opening a FIFO would wait for ever."""
    if is_remote(path):
        from videonorm.data.decoding.remote import check_remote  # only here is fsspec needed

        return check_remote(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadVideoError(
            path, f"cannot be found: {error.strerror if isinstance(error, OSError) else error}"
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise BadVideoError(path, "is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise BadVideoError(path, "is not a regular file")
    if status.st_size == 0:
        raise BadVideoError(path, "is empty (0 bytes)")
    return FileStatus(status.st_size, status.st_mtime_ns)


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
