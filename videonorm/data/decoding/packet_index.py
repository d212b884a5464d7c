"""Which packet holds which frame: what exact random access and the check for truncation rest on.

Indices made from an average frame rate are wrong for variable frame rates, and a container's own count cannot
be trusted in a damaged file. So the packets are read once, without decoding (1 to 3 ms for ten seconds of
video), and their timestamps sorted.
"""

import json
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videonorm.data.decoding.container import (
    DECODER_ERRORS,
    decode_all,
    describe,
    open_container,
    video_stream,
)
from videonorm.data.decoding.disposable import DisposablePackets
from videonorm.data.decoding.location import BadVideoError
from videonorm.data.decoding.orientation import AS_CODED, Matrix, first_matrix

# FFmpeg's names of the containers that
_WITHOUT_TIMESTAMPS = ("avi", "mpeg")  # store no or only some timestamps: their frames are counted
_DECLARE_DURATION = ("avi", "flv", "matroska,webm")  # in the header; for others FFmpeg guesses it

_PACKETS_TRIED = 100  # until one picture is decoded, which says how all are to be laid
_NO_PTS = -(2**63)  # FFmpeg's own number for a timestamp that is missing
_VERSION = 3  # of the bytes of an index


class Format(NamedTuple):
    """What a file is."""

    container: str  # FFmpeg's name of the container format
    codec: str
    width: int  # pixels as coded, before rotation
    height: int
    time_base: Fraction  # seconds in a unit of the timestamps
    matrix: Matrix = AS_CODED  # that makes its pictures upright

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream, matrix: Matrix) -> Self:
        codec = stream.codec_context
        name, unit = codec.codec.canonical_name, stream.time_base or Fraction(1)
        return cls(container.format.name, name, codec.width, codec.height, unit, matrix)


@dataclass(frozen=True)
class PacketIndex:
    """P packets in decoding order, N frames in display order.

    Where timestamps cannot be trusted (``counted``), frames were counted in one full decode: a frame's
    ``pts`` is then its number, and the packet arrays are empty.
    """

    format: Format
    seconds: NDArray[np.float64]  # (N,) time of each frame, the first at 0
    pts: NDArray[np.int64]  # (N,)
    damaged: NDArray[np.bool_]  # (N,) known to be damaged already
    position: NDArray[np.int64]  # (N,) the packet of each frame
    keyframe: NDArray[np.int64]  # (N,) the packet from which decoding must start to get the frame
    packet_pts: NDArray[np.int64]  # (P,)
    packet_dts: NDArray[np.int64]  # (P,)
    packet_is_key: NDArray[np.bool_]  # (P,)
    packet_is_disposable: NDArray[np.bool_]  # (P,) no other picture refers to it
    keys_are_clean: bool  # no picture refers to one before the last keyframe in the file, as in open GOPs

    @classmethod
    def of_packets(
        cls,
        format: Format,
        *,
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
            format=format,
            seconds=(pts - pts[:1]) * float(format.time_base),
            pts=pts,
            damaged=np.zeros(len(pts), dtype=bool) if damaged is None else damaged,
            position=position,
            keyframe=keys[which],
            packet_pts=packet_pts,
            packet_dts=packet_dts,
            packet_is_key=packet_is_key,
            packet_is_disposable=packet_is_disposable,
            keys_are_clean=keys_are_clean,
        )

    @classmethod
    def of_counted(cls, format: Format, seconds: NDArray[np.float64], damaged: NDArray[np.bool_]) -> Self:
        none, never = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        pts = np.arange(len(seconds))
        return cls(format, seconds, pts, damaged, none, none, none, none, never, never, keys_are_clean=False)

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

    def to_bytes(self) -> bytes:
        """Pack what cannot be derived; zlib's checksum guards it."""
        header = {
            **self.format._asdict(),
            "time_base": list(self.format.time_base.as_integer_ratio()),
            "packets": len(self.packet_pts),
            "frames": len(self.pts),
            "keys_are_clean": self.keys_are_clean,
        }
        shown = np.zeros(len(self.packet_pts), dtype=bool)
        shown[self.position] = True
        flags = self.packet_is_key + 2 * self.packet_is_disposable + 4 * shown
        content = [
            json.dumps(header).encode() + b"\n",
            np.packbits(self.damaged).tobytes(),
            flags.astype(np.uint8).tobytes(),
            _planes(np.diff(self.packet_dts, prepend=np.int64(0))),
            _planes(np.diff(self.packet_pts - self.packet_dts, prepend=np.int64(0))),
            _planes(self.seconds.view(np.int64)) if self.counted else b"",
        ]
        return bytes([_VERSION]) + zlib.compress(b"".join(content))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self | None:
        """The index that was packed; ``None`` for the bytes of another version.

        Raises:
            zlib.error, ValueError, LookupError: they are damaged.
        """
        if content[:1] != bytes([_VERSION]):
            return None
        text, _, arrays = zlib.decompress(content[1:]).partition(b"\n")
        header = json.loads(text)
        format = Format(**{name: header[name] for name in Format._fields})
        format = format._replace(time_base=Fraction(*header["time_base"]), matrix=tuple(header["matrix"]))
        packets, frames = header["packets"], header["frames"]
        start = (frames + 7) // 8
        damaged = np.unpackbits(np.frombuffer(arrays[:start], dtype=np.uint8), count=frames).astype(bool)
        if not packets:
            return cls.of_counted(format, _from_planes(arrays[start:]).view(np.float64), damaged)
        flags = np.frombuffer(arrays[start : start + packets], dtype=np.uint8)
        dts = np.cumsum(_from_planes(arrays[start + packets : start + 9 * packets]))
        return cls.of_packets(
            format,
            packet_pts=dts + np.cumsum(_from_planes(arrays[start + 9 * packets :])),
            packet_dts=dts,
            packet_is_key=flags & 1 > 0,
            packet_is_disposable=flags & 2 > 0,
            packet_is_shown=flags & 4 > 0,
            keys_are_clean=header["keys_are_clean"],
            damaged=damaged,
        )


def build_index(path: str, container: InputContainer) -> PacketIndex:
    """Read a file just opened from end to end.

    Raises:
        BadVideoError: no video, no frames, or truncated.
    """
    stream = video_stream(path, container)
    packets, found, matrix = _check_complete(path, container, stream)
    pts, dts, is_key, is_shown, is_corrupt = map(np.array, zip(*packets, strict=True))
    times = np.unique(pts[is_shown])
    distinct = len(times) == is_shown.sum() and _NO_PTS not in times
    format = Format.of(container, stream, matrix)
    if format.container in _WITHOUT_TIMESTAMPS or not distinct or not is_key.any():
        return _count_frames(path, format, stream)
    index = PacketIndex.of_packets(
        format,
        packet_pts=pts,
        packet_dts=dts,
        packet_is_key=is_key,
        packet_is_disposable=found.disposable(),
        packet_is_shown=is_shown,
        keys_are_clean=found.all_keys_clean,
    )
    if not len(index.pts):
        raise BadVideoError(path, "has no frames that can be decoded")
    for packet in np.flatnonzero(is_corrupt).tolist():
        index.damaged[index.spoilt_by(packet)] = True
    return index


class _Packet(NamedTuple):
    pts: int  # _NO_PTS if it is missing
    dts: int  # the pts if it is missing
    is_key: bool
    is_shown: bool  # not only decoded, as before the start of an edit list
    is_corrupt: bool


def _check_complete(
    path: str, container: InputContainer, stream: VideoStream
) -> tuple[list[_Packet], DisposablePackets, Matrix]:
    """Read all packets of the stream; BadVideoError where the file holds less than its header promises.

    Returns:
        The packets, what their contents say of them, and the display matrix of the first picture.
    """
    name = container.format.name
    declared = float(container.duration or 0) / av.time_base if name in _DECLARE_DURATION else 0.0
    if name == "avi" and stream.average_rate:  # FFmpeg corrects its duration, not its count
        declared = max(declared, float(stream.frames / stream.average_rate))
    packets: list[_Packet] = []
    disposable = DisposablePackets(stream)
    matrix: Matrix | None = None
    end = 0.0
    try:
        # The declared duration is that of the longest stream.
        for packet in container.demux() if declared else container.demux(stream):
            if not packet.size:
                continue
            if declared and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                pts = _NO_PTS if packet.pts is None else packet.pts
                dts = pts if packet.dts is None else packet.dts
                flags = packet.is_keyframe, not packet.is_discard, packet.is_corrupt
                packets.append(_Packet(pts, dts, *flags))
                disposable.add(packet)
                if matrix is None and len(packets) <= _PACKETS_TRIED:
                    matrix = first_matrix(stream, packet)
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
    if matrix is None:
        matrix = first_matrix(stream, None) or AS_CODED
    return packets, disposable, matrix


def _count_frames(path: str, format: Format, stream: VideoStream) -> PacketIndex:
    """Index by a full decode from the start, for files without usable timestamps."""
    seconds: list[float] = []
    damaged: list[bool] = []
    tainted = False
    with open_container(path) as opened:
        for picture in decode_all(path, opened):
            if picture is None:
                tainted = True
                continue
            tainted = picture.is_corrupt or (tainted and not picture.key_frame)
            seconds.append(np.nan if picture.time is None else picture.time)
            damaged.append(tainted)
    if not seconds:
        raise BadVideoError(path, "has no frames that can be decoded")
    times = np.array(seconds)
    if np.isnan(times).any() or (np.diff(times) <= 0).any():
        times = np.arange(len(seconds)) / float(stream.average_rate or 25)
    return PacketIndex.of_counted(format, times - times[0], np.array(damaged))


def _planes(numbers: NDArray[np.int64]) -> bytes:
    """All lowest bytes, then all second bytes...: what is alike lies together and packs well."""
    return numbers.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _from_planes(content: bytes) -> NDArray[np.int64]:
    planes = np.frombuffer(content, dtype=np.uint8).reshape(8, -1)
    return planes.T.copy().view("<i8")[:, 0].astype(np.int64)
