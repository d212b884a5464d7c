"""The default decoder: FFmpeg through PyAV, in one thread, decoding no further than the last frame wanted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videonorm.data.decoding.container import (
    DECODER_ERRORS,
    check_file,
    decode,
    decode_all,
    describe,
    open_container,
    video_stream,
)
from videonorm.data.decoding.index_store import IndexStore, packet_index
from videonorm.data.decoding.location import BadVideoError
from videonorm.data.decoding.orientation import Orientation
from videonorm.data.decoding.packet_index import PacketIndex, pts_of
from videonorm.data.decoding.reader import Reader, scaled_size


class Pictures(ABC):
    """What takes the pictures of the frames wanted as they come out of the decoder."""

    def __init__(self, index: PacketIndex, wanted: Sequence[int]) -> None:
        self._row = {number: row for row, number in enumerate(index.pts[np.asarray(wanted)].tolist())}
        self.count = len(self._row)
        self.missing = set(self._row)

    def offer(self, pts: int, picture: VideoFrame) -> None:
        if pts in self.missing:
            self.missing.remove(pts)
            self.take(self._row[pts], picture)

    @abstractmethod
    def take(self, row: int, picture: VideoFrame) -> None:
        """Take the picture of the frame in this place of those wanted."""


Taken = TypeVar("Taken", bound=Pictures)


class PyAVReader(Reader):
    """Reads every container and codec of FFmpeg; see ``Reader``."""

    def __init__(self, path: str, store: IndexStore | None = None) -> None:
        self.path = path
        self._status = check_file(path)
        self._container = open_container(path, self._status)
        try:
            self._index = packet_index(path, store, self._container, self._status)
            self._stream = video_stream(path, self._container)
        except BaseException:
            self._container.close()
            raise
        self.seconds = self._index.seconds

    def close(self) -> None:
        self._container.close()

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        return self.decode_into(lambda: _Frames(self._index, indices, short_side), indices).frames

    def decode_into(self, new: Callable[[], Taken], indices: Sequence[int]) -> Taken:
        """Decode frames in their order, each taken as it comes out of the decoder: all need not be in memory.

        Args:
            new: makes what takes them; again, if they have to be decoded anew and what was taken is void.

        Returns:
            What has taken all of them. Void as well is what has, where an error is raised.

        Raises:
            BadVideoError: a wanted frame is missing or damaged.
        """
        try:
            return self._decode_into(new, np.asarray(indices, dtype=np.int64))
        except BadVideoError:
            raise
        except DECODER_ERRORS as error:
            raise BadVideoError(self.path, f"cannot be read: {describe(error)}") from None

    def _decode_into(self, new: Callable[[], Taken], wanted: NDArray[np.int64]) -> Taken:
        index = self._index
        self._refuse(wanted[index.damaged[wanted]])
        pictures = new()
        if index.counted:
            self._decode_counting(pictures)
            spoilt = index.damaged
        else:
            spoilt = self._decode_stretches(wanted, pictures)
            if pictures.missing or spoilt[wanted].any():
                # What needs more than its last keyframe is whole from the start of the file.
                pictures = new()
                with open_container(self.path, self._status) as container:
                    stream = video_stream(self.path, container)
                    spoilt = self._decode(container, stream, 0, int(index.last[wanted].max()), pictures)
        self._refuse(wanted[spoilt[wanted] | np.isin(index.pts[wanted], list(pictures.missing))])
        return pictures

    def _refuse(self, frames: NDArray[np.int64]) -> None:
        if len(frames):
            first = int(frames[0])
            raise BadVideoError(
                self.path,
                f"is damaged: {len(frames)} of the frames wanted cannot be decoded, "
                f"the first is frame {first} at {self.seconds[first]:.2f} s",
            )

    def _decode_stretches(self, wanted: NDArray[np.int64], pictures: Pictures) -> NDArray[np.bool_]:
        """Decode only from the keyframe before to the last frame wanted behind it, as often as needed."""
        index = self._index
        stretches: list[tuple[int, int]] = []  # first and last packet, in decoding order
        for key, last in zip(index.keyframe[wanted].tolist(), index.last[wanted].tolist(), strict=True):
            if stretches and key <= stretches[-1][1] + 1:
                stretches[-1] = (stretches[-1][0], max(stretches[-1][1], last))
            else:
                stretches.append((key, last))
        skip = index.packet_is_disposable.copy()
        skip[index.position[wanted]] = skip[index.last[wanted]] = False
        spoilt = np.zeros_like(index.damaged)
        for first, last in stretches:
            self._container.seek(int(index.packet_dts[first]), stream=self._stream)
            spoilt |= self._decode(self._container, self._stream, first, last, pictures, skip)
        return spoilt

    def _decode(
        self,
        container: InputContainer,
        stream: VideoStream,
        first: int,
        last: int,
        pictures: Pictures,
        skip: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Decode packets ``first`` to ``last``, but not those to ``skip`` (P,).

        Returns:
            (N,) which frames damage may have reached. What is in a packet that was skipped reaches none.
        """
        index = self._index
        first_pts = int(index.packet_pts[first])
        # Leading pictures of an open GOP: what they refer to was not decoded. Those of the first are known.
        earliest = first_pts if index.packet_is_key[:first].any() else index.pts[0]
        spoilt = np.zeros_like(index.damaged)
        # A picture of two fields goes by the type of the second.
        starts_whole = first == 0 or bool(index.packet_is_second[first + 1 : first + 2].any())

        def take(packet: "Packet[VideoStream] | None", position: int) -> None:
            nonlocal starts_whole
            try:
                decoded = decode(stream, packet)
            except DECODER_ERRORS:
                spoilt[index.spoilt_by(position)] = True
                return
            for picture in decoded:
                if picture.pts is None or picture.pts < earliest:
                    continue
                if picture.pts == first_pts:
                    starts_whole |= picture.pict_type == PictureType.I
                if picture.is_corrupt:
                    for source in np.flatnonzero(index.packet_pts == picture.pts).tolist():
                        spoilt[index.spoilt_by(source)] = True
                pictures.offer(picture.pts, picture)

        position = first - 1
        for packet in container.demux(stream):
            if position == last:
                break
            if not packet.size or (position < first and packet.pts != first_pts):
                continue  # a seek may land on an earlier keyframe
            position += 1
            # In a damaged file the packets behind a seek may be others than were indexed.
            if skip is None or not skip[position] or pts_of(packet) != index.packet_pts[position]:
                take(packet, position)
        take(None, last)  # the pictures held back for reordering
        if not starts_whole:
            spoilt[:] = True  # what was called a keyframe only begins a gradual intra refresh
        return spoilt

    def _decode_counting(self, pictures: Pictures) -> None:
        with open_container(self.path, self._status) as container:
            for number, picture in enumerate(p for p in decode_all(self.path, container) if p is not None):
                pictures.offer(number, picture)
                if not pictures.missing:
                    break


class _Frames(Pictures):
    """The frames wanted, upright and scaled."""

    def __init__(self, index: PacketIndex, wanted: Sequence[int], short_side: int | None) -> None:
        super().__init__(index, wanted)
        self._orientation = Orientation.of(index.format.matrix)
        self._short_side = short_side
        self._scaler, self._converter = VideoReformatter(), VideoReformatter()  # keep their swscale contexts
        self.frames = np.empty((0, 0, 0, 3), dtype=np.uint8)

    def take(self, row: int, picture: VideoFrame) -> None:
        turned = self._orientation.transposed
        if not len(self.frames):
            height, width = scaled_size(picture.height, picture.width, self._short_side)
            shape = (width, height) if turned else (height, width)
            self.frames = np.empty((self.count, *shape, 3), dtype=np.uint8)
        height, width = self.frames.shape[2:0:-1] if turned else self.frames.shape[1:3]
        scaled = picture
        is_scaled = (picture.width, picture.height) != (width, height)
        if is_scaled and picture.format.name in ("yuv420p", "yuvj420p") and width % 2 == height % 2 == 0:
            # First scaled, then converted: three times as fast as in one step, for which swscale has no
            # vector code, and nearer to the exact picture: one step is off by up to a grey level on average.
            scaled = self._scaler.reformat(
                picture, width, height, "yuv422p", interpolation="BILINEAR", threads=1
            )
        rgb = self._converter.reformat(scaled, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        pixels = rows[:height, : 3 * width].reshape(height, width, 3)
        self.frames[row] = self._orientation.upright(pixels)
