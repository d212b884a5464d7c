"""What H.264's headers say of a picture (ITU-T H.264, 7.3): the little that finding frames needs."""

from collections.abc import Iterator
from typing import NamedTuple, Self

SPS_BYTES = 400  # of a parameter set, scaling matrices included
SLICE_BYTES = 20  # of a slice, up to and with the flags of fields
B, INTRA = 1, {2, 4}  # kinds of slices: B; I and SI
_HIGH_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)  # with a chroma format


class SequenceParameters(NamedTuple):
    """From H.264's sequence parameter set (7.3.2.1.1)."""

    frame_num_bits: int
    has_colour_planes: bool  # each coded apart
    has_fields: bool  # a picture may be coded as two fields

    @classmethod
    def of(cls, unit: bytes) -> Self | None:
        """Of a NAL unit; ``None`` where it cannot be read."""
        if len(unit) < 5 or unit[0] & 31 != 7:
            return None
        bits = _Bits(unit[4:SPS_BYTES])
        try:
            bits.number()  # of the set
            has_colour_planes = False
            if unit[1] in _HIGH_PROFILES:
                is_444 = bits.number() == 3
                has_colour_planes = is_444 and bits.flag()
                bits.number(), bits.number(), bits.flag()  # bit depths, transform bypass
                if bits.flag():
                    _skip_scaling_lists(bits, 12 if is_444 else 8)
            frame_num_bits = bits.number() + 4
            order = bits.number()  # how the order of display is coded
            if order == 0:
                bits.number()
            elif order == 1:
                bits.flag(), bits.number(), bits.number()
                for _ in range(bits.number()):
                    bits.number()
            bits.number(), bits.flag(), bits.number(), bits.number()  # reference frames, gaps, size
            has_fields = not bits.flag()
        except ValueError:
            return None
        return cls(frame_num_bits, has_colour_planes, has_fields) if frame_num_bits <= 16 else None


class Slice(NamedTuple):
    """From a slice header (7.3.3)."""

    is_idr: bool
    is_reference: bool
    kind: int  # 0 and 3 are P and SP
    frame_num: int
    field: int  # 0 is a frame, 1 the top field, 2 the bottom field

    @classmethod
    def of(cls, unit: bytes, parameters: SequenceParameters) -> Self | None:
        """Of a NAL unit of type 1 or 5; ``None`` where it cannot be read."""
        bits = _Bits(unit[1:SLICE_BYTES])
        try:
            bits.number()  # of the first macroblock
            kind = bits.number() % 5
            bits.number()  # of the picture parameter set
            bits.skip(2 * parameters.has_colour_planes)
            frame_num = bits.take(parameters.frame_num_bits)
            is_field = parameters.has_fields and bits.flag()
            field = 1 + bits.flag() if is_field else 0
        except ValueError:
            return None
        return cls(unit[0] & 31 == 5, unit[0] & 0x60 > 0, kind, frame_num, field)


def length_size(extradata: bytes) -> int:
    """Bytes of the length in front of each NAL unit (ISO/IEC 14496-15); 0 for start codes (Annex B)."""
    return (extradata[4] & 3) + 1 if len(extradata) >= 7 and extradata[0] == 1 else 0


def sequence_parameters(extradata: bytes) -> SequenceParameters | None:
    """The first that a stream's header holds and that can be read."""
    is_avcc = length_size(extradata) > 0  # the first set is then at a fixed place
    for start in [8] if is_avcc else nal_units(extradata, 0):
        if start >= 0 and (found := SequenceParameters.of(extradata[start : start + SPS_BYTES])):
            return found
    return None


def nal_units(data: bytes, length_size: int) -> Iterator[int]:
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


class _Bits:
    """The bits of the start of a NAL unit, without the bytes put in to prevent start codes.

    Raises:
        ValueError: they end too early.
    """

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("too few bits")
        return int(self._bits[self._at - count : self._at], 2)

    def skip(self, count: int) -> None:
        self._at += count

    def flag(self) -> bool:
        return self.take(1) == 1

    def number(self) -> int:
        """Exp-Golomb coded (9.1), unsigned."""
        one = self._bits.index("1", self._at)
        zeros = one - self._at
        self._at = one
        return self.take(zeros + 1) - 1


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for number in range(count):
        if not bits.flag():
            continue
        last = 8
        for _ in range(16 if number < 6 else 64):
            coded = bits.number()
            last = (last + (coded + 1) // 2 * (1 if coded % 2 else -1)) % 256  # signed: 1, -1, 2, -2...
            if not last:
                break  # the rest is as before
