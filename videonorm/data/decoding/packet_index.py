"""Which packet holds which frame: what exact random access and the check for truncation rest on.

Indices made from an average frame rate are wrong for variable frame rates, and a container's own count cannot
be trusted in a damaged file. So the packets are read once, without decoding (1 to 3 ms for ten seconds of
video), and their timestamps sorted.

Frame i is picture i of a plain decode from first to last. Where packets alone do not tell which that is, such
a decode is made once, and either confirms the timestamps or counts the pictures.
"""

import json
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Self

import av
import numpy as np
from av import Packet
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
from videonorm.data.decoding.contents import PacketContents
from videonorm.data.decoding.location import BadVideoError
from videonorm.data.decoding.orientation import AS_CODED, Matrix, first_matrix

# FFmpeg's names of the containers that
_WITHOUT_TIMESTAMPS = ("avi", "mpeg")  # store no or only some timestamps: FFmpeg guesses the others
_DECLARE_DURATION = ("avi", "flv", "matroska,webm")  # in the header; for others FFmpeg guesses it

_PACKETS_TRIED = 100  # until one picture is decoded, which says how all are to be laid
_NO_PTS = -(2**63)  # FFmpeg's own number for a timestamp that is missing
_VERSION = 4  # of the bytes of an index


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
    position: NDArray[np.int64]  # (N,) the packet of each frame, of the first field where there are two
    last: NDArray[np.int64]  # (N,) the last packet of each frame
    keyframe: NDArray[np.int64]  # (N,) the packet from which decoding must start to get the frame
    packet_pts: NDArray[np.int64]  # (P,)
    packet_dts: NDArray[np.int64]  # (P,)
    packet_is_key: NDArray[np.bool_]  # (P,)
    packet_is_disposable: NDArray[np.bool_]  # (P,) no other picture refers to it
    packet_is_second: NDArray[np.bool_]  # (P,) the second field of the picture in the packet before
    keys_are_whole: bool  # no gradual intra refresh goes by the name of a keyframe in the file
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
        packet_is_second: NDArray[np.bool_],
        packet_is_shown: NDArray[np.bool_],  # (P,) a frame begins in it
        keys_are_whole: bool,
        keys_are_clean: bool,
        damaged: NDArray[np.bool_] | None = None,
    ) -> Self:
        """The index that follows from the packets, of which one at least is a keyframe."""
        keys = np.flatnonzero(packet_is_key)
        shown = np.flatnonzero(packet_is_shown)
        position = shown[np.argsort(packet_pts[shown])]
        pts = packet_pts[position]
        # A picture shown before the keyframe it follows in the file (open GOP) needs the keyframe before it.
        which = np.searchsorted(keys, position, side="right") - 1
        keys_are_clean &= bool((packet_pts[keys[which]] <= pts).all())
        while (early := (packet_pts[keys[which]] > pts) & (which > 0)).any():
            which[early] -= 1
        return cls(
            format=format,
            seconds=(pts - pts[:1]).astype(np.float64) * float(format.time_base),
            pts=pts,
            damaged=np.zeros(len(pts), dtype=bool) if damaged is None else damaged,
            position=position,
            last=position + np.append(packet_is_second, False)[position + 1],
            keyframe=keys[which],
            packet_pts=packet_pts,
            packet_dts=packet_dts,
            packet_is_key=packet_is_key,
            packet_is_disposable=packet_is_disposable,
            packet_is_second=packet_is_second,
            keys_are_whole=keys_are_whole,
            keys_are_clean=keys_are_clean,
        )

    @classmethod
    def of_counted(cls, format: Format, seconds: NDArray[np.float64], damaged: NDArray[np.bool_]) -> Self:
        none, never = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        pts = np.arange(len(seconds))
        packets = {
            **dict.fromkeys(("position", "last", "keyframe", "packet_pts", "packet_dts"), none),
            **dict.fromkeys(("packet_is_key", "packet_is_disposable", "packet_is_second"), never),
        }
        return cls(format, seconds, pts, damaged, **packets, keys_are_whole=False, keys_are_clean=False)

    @property
    def counted(self) -> bool:
        return len(self.packet_pts) == 0

    def spoilt_by(self, packet: int) -> NDArray[np.bool_]:
        """(N,) the frames that damage in a packet may reach: those from it to the next keyframe.

        Errors spread through prediction; the decoder marks only about a quarter of the frames they reach.
        """
        later_keys = np.flatnonzero(self.packet_is_key[packet + 1 :]) + packet + 1
        reached = self.last >= packet
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
            "keys_are_whole": self.keys_are_whole,
            "keys_are_clean": self.keys_are_clean,
        }
        shown = np.zeros(len(self.packet_pts), dtype=bool)
        shown[self.position] = True
        flags = self.packet_is_key + 2 * self.packet_is_disposable + 4 * shown + 8 * self.packet_is_second
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
            packet_is_second=flags & 8 > 0,
            keys_are_whole=header["keys_are_whole"],
            keys_are_clean=header["keys_are_clean"],
            damaged=damaged,
        )


def build_index(path: str, container: InputContainer) -> PacketIndex:
    """Read a file just opened from end to end.

    Raises:
        BadVideoError: no video, no frames, or truncated.
    """
    stream = video_stream(path, container)
    packets, contents, matrix = _check_complete(path, container, stream)
    pts, dts, is_key, is_shown, is_corrupt, is_second, is_b, is_hidden, is_intra = map(
        np.array, zip(*packets, strict=True)
    )
    format = Format.of(container, stream, matrix)
    is_key &= ~is_second
    keys_are_whole = bool(is_intra[is_key].all())
    is_key &= is_intra
    is_shown &= ~is_second & ~is_hidden
    times = pts[is_shown]
    if not is_key.any() or _NO_PTS in times or len(np.unique(times)) < len(times):
        return _Decode.of(path).counted(path, format, stream)
    codec = stream.codec_context
    if format.codec != "h264" or contents.unknown:  # what may be is then all that is known
        is_b = ~is_key & codec.codec.reorder & codec.has_b_frames
    if is_b.any() and format.container in _WITHOUT_TIMESTAMPS:
        return _Decode.of(path).counted(path, format, stream)
    # What precedes the first keyframe in the file cannot be decoded, what is only shown before it perhaps.
    first = int(np.argmax(is_key))
    is_shown[:first] = False
    leading = is_shown & (pts < pts[first])
    if leading.any():
        is_shown &= ~leading | np.isin(pts, _decodable_before(path, int(pts[first])))
    index = PacketIndex.of_packets(
        format,
        packet_pts=pts,
        packet_dts=dts,
        packet_is_key=is_key,
        packet_is_disposable=contents.disposable(),
        packet_is_second=is_second,
        packet_is_shown=is_shown,
        keys_are_whole=keys_are_whole,
        keys_are_clean=contents.all_keys_clean,
    )
    if not len(index.pts):
        raise BadVideoError(path, "has no frames that can be decoded")
    if contents.unknown or _follow_decoding(pts[~is_second], is_key[~is_second], is_b[~is_second]):
        decoded = _Decode.of(path)
        if decoded.pts != index.pts.tolist():
            return decoded.counted(path, format, stream)
    for packet in np.flatnonzero(is_corrupt).tolist():
        index.damaged[index.spoilt_by(packet)] = True
    return index


def _follow_decoding(pts: NDArray[np.int64], is_key: NDArray[np.bool_], is_b: NDArray[np.bool_]) -> bool:
    """Whether timestamps only rise from a keyframe to the next though there are B-pictures between.

    They are then those of decoding, as in raw streams that were put into a container by a tool that did not
    look into them, and in containers that store none of display (H.264 in ASF and MXF).
    """
    group = np.cumsum(is_key)
    falls = pts < np.maximum.accumulate(pts)
    return len(np.setdiff1d(group[is_b], group[falls])) > 0


def _decodable_before(path: str, key_pts: int) -> list[int]:
    """The timestamps of the pictures shown before the first keyframe that come out of the decoder.

    They refer to pictures before it (open GOP), or to none (RADL pictures of HEVC and VVC, closed GOPs of
    MPEG-2).
    """
    found: list[int] = []
    with open_container(path) as opened:
        for picture in decode_all(path, opened):
            if picture is None or picture.pts is None or picture.is_corrupt:
                continue
            if picture.pts >= key_pts:
                break
            found.append(picture.pts)
    return found


def pts_of(packet: "Packet[Any]") -> int:
    """With FFmpeg's number for one that is missing."""
    return _NO_PTS if packet.pts is None else packet.pts


class _Packet(NamedTuple):
    pts: int  # _NO_PTS if it is missing
    dts: int  # the pts if it is missing
    is_key: bool
    is_shown: bool  # not only decoded, as before the start of an edit list
    is_corrupt: bool
    is_second: bool  # these as in PacketPicture
    is_b: bool
    is_hidden: bool
    is_intra: bool


def _check_complete(
    path: str, container: InputContainer, stream: VideoStream
) -> tuple[list[_Packet], PacketContents, Matrix]:
    """Read all packets of the stream; BadVideoError where the file holds less than its header promises.

    Returns:
        The packets, what their contents say of them, and the display matrix of the first picture.
    """
    name = container.format.name
    declared = float(container.duration or 0) / av.time_base if name in _DECLARE_DURATION else 0.0
    if name == "avi" and stream.average_rate:  # FFmpeg corrects its duration, not its count
        declared = max(declared, float(stream.frames / stream.average_rate))
    packets: list[_Packet] = []
    contents = PacketContents(stream)
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
                if packet.has_sidedata("encryption_info") or "enc_key_id" in stream.metadata:
                    raise BadVideoError(path, "is encrypted")
                pts = pts_of(packet)
                dts = pts if packet.dts is None else packet.dts
                flags = packet.is_keyframe, not packet.is_discard, packet.is_corrupt
                packets.append(_Packet(pts, dts, *flags, *contents.add(packet)))
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
    return packets, contents, matrix


class _Decode(NamedTuple):
    """What came out of a full decode from the start."""

    pts: list[int | None]
    seconds: list[float]  # NaN where it is missing
    damaged: list[bool]

    @classmethod
    def of(cls, path: str) -> Self:
        decoded = cls([], [], [])
        tainted = False
        with open_container(path) as opened:
            for picture in decode_all(path, opened):
                if picture is None:
                    tainted = True
                    continue
                tainted = picture.is_corrupt or (tainted and not picture.key_frame)
                decoded.pts.append(picture.pts)
                decoded.seconds.append(np.nan if picture.time is None else picture.time)
                decoded.damaged.append(tainted)
        return decoded

    def counted(self, path: str, format: Format, stream: VideoStream) -> PacketIndex:
        if not self.pts:
            raise BadVideoError(path, "has no frames that can be decoded")
        times = np.sort(self.seconds)  # those of decoding are as far apart as those of display
        if np.isnan(times).any() or (np.diff(times) <= 0).any():
            times = np.arange(len(times), dtype=np.float64) / float(stream.average_rate or 25)
        return PacketIndex.of_counted(format, times - times[0], np.array(self.damaged))


def _planes(numbers: NDArray[np.int64]) -> bytes:
    """All lowest bytes, then all second bytes...: what is alike lies together and packs well."""
    return numbers.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _from_planes(content: bytes) -> NDArray[np.int64]:
    planes = np.frombuffer(content, dtype=np.uint8).reshape(8, -1)
    return planes.T.copy().view("<i8")[:, 0].astype(np.int64)
