"""The decoder decord, with old FFmpeg libraries: refuses the files that it is known to read wrongly."""

from collections.abc import Sequence

import decord
import numpy as np
from numpy.typing import NDArray

from videonorm.data.decoding.packet_index import PacketIndex, packet_index
from videonorm.data.decoding.reader import BadVideoError, Reader, scale


class DecordReader(Reader):
    """See ``Reader``. Damage inside a file goes unnoticed: decord does not report it."""

    def __init__(self, path: str) -> None:
        index = packet_index(path)
        if problem := _known_problem(index):
            raise BadVideoError(path, f"is not for decord, which {problem}; use decoder: pyav")
        self.path = path
        self.seconds = index.seconds
        try:
            self._video = decord.VideoReader(path, num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise BadVideoError(path, f"cannot be opened by decord: {_first_line(error)}") from None
        if len(self._video) != self.num_frames:
            raise BadVideoError(
                path, f"is not for decord, which finds {len(self._video)} of its {self.num_frames} frames"
            )

    def close(self) -> None:
        del self._video  # holds 65 MB, and goes on decoding ahead

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        try:
            frames = self._video.get_batch(list(indices))
        except (decord.DECORDError, RuntimeError) as error:
            raise BadVideoError(self.path, f"cannot be decoded by decord: {_first_line(error)}") from None
        # The type follows from decord's global bridge, which other libraries switch when they are imported.
        array = frames.asnumpy() if isinstance(frames, decord.ndarray.NDArray) else np.asarray(frames)
        return scale(array, short_side)


def _known_problem(index: PacketIndex) -> str | None:
    if index.codec in ("hevc", "av1"):
        return f"reads {index.codec.upper()} wrongly or not at all"
    if index.container == "mpeg":
        return "returns wrong frames from MPEG-PS"
    if not index.counted and not index.packet_is_key[0]:
        return "returns shifted frames where the first keyframe is missing"
    if min(index.width, index.height) < 64:
        return "mistakes the padding of rows shorter than 64 pixels for a fourth channel"
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
