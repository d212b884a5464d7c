"""Which packet holds which frame: what exact random access and the check for truncation rest on.

Indices made from an average frame rate are wrong for variable frame rates, and a container's own count cannot
be trusted in a damaged file. So the packets are read once, without decoding (1 to 3 ms for ten seconds of
video), and their timestamps sorted.
"""

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videonorm.data.decoding.disposable import DisposablePackets
from videonorm.data.decoding.reader import BadVideoError, check_file

# What PyAV raises for a file it cannot read; IndexError for a stream that first turns up in mid-file.
DECODER_ERRORS = (av.FFmpegError, ValueError, MemoryError, IndexError)

# FFmpeg's names of the containers that
_WITHOUT_TIMESTAMPS = ("avi", "mpeg")  # store no or only some timestamps: their frames are counted
_DECLARE_DURATION = ("avi", "flv", "matroska,webm")  # in the header; for others FFmpeg guesses it


@dataclass(frozen=True)
class PacketIndex:
    """P packets in decoding order, N frames in display order.

    Where timestamps cannot be trusted (``counted``), frames were counted in one full decode: a frame's
    ``pts`` is then its number, and the packet arrays are empty.
    """

    container: str  # FFmpeg's name of the container format
    codec: str
    width: int  # pixels as coded, before rotation
    height: int
    seconds: NDArray[np.float64]  # (N,) time of each frame, the first at 0
    pts: NDArray[np.int64]  # (N,)
    position: NDArray[np.int64]  # (N,) the packet of each frame
    keyframe: NDArray[np.int64]  # (N,) the packet from which decoding must start to get the frame
    packet_pts: NDArray[np.int64]  # (P,)
    packet_dts: NDArray[np.int64]  # (P,)
    packet_is_key: NDArray[np.bool_]  # (P,)
    packet_is_disposable: NDArray[np.bool_]  # (P,) no other picture refers to it
    damaged: NDArray[np.bool_]  # (N,) known to be damaged already

    @property
    def counted(self) -> bool:
        return len(self.packet_pts) == 0

    def spoilt_by(self, packet: int) -> NDArray[np.bool_]:
        """(N,) the frames that damage in a packet may reach: those from it to the next keyframe.

        Errors spread through prediction; the decoder marks only about a quarter of the frames they reach.
        """
        later_keys = np.flatnonzero(self.packet_is_key[packet + 1 :]) + packet + 1
        reached = self.position >= packet
        if len(later_keys):
            reached &= self.pts < self.packet_pts[later_keys[0]]
        return reached


class _Recent:
    """The indices used last, up to a number of frames in all; 200,000 frames take about 10 MB."""

    def __init__(self, max_frames: int) -> None:
        self._max_frames = max_frames
        self._frames = 0
        self._indices: OrderedDict[tuple[str, int, int], PacketIndex] = OrderedDict()

    def get(self, key: tuple[str, int, int]) -> PacketIndex | None:
        if key in self._indices:
            self._indices.move_to_end(key)
        return self._indices.get(key)

    def put(self, key: tuple[str, int, int], index: PacketIndex) -> None:
        self._indices[key] = index
        self._frames += len(index.pts)
        while self._frames > self._max_frames:
            _, oldest = self._indices.popitem(last=False)
            self._frames -= len(oldest.pts)


_recent = _Recent(max_frames=200_000)


def packet_index(path: str, container: InputContainer | None = None) -> PacketIndex:
    """The index of a file, kept for the files used last in this process.

    Args:
        container: the file, just opened, if it is open already.

    Raises:
        BadVideoError: not a video, no frames, or truncated.
    """
    status = check_file(path)
    key = (path, status.st_size, status.st_mtime_ns)
    index = _recent.get(key)
    if index is None:
        if container is None:
            with open_container(path) as opened:
                index = _build(path, opened)
        else:
            index = _build(path, container)
        _recent.put(key, index)
    return index


def open_container(path: str) -> InputContainer:
    check_file(path)
    try:
        return av.open(path, "r", metadata_errors="ignore")
    except DECODER_ERRORS as error:
        raise BadVideoError(path, _why_not_opened(path, error)) from None


def video_stream(path: str, container: InputContainer) -> VideoStream:
    """The best video stream, set to decode in one thread.

    Threads inside loader workers cost more than they bring, and frame threads can deadlock when stopped
    early.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & stream.disposition.attached_pic:
        raise BadVideoError(path, "has no video stream")
    if stream.codec_context is None:
        raise BadVideoError(path, "is in a codec that this FFmpeg cannot decode")
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
    return stream


def describe(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _build(path: str, container: InputContainer) -> PacketIndex:
    stream = video_stream(path, container)
    packets, disposable = _check_complete(path, container, stream)
    if container.format.name in _WITHOUT_TIMESTAMPS:
        return _count_frames(path, stream, container.format.name)
    shown = np.array([i for i, packet in enumerate(packets) if not packet.is_discard], dtype=np.int64)
    timestamps = [packets[i].pts for i in shown]
    keys = np.array([i for i, packet in enumerate(packets) if packet.is_key], dtype=np.int64)
    if None in timestamps or len(set(timestamps)) < len(timestamps) or not len(keys):
        return _count_frames(path, stream, container.format.name)

    packet_pts = np.array([-(2**63) if p.pts is None else p.pts for p in packets], dtype=np.int64)
    packet_dts = np.array([p.pts if p.dts is None else p.dts for p in packets], dtype=np.int64)
    # What precedes the first keyframe, in either order, cannot be decoded.
    shown = shown[(shown >= keys[0]) & (packet_pts[shown] >= packet_pts[keys[0]])]
    position = shown[np.argsort(packet_pts[shown])]
    pts = packet_pts[position]
    if not len(pts):
        raise BadVideoError(path, "has no frames that can be decoded")
    # A picture shown before the keyframe it follows in the file (open GOP) needs the keyframe before it.
    which = np.searchsorted(keys, position, side="right") - 1
    while (early := packet_pts[keys[which]] > pts).any():
        which[early] -= 1
    assert stream.time_base is not None  # every stream that is read has one
    damaged = np.zeros(len(pts), dtype=bool)
    index = PacketIndex(
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        seconds=(pts - pts[0]) * float(stream.time_base),
        pts=pts,
        position=position,
        keyframe=keys[which],
        packet_pts=packet_pts,
        packet_dts=packet_dts,
        packet_is_key=np.array([p.is_key for p in packets]),
        packet_is_disposable=disposable,
        damaged=damaged,
    )
    for i, packet in enumerate(packets):
        if packet.is_corrupt:
            damaged |= index.spoilt_by(i)
    return index


@dataclass(slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    is_key: bool
    is_discard: bool  # decoded but not shown: before the start of an edit list
    is_corrupt: bool


def _check_complete(
    path: str, container: InputContainer, stream: VideoStream
) -> tuple[list[_Packet], NDArray[np.bool_]]:
    """Read all packets of the stream; BadVideoError where the file holds less than its header promises.

    Returns:
        The packets, and which of them are disposable.
    """
    name = container.format.name
    declared = float(container.duration or 0) / av.time_base if name in _DECLARE_DURATION else 0.0
    if name == "avi" and stream.average_rate:  # FFmpeg corrects its duration, not its count
        declared = max(declared, float(stream.frames / stream.average_rate))
    packets: list[_Packet] = []
    disposable = DisposablePackets(stream)
    end = 0.0
    try:
        # The declared duration is that of the longest stream.
        for packet in container.demux() if declared else container.demux(stream):
            if not packet.size:
                continue
            if declared and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                packets.append(
                    _Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard, packet.is_corrupt)
                )
                disposable.add(packet)
    except DECODER_ERRORS as error:
        raise BadVideoError(path, f"cannot be read past frame {len(packets)}: {describe(error)}") from None
    if not packets:
        raise BadVideoError(path, "has no frames")
    promised = len(stream.index_entries) if "mp4" in name else 0  # MP4 lists every sample, there or not
    if promised > len(packets):
        raise BadVideoError(path, f"is truncated: its index lists {promised} frames, it holds {len(packets)}")
    if packets[-1].is_corrupt:
        raise BadVideoError(path, f"is truncated: its last frame ({len(packets)}) is incomplete")
    if end < declared - max(0.5, 0.02 * declared):
        raise BadVideoError(
            path, f"is truncated: its header declares {declared:.2f} s, the packets end at {end:.2f} s"
        )
    return packets, disposable.disposable()


def _count_frames(path: str, stream: VideoStream, container: str) -> PacketIndex:
    """Index by a full decode from the start, for files without usable timestamps."""
    seconds: list[float | None] = []
    damaged: list[bool] = []
    tainted = False
    with open_container(path) as opened:
        for picture in decode_all(path, opened):
            if picture is None:
                tainted = True
                continue
            tainted = picture.is_corrupt or (tainted and not picture.key_frame)
            seconds.append(picture.time)
            damaged.append(tainted)
    if not seconds:
        raise BadVideoError(path, "has no frames that can be decoded")
    count = len(seconds)
    times = np.array([np.nan if s is None else s for s in seconds])
    if np.isnan(times).any() or (np.diff(times) <= 0).any():
        times = np.arange(count) / float(stream.average_rate or 25)
    empty = np.zeros(0, dtype=np.int64)
    return PacketIndex(
        container=container,
        codec=stream.codec_context.codec.canonical_name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        seconds=times - times[0],
        pts=np.arange(count),
        position=empty,
        keyframe=empty,
        packet_pts=empty,
        packet_dts=empty,
        packet_is_key=empty.astype(bool),
        packet_is_disposable=empty.astype(bool),
        damaged=np.array(damaged),
    )


def decode_all(path: str, container: InputContainer) -> Iterator[av.VideoFrame | None]:
    """Every picture of a container just opened, in display order; ``None`` where decoding a packet failed.

    ``container.decode()`` would stop for good at the first bad packet.
    """
    stream = video_stream(path, container)
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except DECODER_ERRORS:
            yield None


def _why_not_opened(path: str, error: BaseException) -> str:
    """FFmpeg says "Invalid data" for most; an MP4 without its table of contents is worth naming."""
    reason = f"cannot be opened: {describe(error)}"
    if "Invalid data" not in reason:
        return reason
    boxes = _top_level_boxes(path)
    if "ftyp" in boxes and "moov" not in boxes:
        return "is truncated or was never finished: an MP4 without its moov box"
    return reason


def _top_level_boxes(path: str) -> set[str]:
    """Names of the outermost boxes of an MP4 file (ISO/IEC 14496-12, 4.2); nonsense for other files."""
    names: set[str] = set()
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        at = 0
        while at + 8 <= size and len(names) < 64:
            file.seek(at)
            length, name = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            names.add(name.decode("latin-1"))
            if length < 8:
                break
            at += length
    return names
