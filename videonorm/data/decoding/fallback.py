"""What happens to a file that a decoder cannot read right: PyAV reads it, and a warning says so."""

import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from videonorm.data.decoding.index_store import IndexStore
from videonorm.data.decoding.location import without_credentials
from videonorm.data.decoding.packet_index import Format
from videonorm.data.decoding.pyav import PyAVReader
from videonorm.data.decoding.reader import Reader

MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # FFmpeg's names of containers

_said: set[tuple[str, str]] = set()  # by this process: decoder and reason


class RefusalError(Exception):
    """A decoder does not read a file right that may be a good one.

    Args:
        reason: completes the sentence "the decoder ...".
        detail: of this one file, as the decoder puts it.
    """

    def __init__(self, reason: str, detail: object = None) -> None:
        first_line = str(detail).strip().partition("\n")[0] if detail else ""
        super().__init__(f"{reason}: {first_line}" if first_line else reason)
        self.reason = reason


def check_proved(format: Format, proved: Mapping[str, Collection[str]]) -> None:
    """Refuse a codec in a container in which a decoder is not known to find every frame.

    Decoders with an index of their own fail by the container, and silently: frames of another second, of a
    picture beside. A list of what fails is never complete, so this is of what holds.

    Args:
        proved: codecs by container, for which tests compare every frame.
    """
    if format.codec not in proved.get(format.container, ()):
        container = "mp4" if format.container == MP4 else format.container.partition(",")[0]
        raise RefusalError(f"is not proved to read {format.codec.upper()} in {container.upper()} files right")


def check_count(found: int, num_frames: int) -> None:
    """Refuse a file in which a decoder finds another number of frames than there are."""
    if found != num_frames:
        raise RefusalError("miscounts the frames", f"it finds {found} where there are {num_frames}")


class FallbackReader(Reader):
    """Reads by the decoder asked for until it refuses, then by PyAV."""

    def __init__(self, reader: Reader, decoder: str, store: IndexStore | None) -> None:
        self.path = reader.path
        self.seconds = reader.seconds
        self.reader = reader
        self._decoder = decoder
        self._store = store

    def close(self) -> None:
        self.reader.close()

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        try:
            return self.reader.read(indices, short_side)
        except RefusalError as error:
            refusal = error
        reader = PyAVReader(self.path, self._store)
        self.reader.close()
        self.reader = reader
        frames = self.reader.read(indices, short_side)
        say(self.path, self._decoder, refusal)
        return frames


def say(path: str, decoder: str, refusal: RefusalError) -> None:
    """Warn of a file that pyav reads; once for each decoder and reason."""
    if (decoder, refusal.reason) not in _said:
        _said.add((decoder, refusal.reason))
        warnings.warn(
            f"{without_credentials(path)} is read by pyav, for {decoder} {refusal}. Others are not named.",
            stacklevel=3,
        )
