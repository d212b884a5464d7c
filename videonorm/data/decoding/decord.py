"""The decoder decord, with old FFmpeg libraries: refuses the files that it is not known to read right."""

from collections.abc import Sequence

import decord
import numpy as np
from numpy.typing import NDArray

from videonorm.data.decoding.fallback import MATROSKA, MP4, RefusalError, check_count, check_proved
from videonorm.data.decoding.index_store import IndexStore, packet_index
from videonorm.data.decoding.orientation import AS_CODED, Orientation
from videonorm.data.decoding.packet_index import PacketIndex
from videonorm.data.decoding.reader import Reader, scale

PROVED = {MP4: ("h264", "vp9"), MATROSKA: ("h264", "vp8", "vp9")}


class DecordReader(Reader):
    """See ``Reader``. Damage inside a file goes unnoticed: decord does not report it.

    Raises:
        RefusalError: decord cannot read the file, or not surely right.
    """

    def __init__(self, path: str, store: IndexStore | None = None) -> None:
        index = packet_index(path, store=store)
        check_proved(index.format, PROVED)
        if problem := _known_problem(index):
            raise RefusalError(problem)
        self.path = path
        self.seconds = index.seconds
        try:
            self._video = decord.VideoReader(path, num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise RefusalError("cannot open it", error) from None
        check_count(len(self._video), self.num_frames)
        if index.format.matrix != AS_CODED and not self._turns(index):
            raise RefusalError("mirrors no pictures, and turns few")

    def _turns(self, index: PacketIndex) -> bool:
        """Whether pictures that are to be turned are, which shows only where it changes their shape."""
        shape = index.format.width, index.format.height
        turned = Orientation.of(index.format.matrix).degrees in (90, 270) and shape != shape[::-1]
        return turned and self.read([0]).shape[1:3] == shape

    def close(self) -> None:
        del self._video  # holds 65 MB, and goes on decoding ahead

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        try:
            frames = self._video.get_batch(list(indices))
        except (decord.DECORDError, RuntimeError) as error:
            raise RefusalError("cannot decode it", error) from None
        # The type follows from decord's global bridge, which other libraries switch when they are imported.
        array = frames.asnumpy() if isinstance(frames, decord.ndarray.NDArray) else np.asarray(frames)
        return scale(array, short_side)


def _known_problem(index: PacketIndex) -> str | None:
    if index.counted or not index.packet_is_key[0]:
        return "returns shifted frames where timestamps or the first keyframe are missing"
    if not index.keys_are_clean:
        return "returns wrong frames where pictures refer to some before a keyframe (open GOP, intra refresh)"
    if min(index.format.width, index.format.height) < 64:
        return "mistakes the padding of rows shorter than 64 pixels for a fourth channel"
    return None
