"""Frames kept as JPEG in a few large files: for sweeps that read the same videos hundreds of times.

A shard is a safetensors file of V videos with F frames in all:

- ``jpeg`` uint8 (bytes,): the frames, each a whole JPEG file, one behind the other;
- ``frame_start`` int64 (F + 1,): where in ``jpeg`` each begins, and the end of the last;
- ``crc32`` uint32 (F,): of the bytes of each;
- ``seconds`` float64 (F,): the time of each, the first frame of a video at 0;
- ``video_start`` int64 (V + 1,): the first frame of each video, and the end of the last.

Its metadata has ``packed``: an object in JSON, whose ``short_side`` is the pixels that the shorter side of
pictures has at most. The path of a video is SHARD/NUMBER, counted from 0.
"""

import json
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from simplejpeg import decode_jpeg, decode_jpeg_header, encode_jpeg

from videonorm.data.decoding.container import check_file
from videonorm.data.decoding.location import BadVideoError, is_remote
from videonorm.data.decoding.reader import Reader, scale
from videonorm.errors import UserError
from videonorm.files import write

SUFFIX = ".safetensors"

_DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {  # in safetensors' words and numpy's
    "jpeg": ("U8", np.dtype("u1")),
    "frame_start": ("I64", np.dtype("<i8")),
    "crc32": ("U32", np.dtype("<u4")),
    "seconds": ("F64", np.dtype("<f8")),
    "video_start": ("I64", np.dtype("<i8")),
}
_OPEN_SHARDS = 128  # kept open by a process, which may usually have 1,024 files
_HEADER_BYTES = 2**26  # of the longest header that is read
_BYTES_AT_A_TIME = 2**28  # of decoded frames in memory while packing


def file_of(path: str) -> str:
    """The file that the path of a video leads to: its shard if it is packed, else itself."""
    file, number = os.path.split(path)
    return file if file.endswith(SUFFIX) and number.isdecimal() else path


def is_packed(path: str) -> bool:
    """Whether a path is that of a video in a shard, judged by its form."""
    return file_of(path) != path


class PackedVideo(NamedTuple):
    """The frames of one video as a shard has them."""

    jpegs: list[bytes]
    seconds: NDArray[np.float64]  # (len(jpegs),) the first at 0


class PackedReader(Reader):
    """Reads a video of a shard; see ``Reader``. Only the frames wanted are read from disk and decoded.

    Raises:
        BadVideoError: the shard or a frame is missing or damaged; bytes that changed are seen by their CRC.
        UserError: by ``read``, if ``short_side`` is larger than that of the shard.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._open(file_of(path), int(os.path.basename(path)))
        except BadVideoError as error:  # of the shard
            raise BadVideoError(path, error.reason) from None

    def _open(self, file: str, number: int) -> None:
        self._shard = shard = _shard(file)
        if number >= shard.num_videos:
            raise BadVideoError(file, f"is not in its shard, which has {shard.num_videos} videos")
        first, stop = shard.read("video_start", number, number + 2).tolist()
        if not 0 <= first < stop <= shard.num_frames:
            raise _damaged(file, "its table of videos is wrong")
        self.seconds = shard.read("seconds", first, stop)
        self._start = shard.read("frame_start", first, stop + 1)
        self._crc32 = shard.read("crc32", first, stop)
        if self._start[0] < 0 or self._start[-1] > shard.num_bytes or (np.diff(self._start) <= 0).any():
            raise _damaged(file, "its table of frames is wrong")

    def close(self) -> None:
        del self._shard  # which stays open for other videos

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        if short_side is not None and short_side > self._shard.short_side:
            raise UserError(
                f"short_side ({short_side}) must be at most that of the packed frames "
                f"({self._shard.short_side}) in {file_of(self.path)}"
            )
        wanted = np.asarray(indices, dtype=np.int64)
        frames = np.empty((len(wanted), 0, 0, 3), dtype=np.uint8)
        starts, stops = self._start[wanted].tolist(), self._start[wanted + 1].tolist()
        for row, crc in enumerate(self._crc32[wanted].tolist()):
            try:
                jpeg = self._shard.read_bytes(starts[row], stops[row])
                if crc32(jpeg) != crc:
                    raise ValueError("its bytes have changed")
                if row == 0:
                    height, width, *_ = decode_jpeg_header(jpeg)
                    frames = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
                if decode_jpeg(jpeg, buffer=frames[row]).shape != frames.shape[1:]:
                    raise ValueError("its size is not that of the first")
            except BadVideoError as error:  # of the shard
                raise BadVideoError(self.path, error.reason) from None
            except ValueError as error:
                frame = int(wanted[row])
                at = f"frame {frame} at {self.seconds[frame]:.2f} s"
                raise BadVideoError(self.path, f"is damaged: {at} cannot be decoded: {error}") from None
        return scale(frames, short_side) if len(frames) else frames


def pack_video(
    video: Reader, first: int, stop: int, *, short_side: int, quality: int, frame_step: int = 1
) -> PackedVideo:
    """Encode frames ``first``, ``first + frame_step``, ... below ``stop`` as JPEG with 4:2:0 chroma.

    Args:
        short_side: pixels that the shorter side becomes; a smaller picture keeps its size.
        quality: 1 to 100, as libjpeg has it.
    """
    height, width = video.read([first]).shape[1:3]
    side = short_side if short_side < min(height, width) else None
    frame_bytes = video.read([first], side).nbytes
    frames_at_a_time = max(1, _BYTES_AT_A_TIME // frame_bytes)
    chosen = range(first, stop, frame_step)
    jpegs: list[bytes] = []
    for begin in range(0, len(chosen), frames_at_a_time):
        for frame in video.read(chosen[begin : begin + frames_at_a_time], side):
            jpegs.append(encode_jpeg(frame, quality=quality, colorsubsampling="420"))
    return PackedVideo(jpegs, video.seconds[chosen] - video.seconds[first])


def write_shard(
    path: str | Path,
    videos: Iterable[PackedVideo],
    *,
    short_side: int,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a shard; takes three times its size in memory.

    Args:
        about: what else ``read_about`` is to return; for JSON.
    """
    videos = list(videos)
    jpegs = [jpeg for video in videos for jpeg in video.jpegs]
    _save(
        path,
        {
            "jpeg": np.frombuffer(b"".join(jpegs), dtype=np.uint8),
            "frame_start": _starts([len(jpeg) for jpeg in jpegs]),
            "crc32": np.array([crc32(jpeg) for jpeg in jpegs], dtype=np.uint32),
            "seconds": np.concatenate([np.empty(0), *(video.seconds for video in videos)]),
            "video_start": _starts([len(video.jpegs) for video in videos]),
        },
        {"short_side": short_side, **(about or {})},
    )


def join_shards(
    path: str | Path, parts: Sequence[str | Path], *, short_side: int, about: Mapping[str, Any] | None = None
) -> None:
    """``write_shard`` of the videos of other shards, in their order."""
    loaded = [load_file(part) for part in parts]
    arrays = {
        name: np.concatenate([np.empty(0, _DTYPES[name][1]), *(part[name] for part in loaded)])
        for name in ("jpeg", "crc32", "seconds")
    }
    for name in ("frame_start", "video_start"):
        arrays[name] = _starts([length for part in loaded for length in np.diff(part[name]).tolist()])
    del loaded
    _save(path, arrays, {"short_side": short_side, **(about or {})})


def read_about(path: str | Path) -> dict[str, Any]:
    """What a shard says of itself: ``short_side``, and what else it was written with.

    Raises:
        BadVideoError: it cannot be read.
    """
    return _Shard(str(path)).about


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    """(len(lengths) + 1,)"""
    return np.cumsum([0, *lengths], dtype=np.int64)


def _save(path: str | Path, arrays: dict[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    # One entry: safetensors writes several in any order, and the same shard should be the same bytes.
    write(path, save(arrays, {"packed": json.dumps(about)}))


class _Shard:
    """A shard that is open.

    Read by position and not mapped into memory: a mapped file that is cut short kills the process, and its
    pages count as the process's memory. Several processes may read what was opened before a fork.
    """

    def __init__(self, path: str) -> None:
        if is_remote(path):
            raise UserError(f"path ({path}) must be on a local or mounted disk: packed frames have no URLs")
        check_file(path)
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            size = os.fstat(self._file).st_size
        except OSError as error:
            raise BadVideoError(path, f"cannot be opened: {error.strerror}") from None
        header_bytes = int.from_bytes(self._pread(0, 8), "little")
        if header_bytes > min(size, _HEADER_BYTES):
            raise _damaged(path, "its header is too long")
        try:
            header = json.loads(self._pread(8, header_bytes))
            self.about: dict[str, Any] = json.loads(header["__metadata__"]["packed"])
            self.short_side = int(self.about["short_side"])
            lengths, self._at = {}, {}
            for name, (stored, dtype) in _DTYPES.items():
                (lengths[name],), (begin, end) = header[name]["shape"], header[name]["data_offsets"]
                self._at[name] = 8 + header_bytes + begin
                if header[name]["dtype"] != stored or end - begin != lengths[name] * dtype.itemsize:
                    raise ValueError
                if not 0 <= begin <= end <= size - 8 - header_bytes:
                    raise _damaged(path, "it is cut off")
        except BadVideoError:
            raise
        except (ValueError, TypeError, LookupError, RecursionError):
            raise _damaged(path, "its header is not that of packed frames") from None
        self.num_videos = lengths["video_start"] - 1
        self.num_frames = min(lengths["seconds"], lengths["crc32"], lengths["frame_start"] - 1)
        self.num_bytes = lengths["jpeg"]

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """(stop - start,) of an array."""
        dtype = _DTYPES[name][1]
        content = self._pread(self._at[name] + start * dtype.itemsize, (stop - start) * dtype.itemsize)
        return np.frombuffer(content, dtype)

    def read_bytes(self, start: int, stop: int) -> bytes:
        """Of ``jpeg``."""
        return self._pread(self._at["jpeg"] + start, stop - start)

    def _pread(self, at: int, count: int) -> bytes:
        try:
            content = os.pread(self._file, count, at)
        except OSError as error:
            raise BadVideoError(self.path, f"cannot be read: {error.strerror}") from None
        if len(content) != count:
            raise _damaged(self.path, "it is cut off")
        return content


_shard = lru_cache(_OPEN_SHARDS)(_Shard)  # closed when it is neither here nor in a reader


def _damaged(path: str, why: str) -> BadVideoError:
    return BadVideoError(path, f"is in a damaged shard: {why}")
