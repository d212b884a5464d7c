"""One video: what a look into it tells, which of its frames are wanted, what reading a clip of it costs."""

import statistics
import time
from itertools import islice
from typing import NamedTuple

import av
from av.container import InputContainer

from videonorm.data import BadVideoError, open_video
from videonorm.data.decoding.container import (
    DECODER_ERRORS,
    check_file,
    decode_all,
    open_container,
    video_stream,
)
from videonorm.data.decoding.orientation import Orientation, display_matrix
from videonorm.data.decoding.packed import is_packed
from videonorm.data.decoding.reader import frames_between

PICTURES_TRIED = 100  # until one can be decoded


class Facts(NamedTuple):
    """What a file says of its video, under the names of a manifest's columns; None where it does not."""

    duration_seconds: float | None = None
    fps: float | None = None  # mean
    frames: int | None = None
    width: int | None = None  # pixels of the upright picture
    height: int | None = None
    codec: str | None = None

    def cells(self) -> dict[str, str]:
        rounded = (round(value, 4) if isinstance(value, float) else value for value in self)
        return {
            name: "" if value is None else str(value)
            for name, value in zip(self._fields, rounded, strict=True)
        }


def probe(path: str) -> Facts:
    """Read a video's header, and decode one picture, which alone tells how it is to be laid.

    Raises:
        BadVideoError: no video, or a file that ends before what its header lists.
    """
    if is_packed(path):
        return _probe_packed(path)
    with open_container(path) as container:
        try:
            stream = video_stream(path, container)
            if "mp4" in container.format.name:  # lists every frame's place in the file, there or not
                size = check_file(path).size
                cut = sum(entry.pos + entry.size > size for entry in stream.index_entries)
                if cut:
                    total = len(stream.index_entries)
                    raise BadVideoError(path, f"is truncated: it ends before {cut} of its {total} frames")
            if stream.duration and stream.time_base:
                duration = float(stream.duration * stream.time_base)
            else:
                duration = (container.duration or 0) / av.time_base
            rate = stream.average_rate or stream.guessed_rate
            context = stream.codec_context
            if not context.width or not context.height:
                raise BadVideoError(path, "has no picture size in its header")
            size_upright = context.width, context.height
            frames, codec = stream.frames or None, context.codec.canonical_name
            if _is_turned(path, container):
                size_upright = size_upright[::-1]
            return Facts(duration or None, float(rate) if rate else None, frames, *size_upright, codec)
        except BadVideoError:
            raise
        except DECODER_ERRORS as error:
            raise BadVideoError(path, f"cannot be read: {error}") from None


def _probe_packed(path: str) -> Facts:
    with open_video(path) as video:
        height, width = video.read([0]).shape[1:3]
        rate = video.frame_rate or None
        duration = float(video.seconds[-1]) + 1 / rate if rate else None
        return Facts(duration, rate, video.num_frames, width, height, "mjpeg")


def _is_turned(path: str, container: InputContainer) -> bool:
    """Whether rows of pixels are to be shown as columns, which the first picture that can be decoded says."""
    pictures = islice(decode_all(path, container), PICTURES_TRIED)
    first = next(filter(None, pictures), None)
    return first is not None and Orientation.of(display_matrix(first)).transposed


def clip_seconds(
    path: str,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    *,
    short_side: int,
    frame_stride: int = 8,
) -> float:
    """CPU seconds to open a video and read a clip of 8 frames: the median of three moments of a stretch."""
    with open_video(path) as video:  # builds the packet index, which is kept
        first, stop = frames_between(path, video.seconds, start_seconds, end_seconds)
    last = max(stop - 8 * frame_stride, first)
    spent = []
    for start in (first + (last - first) * quarter // 4 for quarter in (1, 2, 3)):
        began = time.process_time()
        with open_video(path) as video:
            video.read(range(start, stop, frame_stride)[:8], short_side)
        spent.append(time.process_time() - began)
    return statistics.median(spent)
