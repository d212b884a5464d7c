"""Decoded pictures as they are encoded: small, upright, with square pixels, in 8 bit 4:2:0."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.video.frame import PictureType

from videonorm.data.decoding.orientation import Orientation


class Box(NamedTuple):
    """A part of a picture, in pixels as they are stored; each number is even, as 4:2:0 needs."""

    x: int
    y: int
    width: int
    height: int


class Shaper:
    """Pictures cropped, scaled, with square pixels, upright, in 8 bit 4:2:0, at the rate wanted.

    Args:
        short_side: pixels, even; smaller pictures are not enlarged.
        fps: fixed rate, as 30000/1001; None keeps the time of each.
        aspect: width of a pixel of the source over its height.
        orientation: what makes them upright.
        crop: what is kept of each; None keeps all of it.
    """

    def __init__(
        self,
        short_side: int,
        fps: str | None,
        aspect: Fraction,
        orientation: Orientation,
        crop: Box | None = None,
    ) -> None:
        self._short_side = short_side
        self._fps = fps
        self._aspect = aspect
        self._orientation = orientation
        self._crop = crop
        self._size: tuple[int, int] | None = None  # that of the first picture, for all
        self._graph: Any = None
        self._looks: tuple[Any, ...] | None = None

    def push(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Those that are ready when one more has come."""
        looks = (picture.width, picture.height, picture.format.name, picture.color_range)
        if looks != self._looks:  # streams cut together may change their looks
            yield from self.finish()
            kept = self._crop or picture
            self._size = self._size or new_size(kept.width, kept.height, self._aspect, self._short_side)
            self._graph = _graph(picture, self._crop, self._size, self._fps, self._orientation)
            self._looks = looks
        self._graph.vpush(picture)
        yield from _ready(self._graph)

    def finish(self) -> Iterator[av.VideoFrame]:
        """Those that are left."""
        if self._graph:
            self._graph.vpush(None)
            yield from _ready(self._graph)


def new_size(width: int, height: int, aspect: Fraction, short_side: int) -> tuple[int, int]:
    """(width, height) with square pixels, the shorter side at most ``short_side``, both even.

    An uneven pixel is made square by its longer side, so that no row or column is lost to that.
    """
    square_width, square_height = (width * aspect, height) if aspect >= 1 else (width, height / aspect)
    shorter = min(square_width, square_height)
    ratio = min(Fraction(1), Fraction(short_side) / Fraction(shorter))

    def even(side: Fraction | int) -> int:
        scaled = Fraction(side) * ratio
        # A shorter side that is odd is cut to even, never enlarged.
        return max(2, 2 * (int(scaled) // 2 if side == shorter else round(scaled / 2)))

    return even(square_width), even(square_height)


def _graph(
    picture: av.VideoFrame,
    crop: Box | None,
    size: tuple[int, int],
    fps: str | None,
    orientation: Orientation,
) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    chain = [
        graph.add(
            "buffer",
            video_size=f"{picture.width}x{picture.height}",
            pix_fmt=picture.format.name,
            time_base=str(picture.time_base),
            pixel_aspect="1/1",
            range=str(int(picture.color_range)),
            colorspace=str(int(picture.colorspace)),
        ),
        *(
            [graph.add("crop", x=str(crop.x), y=str(crop.y), w=str(crop.width), h=str(crop.height))]
            if crop
            else []
        ),
        graph.add("scale", w=str(size[0]), h=str(size[1]), flags="bicubic", out_range="tv"),
        graph.add("format", pix_fmts="yuv420p"),
    ]
    if orientation.transposed:
        chain.append(graph.add("transpose", dir="cclock_flip"))  # FFmpeg's name for no turn, only that
    if orientation.mirrored:
        chain.append(graph.add("hflip"))
    if orientation.flipped:
        chain.append(graph.add("vflip"))
    chain.append(graph.add("setsar", sar="1"))
    if fps:
        chain.append(graph.add("fps", fps=fps))
    graph.link_nodes(*chain, graph.add("buffersink")).configure()
    return graph


def _ready(graph: Any) -> Iterator[av.VideoFrame]:
    for picture in pulled(graph):
        picture.pict_type = PictureType.NONE  # or the encoder would repeat the source's keyframes
        yield picture


def pulled(graph: Any) -> Iterator[Any]:
    """What a filter graph has ready."""
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
