"""The decoder torchcodec: needs FFmpeg's shared libraries beside it, which its wheel does not bring."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined,unused-ignore]

from videonorm.data.decoding.packet_index import packet_index
from videonorm.data.decoding.reader import BadVideoError, Reader, scale


class TorchcodecReader(Reader):
    """See ``Reader``. Damage inside a file goes unnoticed: torchcodec does not report it."""

    def __init__(self, path: str) -> None:
        index = packet_index(path)
        if index.counted:
            raise BadVideoError(
                path, "is not for torchcodec, which needs timestamps to find frames; use decoder: pyav"
            )
        self.path = path
        self.seconds = index.seconds
        try:
            # "approximate" finds wrong frames at variable rates, and is no faster on short files.
            self._video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise BadVideoError(path, f"cannot be opened by torchcodec: {_first_line(error)}") from None
        if len(self._video) != self.num_frames:
            raise BadVideoError(
                path, f"is not for torchcodec, which finds {len(self._video)} of its {self.num_frames} frames"
            )

    def close(self) -> None:
        del self._video

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        try:
            frames: NDArray[np.uint8] = self._video.get_frames_at(list(indices)).data.numpy()
        except (RuntimeError, ValueError, IndexError) as error:
            raise BadVideoError(self.path, f"cannot be decoded by torchcodec: {_first_line(error)}") from None
        return scale(frames, short_side)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
