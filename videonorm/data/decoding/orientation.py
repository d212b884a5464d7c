"""How the pictures of a file are to be laid to be upright: one of eight orientations, for all readers.

A file says it by a display matrix (FFmpeg's libavutil/display.h), in the header of the container (ISO/IEC
14496-12, 8.3.2; the projection of Matroska) or in the pictures (display orientation, ITU-T H.264 and H.265,
annex D). Three rules for what is not plain:

- one video has one orientation, that of the first picture that can be decoded; its header goes before it;
- of another matrix (a slant, an angle between the quarters, zeros) the nearest orientation is taken, and of
  equally near ones the one that moves less; scale and shift count for nothing, as the shape of pixels does;
- what was made of upright pictures (transcoded, packed) holds no matrix.
"""

from struct import unpack_from
from typing import Any, NamedTuple, Self

import numpy as np
from av import Packet, VideoFrame
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videonorm.data.decoding.container import DECODER_ERRORS, decode

Matrix = tuple[int, int, int, int]
"""a, b, c, d: the pixel at (x, y), from the left and the top, goes to (a x + c y, b x + d y); in 1/65536."""

AS_CODED: Matrix = (2**16, 0, 0, 2**16)


def display_matrix(picture: VideoFrame) -> Matrix:
    """That of a decoded picture; ``AS_CODED`` if it has none."""
    messages: Any = picture.side_data
    for data in messages:  # first what the container says
        if data.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = unpack_from("=5i", bytes(data))
            return a, b, c, d
    return AS_CODED


def first_matrix(stream: VideoStream, packet: "Packet[Any] | None") -> Matrix | None:
    """That of the first picture that comes out of the decoder for a packet; ``None`` if none does."""
    try:
        return next(map(display_matrix, decode(stream, packet)), None)
    except DECODER_ERRORS:
        return None


class Orientation(NamedTuple):
    """What makes a picture upright, done in this order."""

    transposed: bool  # rows become columns
    mirrored: bool  # left becomes right
    flipped: bool  # top becomes bottom

    @classmethod
    def of(cls, matrix: Matrix) -> Self:
        """The nearest to a matrix, by the least sum of squares."""
        a, b, c, d = matrix
        transposed = abs(b) + abs(c) > abs(a) + abs(d)
        across, down = (c, b) if transposed else (a, d)
        return cls(transposed, across < 0, down < 0)

    @property
    def degrees(self) -> int | None:
        """The turn that it is, counterclockwise, below 360; ``None`` if left and right change places."""
        if self.transposed ^ self.mirrored ^ self.flipped:
            return None
        return 90 * self.transposed + 180 * self.mirrored

    def upright(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """A view of pictures (..., H, W, 3) as they are to be seen."""
        if self.transposed:
            pictures = np.swapaxes(pictures, -3, -2)
        return pictures[..., :: -1 if self.flipped else 1, :: -1 if self.mirrored else 1, :]
