"""Which packets hold pictures that no other picture refers to: unless wanted, they need not be decoded.

H.264 and HEVC say so in the headers of their NAL units (ITU-T H.264 and H.265, 7.3 and 7.4); for other codecs
the container may have marked the packet. What is not certain counts as referred to.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from av import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

_REFERRED_TO = -1
_MAX_TEMPORAL_ID = 6


class DisposablePackets:
    """Reads the packets of a stream, one after the other, while its index is built."""

    def __init__(self, stream: VideoStream) -> None:
        codec = stream.codec_context
        extradata = codec.extradata or b""
        self._codec = codec.codec.canonical_name
        self._length_size = _length_size(self._codec, extradata)
        self._layers: list[int] = []  # the layer in which each packet is not referred to
        self._highest_layer = 0
        # A damaged header may call a reference disposable. In H.264 the numbers of the frames tell.
        self._frame_num_bits = _frame_num_bits(extradata) if self._codec == "h264" else None
        self._reference_num = 0
        self._group = 0  # the first packet of the group of pictures
        self._in_sequence = True  # so far in the group
        self.all_keys_clean = True  # of H.264: no keyframe but IDR pictures, behind which nothing looks back

    def add(self, packet: "Packet[Any]") -> None:
        match self._codec:
            case "h264":
                layer = self._h264(bytes(packet), packet.is_keyframe)
            case "hevc":
                layer = self._hevc(bytes(packet))
            case _:
                layer = 0 if packet.is_disposable else _REFERRED_TO
        self._layers.append(_REFERRED_TO if packet.is_keyframe or packet.is_corrupt else layer)

    def disposable(self) -> NDArray[np.bool_]:
        """(P,) for the packets added."""
        return np.array([layer == self._highest_layer for layer in self._layers], dtype=bool)

    def _h264(self, data: bytes, is_key: bool) -> int:
        if self._frame_num_bits is None:
            self.all_keys_clean = False
            return _REFERRED_TO
        layer = 0
        picture: bytes | None = None  # of the first slice
        for at in _nal_units(data, self._length_size):
            kind = data[at] & 31 if at >= 0 else 0
            if kind in (1, 5):
                picture = picture or data[at : at + 12]
                if data[at] & 0x60:
                    layer = _REFERRED_TO
            elif kind not in (6, 9, 12):  # SEI, access unit delimiter, filler
                layer = _REFERRED_TO  # parameter sets, or what we do not know
        follows = picture is not None and self._follows(picture)
        if not follows:
            self._layers[self._group :] = [_REFERRED_TO] * (len(self._layers) - self._group)
        if is_key:
            self.all_keys_clean &= picture is not None and picture[0] & 31 == 5
            self._group = len(self._layers)
            self._in_sequence = True
        self._in_sequence &= follows
        return layer if self._in_sequence else _REFERRED_TO

    def _follows(self, picture: bytes) -> bool:
        """Whether the number of a frame is the next one after the last reference's, as the standard asks."""
        assert self._frame_num_bits is not None
        bits = _bits(picture[1:])
        try:
            at = 0
            for _ in range(3):  # first macroblock, slice type, picture parameter set
                _, at = _exp_golomb(bits, at)
            number = int(bits[at : at + self._frame_num_bits], 2)
        except ValueError:
            return False
        is_idr = picture[0] & 31 == 5
        expected = 0 if is_idr else (self._reference_num + 1) % 2**self._frame_num_bits
        if picture[0] & 0x60:
            self._reference_num = number
        return number == expected

    def _hevc(self, data: bytes) -> int:
        """Pictures of a higher temporal layer may refer to those that their own layer does not refer to.

        A damaged header needs no care here: the decoder fails where a reference is missing.
        """
        layer = _REFERRED_TO
        referred_to = False
        for at in _nal_units(data, self._length_size):
            if at < 0 or at + 1 >= len(data):
                self._highest_layer = _MAX_TEMPORAL_ID + 1  # unknown
                return _REFERRED_TO
            kind = data[at] >> 1 & 63
            if kind < 32:  # a slice
                layer = (data[at + 1] & 7) - 1
                self._highest_layer = max(self._highest_layer, layer)
                is_base = not (data[at] & 1 or data[at + 1] & 0xF8)  # of a scalable or stereo stream
                referred_to |= not is_base or kind not in (0, 2, 4, 6, 8)  # TRAIL_N to RASL_N
            else:
                referred_to |= kind not in (35, 38, 39, 40)  # delimiter, filler, SEI before and after
        return _REFERRED_TO if referred_to else layer


def _length_size(codec: str, extradata: bytes) -> int:
    """Bytes of the length in front of each NAL unit (ISO/IEC 14496-15); 0 for start codes (Annex B)."""
    if codec == "h264" and len(extradata) >= 8 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) >= 23 and (extradata[0] or extradata[1] or extradata[2] > 1):
        return (extradata[21] & 3) + 1
    return 0


def _nal_units(data: bytes, length_size: int) -> Iterator[int]:
    """Where each NAL unit begins; -1 where the packet does not split into whole units."""
    at = 0
    if length_size:
        while at < len(data):
            start = at + length_size
            at = start + int.from_bytes(data[at:start], "big")
            yield start if start < at <= len(data) else -1
        return
    at = data.find(b"\0\0\1")
    if at < 0 or any(data[:at]):
        yield -1
    while at >= 0:
        start = at + 3
        yield start if start < len(data) else -1
        at = data.find(b"\0\0\1", start)


def _frame_num_bits(extradata: bytes) -> int | None:
    """Width of the field ``frame_num`` in slice headers, from H.264's sequence parameter set (7.3.2.1.1)."""
    is_avcc = _length_size("h264", extradata) > 0  # the first set is then at a fixed place
    for start in [8] if is_avcc else _nal_units(extradata, 0):
        sps = extradata[start : start + 40] if start >= 0 else b""
        if len(sps) < 5 or sps[0] & 31 != 7:
            continue
        bits = _bits(sps[4:])
        try:
            _, at = _exp_golomb(bits, 0)
            if sps[1] not in (66, 77, 88):  # baseline, main, extended: 4:2:0 without scaling matrices
                chroma_format, at = _exp_golomb(bits, at)
                for _ in range(2):  # bit depths
                    _, at = _exp_golomb(bits, at)
                if chroma_format == 3 or bits[at + 1] == "1":
                    return None  # fields that are rare follow
                at += 2
            width = _exp_golomb(bits, at)[0] + 4
        except (ValueError, IndexError):
            return None
        return width if width <= 16 else None
    return None


def _bits(data: bytes) -> str:
    """The bits of the start of a NAL unit, without the bytes put in to prevent start codes."""
    data = data.replace(b"\0\0\3", b"\0\0")
    return f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"


def _exp_golomb(bits: str, at: int) -> tuple[int, int]:
    """The number at a place (ITU-T H.264, 9.1), and the place behind it."""
    one = bits.index("1", at)
    end = 2 * one - at + 1
    return int(bits[one:end], 2) - 1, end
