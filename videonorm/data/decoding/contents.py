"""What the bytes of packets say of the pictures in them: what finding and leaving out frames rests on.

H.264 and HEVC say it in the headers of their NAL units (ITU-T H.264 and H.265, 7.3 and 7.4), MPEG-2 and VP8/9
in those of their pictures; for other codecs the container may have marked the packet. What is not certain
counts as referred to.
"""

from typing import Any, NamedTuple

import numpy as np
from av import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videonorm.data.decoding import h264
from videonorm.data.decoding.h264 import SequenceParameters, Slice, nal_units

_REFERRED_TO = -1
_MAX_TEMPORAL_ID = 6
_MPEG4_BYTES = 16


class PacketPicture(NamedTuple):
    """The picture in a packet, as far as it is known without decoding it."""

    is_second: bool = False  # the second field of the picture in the packet before
    is_b: bool = False  # H.264: predicted from two sides, of which one at least comes later as a rule
    is_hidden: bool = False  # VP8 and VP9: only for others to refer to
    is_intra: bool = True  # False for H.264's pictures that are predicted from others


class _Field(NamedTuple):
    parity: int  # 0 is a frame, 1 the top field, 2 the bottom field
    number: int  # which both fields of a picture have


class PacketContents:
    """Reads the packets of a stream, one after the other, while its index is built."""

    def __init__(self, stream: VideoStream) -> None:
        codec = stream.codec_context
        extradata = codec.extradata or b""
        self._codec = codec.codec.canonical_name
        is_h264 = self._codec == "h264"
        self._length_size = h264.length_size(extradata) if is_h264 else _hevc_length_size(extradata)
        self._layers: list[int] = []  # the layer in which each packet is not referred to
        self._highest_layer = 0
        self._parameters = h264.sequence_parameters(extradata) if is_h264 else None
        # A damaged header may call a reference disposable. In H.264 the numbers of the frames tell.
        self._reference_num = 0
        self._group = 0  # the first packet of the group of pictures
        self._in_sequence = True  # so far in the group
        self._open: _Field | None = None  # of a picture whose other field may be in the next packet
        self._second_fields: list[int] = []
        self.unknown = False  # whether a packet is a picture, or how the pictures refer to each other
        self.all_keys_clean = True  # of H.264: no keyframe but IDR pictures, behind which nothing looks back

    def add(self, packet: "Packet[Any]") -> PacketPicture:
        picture = PacketPicture()
        match self._codec:
            case "h264":
                layer, picture = self._h264(bytes(packet), packet.is_keyframe)
            case "hevc":
                layer = self._hevc(bytes(packet))
            case _:
                layer = 0 if packet.is_disposable else _REFERRED_TO
                if self._codec in ("vp8", "vp9"):
                    picture = PacketPicture(is_hidden=_is_hidden(self._codec, bytes(packet)))
                elif self._codec == "mpeg2video":
                    picture = PacketPicture(is_second=self._is_second(_mpeg2_fields(bytes(packet))))
                # MPEG-4 says "as before" in so few bytes that no picture has; its decoder gives none then.
                self.unknown |= self._codec == "mpeg4" and packet.size < _MPEG4_BYTES
        if picture.is_second:
            self._second_fields.append(len(self._layers))
        self._layers.append(_REFERRED_TO if packet.is_keyframe or packet.is_corrupt else layer)
        return picture

    def disposable(self) -> NDArray[np.bool_]:
        """(P,) for the packets added: no other picture refers to what is in them."""
        alone = np.array([layer == self._highest_layer for layer in self._layers], dtype=bool)
        for second in self._second_fields:  # left out with the first or not
            alone[second] = alone[second - 1] = alone[second] & alone[second - 1]
        return alone

    def _h264(self, data: bytes, is_key: bool) -> tuple[int, PacketPicture]:
        """The layer in which it is not referred to, and what else is known of it."""
        layer = 0
        slices: list[Slice | None] = []
        for at in nal_units(data, self._length_size):
            kind = data[at] & 31 if at >= 0 else 0
            if kind in (1, 5):
                unit = data[at : at + h264.SLICE_BYTES]
                slices.append(Slice.of(unit, self._parameters) if self._parameters else None)
                if data[at] & 0x60:
                    layer = _REFERRED_TO
            elif kind not in (6, 9, 12):  # SEI, access unit delimiter, filler
                layer = _REFERRED_TO  # parameter sets, or what we do not know
                if kind == 7:
                    self._parameters = SequenceParameters.of(data[at : at + h264.SPS_BYTES])
        if self._parameters is None:
            self.unknown, self.all_keys_clean = True, False
            return _REFERRED_TO, PacketPicture()
        picture = slices[0] if slices else None
        parts = [part for part in slices if part is not None]
        is_second = self._is_second({_Field(part.field, part.frame_num) for part in parts})
        follows = is_second or (picture is not None and self._follows(picture))
        if not follows:
            self._layers[self._group :] = [_REFERRED_TO] * (len(self._layers) - self._group)
        if is_key and not is_second:
            self.all_keys_clean &= picture is not None and picture.is_idr
            self._group = len(self._layers)
            self._in_sequence = True
        self._in_sequence &= follows
        found = PacketPicture(
            is_second=is_second,
            is_b=any(part.kind == h264.B for part in parts),
            # The second field of a keyframe may be predicted from the first.
            is_intra=all(part.kind in h264.INTRA for part in parts if part.field == parts[0].field),
        )
        return layer if self._in_sequence else _REFERRED_TO, found

    def _is_second(self, fields: "set[_Field]") -> bool:
        """Whether a packet's field completes the picture of the packet before, as FFmpeg decides it."""
        first, self._open = self._open, None
        here = fields.pop() if len(fields) == 1 else None  # not where both are in the packet
        if here is None or not here.parity:
            return False
        if first is not None and here.parity != first.parity and here.number == first.number:
            return True
        self._open = here
        return False

    def _follows(self, picture: Slice) -> bool:
        """Whether the number of a frame is the next one after the last reference's, as the standard asks."""
        modulus = 2**self._parameters.frame_num_bits if self._parameters else 1
        expected = 0 if picture.is_idr else (self._reference_num + 1) % modulus
        if picture.is_reference:
            self._reference_num = picture.frame_num
        return picture.frame_num == expected

    def _hevc(self, data: bytes) -> int:
        """Pictures of a higher temporal layer may refer to those that their own layer does not refer to.

        A damaged header needs no care here: the decoder fails where a reference is missing.
        """
        layer = _REFERRED_TO
        referred_to = False
        for at in nal_units(data, self._length_size):
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


def _hevc_length_size(extradata: bytes) -> int:
    """See ``h264.length_size``."""
    is_hvcc = len(extradata) >= 23 and (extradata[0] or extradata[1] or extradata[2] > 1)
    return (extradata[21] & 3) + 1 if is_hvcc else 0


def _mpeg2_fields(data: bytes) -> set[_Field]:
    """From picture headers and their extensions (ITU-T H.262, 6.2.3); none of a picture that is a frame."""
    found: set[_Field] = set()
    number = -1
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 6:
        kind = data[at + 3]
        if kind == 0:
            number = data[at + 4] << 2 | data[at + 5] >> 6
        elif kind == 0xB5 and data[at + 4] >> 4 == 8:
            if (structure := data[at + 6] & 3) in (0, 3):
                break
            found.add(_Field(structure, number))
        at = data.find(b"\0\0\1", at + 3)
    return found


def _is_hidden(codec: str, data: bytes) -> bool:
    """From the frame headers (RFC 6386, 9.1; VP9 bitstream specification, 6.2)."""
    first = data[0]
    if codec == "vp8":
        return not first >> 4 & 1
    if (
        first & 0x30 == 0x30 or data[-1] & 0xE0 == 0xC0
    ):  # profile 3; a superframe, whose last picture is shown
        return False
    return not first & 8 and not first & 2  # neither an earlier one shown again nor to be shown
