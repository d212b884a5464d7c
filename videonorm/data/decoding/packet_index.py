"""Which packet holds which frame: what exact random access and the check for truncation rest on.

Indices made from an average frame rate are wrong for variable frame rates, and a container's own count cannot
be trusted in a damaged file. So the packets are read once, without decoding (1 to 3 ms for ten seconds of
video), and their timestamps sorted.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Self

import av
import numpy as np
from av import Packet
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videonorm.data.decoding.disposable import DisposablePackets
from videonorm.data.decoding.reader import BadVideoError, check_file, is_remote

if TYPE_CHECKING:
    from videonorm.data.decoding.index_store import IndexStore

# What PyAV raises for a file it cannot read; IndexError for a stream that first turns up in mid-file.
DECODER_ERRORS = (av.FFmpegError, ValueError, MemoryError, IndexError)

# FFmpeg's names of the containers that
_WITHOUT_TIMESTAMPS = ("avi", "mpeg")  # store no or only some timestamps: their frames are counted
_PLAYLISTS = ("concat", "dash", "hls", "imf")  # name other files for FFmpeg to open
_DECLARE_DURATION = ("avi", "flv", "matroska,webm")  # in the header; for others FFmpeg guesses it

MAX_PIXELS = 2**26  # of a picture, twice 8K; a damaged header may claim what takes gigabytes to decode
_AT_MOST = {"max_pixels": str(MAX_PIXELS)}
_NO_PROTOCOL = {"protocol_whitelist": "none"}  # by which FFmpeg may open what a playlist names
_NO_PTS = -(2**63)  # FFmpeg's own number for a timestamp that is missing


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
    time_base: Fraction  # seconds in a unit of the timestamps
    seconds: NDArray[np.float64]  # (N,) time of each frame, the first at 0
    pts: NDArray[np.int64]  # (N,)
    position: NDArray[np.int64]  # (N,) the packet of each frame
    keyframe: NDArray[np.int64]  # (N,) the packet from which decoding must start to get the frame
    packet_pts: NDArray[np.int64]  # (P,)
    packet_dts: NDArray[np.int64]  # (P,)
    packet_is_key: NDArray[np.bool_]  # (P,)
    packet_is_disposable: NDArray[np.bool_]  # (P,) no other picture refers to it
    damaged: NDArray[np.bool_]  # (N,) known to be damaged already
    keys_are_clean: bool  # no picture refers to one before the last keyframe in the file, as in open GOPs

    @classmethod
    def of_packets(
        cls,
        *,
        container: str,
        codec: str,
        width: int,
        height: int,
        time_base: Fraction,
        packet_pts: NDArray[np.int64],
        packet_dts: NDArray[np.int64],
        packet_is_key: NDArray[np.bool_],
        packet_is_disposable: NDArray[np.bool_],
        packet_is_shown: NDArray[np.bool_],  # (P,) False before the start of an edit list
        keys_are_clean: bool,
        damaged: NDArray[np.bool_] | None = None,
    ) -> Self:
        """The index that follows from the packets, of which one at least is a keyframe."""
        keys = np.flatnonzero(packet_is_key)
        shown = np.flatnonzero(packet_is_shown)
        # What precedes the first keyframe, in either order, cannot be decoded.
        shown = shown[(shown >= keys[0]) & (packet_pts[shown] >= packet_pts[keys[0]])]
        position = shown[np.argsort(packet_pts[shown])]
        pts = packet_pts[position]
        # A picture shown before the keyframe it follows in the file (open GOP) needs the keyframe before it.
        which = np.searchsorted(keys, position, side="right") - 1
        keys_are_clean &= bool((packet_pts[keys[which]] <= pts).all())
        while (early := packet_pts[keys[which]] > pts).any():
            which[early] -= 1
        return cls(
            container=container,
            codec=codec,
            width=width,
            height=height,
            time_base=time_base,
            seconds=(pts - pts[:1]) * float(time_base),
            pts=pts,
            position=position,
            keyframe=keys[which],
            packet_pts=packet_pts,
            packet_dts=packet_dts,
            packet_is_key=packet_is_key,
            packet_is_disposable=packet_is_disposable,
            damaged=np.zeros(len(pts), dtype=bool) if damaged is None else damaged,
            keys_are_clean=keys_are_clean,
        )

    @classmethod
    def of_counted(
        cls,
        *,
        container: str,
        codec: str,
        width: int,
        height: int,
        time_base: Fraction,
        seconds: NDArray[np.float64],
        damaged: NDArray[np.bool_],
    ) -> Self:
        empty = np.zeros(0, dtype=np.int64)
        return cls(
            container=container,
            codec=codec,
            width=width,
            height=height,
            time_base=time_base,
            seconds=seconds,
            pts=np.arange(len(seconds)),
            position=empty,
            keyframe=empty,
            packet_pts=empty,
            packet_dts=empty,
            packet_is_key=empty.astype(bool),
            packet_is_disposable=empty.astype(bool),
            damaged=damaged,
            keys_are_clean=False,  # not known
        )

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
    """The indices used last, up to a number of frames in all; 20,000 frames take about 2 MB."""

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


_recent = _Recent(max_frames=20_000)


def packet_index(
    path: str, container: InputContainer | None = None, store: "IndexStore | None" = None
) -> PacketIndex:
    """The index of a file: the one in memory for the files used last, the one stored, or else a new one.

    Args:
        container: the file, just opened, if it is open already.
        store: where it is kept for other processes and later runs. Bad videos are not.

    Raises:
        BadVideoError: not a video, no frames, or truncated.
    """
    status = check_file(path)
    key = (path, status.size, status.stamp)
    index = _recent.get(key)
    if index is not None:
        return index
    version = f"{status.size} {status.stamp}"
    index = store.get(path, version) if store else None
    if index is None:
        if container is None:
            with open_container(path) as opened:
                index = _build(path, opened)
        else:
            index = _build(path, container)
        if store:
            store.put(path, version, index)
    _recent.put(key, index)
    return index


def open_container(path: str) -> InputContainer:
    """Open a file or URL for FFmpeg, which is never given a name to make out a protocol of its own from.

    Raises:
        BadVideoError: it cannot be opened, or lists other files instead of holding a video.
    """
    check_file(path)
    try:
        if is_remote(path):
            from videonorm.data.decoding.remote import RemoteFile  # only here is fsspec needed

            options = _AT_MOST | _NO_PROTOCOL
            container = av.open(RemoteFile(path), "r", options=options, metadata_errors="ignore")
        else:
            container = av.open(f"file:{path}", "r", options=_AT_MOST, metadata_errors="ignore")
    except BadVideoError:  # of a URL
        raise
    except DECODER_ERRORS as error:
        raise BadVideoError(path, _why_not_opened(path, error)) from None
    if container.format.name in _PLAYLISTS:
        container.close()
        raise BadVideoError(path, "is a list of other files, not a video")
    return container


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
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise BadVideoError(
            path, f"claims pictures of {width}x{height} pixels, more than {MAX_PIXELS} in all"
        )
    stream.codec_context.options = _AT_MOST  # they may grow in mid-file
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
    return stream


def describe(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _build(path: str, container: InputContainer) -> PacketIndex:
    stream = video_stream(path, container)
    packets, found = _check_complete(path, container, stream)
    if container.format.name in _WITHOUT_TIMESTAMPS:
        return _count_frames(path, stream, container.format.name)
    timestamps = [packet.pts for packet in packets if not packet.is_discard]
    has_key = any(packet.is_key for packet in packets)
    if None in timestamps or len(set(timestamps)) < len(timestamps) or not has_key:
        return _count_frames(path, stream, container.format.name)

    assert stream.time_base is not None  # every stream that is read has one
    packet_pts = np.array([_NO_PTS if p.pts is None else p.pts for p in packets], dtype=np.int64)
    packet_dts = packet_pts.copy()
    has_dts = np.array([p.dts is not None for p in packets])
    packet_dts[has_dts] = [p.dts for p in packets if p.dts is not None]
    index = PacketIndex.of_packets(
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        time_base=stream.time_base,
        packet_pts=packet_pts,
        packet_dts=packet_dts,
        packet_is_key=np.array([p.is_key for p in packets]),
        packet_is_disposable=found.disposable(),
        packet_is_shown=np.array([not p.is_discard for p in packets]),
        keys_are_clean=found.all_keys_clean,
    )
    if not len(index.pts):
        raise BadVideoError(path, "has no frames that can be decoded")
    for i, packet in enumerate(packets):
        if packet.is_corrupt:
            index.damaged[index.spoilt_by(i)] = True
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
) -> tuple[list[_Packet], DisposablePackets]:
    """Read all packets of the stream; BadVideoError where the file holds less than its header promises.

    Returns:
        The packets, and what their contents say of them.
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
    except BadVideoError:  # of a URL
        raise
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
    return packets, disposable


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
    times = np.array([np.nan if s is None else s for s in seconds])
    if np.isnan(times).any() or (np.diff(times) <= 0).any():
        times = np.arange(len(seconds)) / float(stream.average_rate or 25)
    return PacketIndex.of_counted(
        container=container,
        codec=stream.codec_context.codec.canonical_name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        time_base=stream.time_base or Fraction(1),
        seconds=times - times[0],
        damaged=np.array(damaged),
    )


def decode_all(path: str, container: InputContainer) -> Iterator[av.VideoFrame | None]:
    """Every picture of a container just opened, in display order; ``None`` where decoding a packet failed.

    ``container.decode()`` would stop for good at the first bad packet.
    """
    stream = video_stream(path, container)
    for packet in container.demux(stream):
        try:
            yield from decode(stream, packet)
        except DECODER_ERRORS:
            yield None


def decode(stream: VideoStream, packet: "Packet[VideoStream] | None") -> list[av.VideoFrame]:
    """The pictures that come out of the decoder for a packet; ``None`` for those held back to the end."""
    try:
        return stream.decode(packet)
    except av.BlockingIOError:
        # A decoder that failed at one of several pictures in a packet may take no further packets.
        stream.codec_context.flush_buffers()
        return stream.decode(packet)


def _why_not_opened(path: str, error: BaseException) -> str:
    """FFmpeg says "Invalid data" for most; an MP4 without its table of contents is worth naming."""
    reason = f"cannot be opened: {describe(error)}"
    if "Invalid data" not in reason:
        return reason
    if is_remote(path):
        from videonorm.data.decoding.remote import RemoteFile

        boxes = _top_level_boxes(RemoteFile(path))
    else:
        with open(path, "rb") as file:
            boxes = _top_level_boxes(file)
    if "ftyp" in boxes and "moov" not in boxes:
        return "is truncated or was never finished: an MP4 without its moov box"
    return reason


def _top_level_boxes(file: RawIOBase | BufferedReader) -> set[str]:
    """Names of the outermost boxes of an MP4 file (ISO/IEC 14496-12, 4.2); nonsense for other files."""
    names: set[str] = set()
    at = 0
    while len(names) < 64:
        file.seek(at)
        header = file.read(16) or b""
        if len(header) < 8:
            break
        length, name = struct.unpack_from(">I4s", header)
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        names.add(name.decode("latin-1"))
        if length < 8:
            break
        at += length
    return names
