"""A stretch of a video, picture after picture as the decoder gives them: for what encodes them anew.

The frames are those of ``PyAVReader``, numbered and judged by the same index and rules; they are never
all in memory.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
from av import VideoFrame
from av.video.frame import PictureType

from videonorm.data.decoding.container import (
    DECODER_ERRORS,
    decode,
    decode_all,
    describe,
    open_container,
    video_stream,
)
from videonorm.data.decoding.location import BadVideoError
from videonorm.data.decoding.packet_index import PacketIndex


def pictures_in_order(
    path: str, index: PacketIndex, frames: range, *, from_start: bool = False
) -> Iterator[VideoFrame]:
    """The pictures of frames ``frames.start`` to ``frames.stop - 1``, neither scaled nor laid upright.

    Args:
        from_start: decode all that is before them, too. Without, what needs more than the keyframe before the
            first frame counts as damaged, which ``PyAVReader`` then tries anew, as a caller should.

    Raises:
        BadVideoError: one of the frames is missing, or damage may have reached it; this may be known only
            behind the last, so that all should be thrown away.
    """
    try:
        if index.counted:
            yield from _counted(path, index, frames)
        else:
            yield from _indexed(path, index, frames, from_start)
    except BadVideoError:
        raise
    except DECODER_ERRORS as error:
        raise BadVideoError(path, f"cannot be read: {describe(error)}") from None


def _counted(path: str, index: PacketIndex, frames: range) -> Iterator[VideoFrame]:
    expected = frames.start
    with open_container(path) as container:
        for number, picture in enumerate(p for p in decode_all(path, container) if p is not None):
            if number == frames.stop:
                break
            if number in frames:
                if index.damaged[number]:
                    raise _damaged(path, index, number)
                yield picture
                expected += 1
    if expected < frames.stop:
        raise _damaged(path, index, expected)


def _indexed(path: str, index: PacketIndex, frames: range, from_start: bool) -> Iterator[VideoFrame]:
    first = 0 if from_start else int(index.keyframe[frames.start])
    last = int(index.position[frames.start : frames.stop].max())
    first_pts = int(index.packet_pts[first])
    spoilt = index.damaged.copy()
    position, expected = first - 1, frames.start
    with open_container(path) as container:
        stream = video_stream(path, container)
        if first > 0:
            container.seek(int(index.packet_dts[first]), stream=stream)
        for packet in chain(container.demux(stream), [None]):
            if packet is not None:
                if not packet.size or (position < first and packet.pts != first_pts) or position == last:
                    continue
                position += 1
            try:
                decoded = decode(stream, packet)
            except DECODER_ERRORS:
                spoilt[index.spoilt_by(position)] = True
                continue
            for picture in decoded:
                if picture.pts is None or (first > 0 and picture.pts < first_pts):
                    continue  # leading pictures of an open GOP: what they refer to was not decoded
                if first > 0 and picture.pts == first_pts and picture.pict_type != PictureType.I:
                    raise _damaged(path, index, expected)  # no keyframe: it begins a gradual intra refresh
                if picture.is_corrupt:
                    for source in np.flatnonzero(index.packet_pts == picture.pts).tolist():
                        spoilt[index.spoilt_by(source)] = True
                number = int(np.searchsorted(index.pts, picture.pts))
                if number not in range(expected, frames.stop) or index.pts[number] != picture.pts:
                    continue
                if number > expected or spoilt[number]:
                    raise _damaged(path, index, expected)
                yield picture
                expected += 1
    if expected < frames.stop:
        raise _damaged(path, index, expected)
    for number in np.flatnonzero(spoilt[frames.start : frames.stop]).tolist():
        raise _damaged(path, index, frames.start + number)


def _damaged(path: str, index: PacketIndex, number: int) -> BadVideoError:
    reason = f"is damaged: frame {number} at {index.seconds[number]:.2f} s cannot be decoded"
    return BadVideoError(path, reason)
