"""Opening a video file with FFmpeg, within limits, and decoding whatever is in it."""

import os
import stat
import struct
from collections.abc import Iterator
from io import BufferedReader, RawIOBase

import av
from av import Packet
from av.container import InputContainer
from av.video.stream import VideoStream

from videonorm.data.decoding.location import BadVideoError, FileStatus, is_remote

# What PyAV raises for a file it cannot read; IndexError for a stream that first turns up in mid-file.
DECODER_ERRORS = (av.FFmpegError, ValueError, MemoryError, IndexError)

MAX_PIXELS = 2**26  # of a picture, twice 8K; a damaged header may claim what takes gigabytes to decode
_AT_MOST = {"max_pixels": str(MAX_PIXELS)}
_NO_PROTOCOL = {"protocol_whitelist": "none"}  # by which FFmpeg may open what a playlist names
_PLAYLISTS = ("concat", "dash", "hls", "imf")  # FFmpeg's names of containers that name other files to open


def check_file(path: str) -> FileStatus:
    """Raise BadVideoError for what no decoder should be given: opening a FIFO would wait for ever."""
    if is_remote(path):
        from videonorm.data.decoding.remote import check_remote  # only for URLs is fsspec needed

        return check_remote(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadVideoError(path, f"cannot be found: {describe(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise BadVideoError(path, "is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise BadVideoError(path, "is not a regular file")
    if status.st_size == 0:
        raise BadVideoError(path, "is empty (0 bytes)")
    return FileStatus(status.st_size, status.st_mtime_ns)


def open_container(path: str, status: FileStatus | None = None) -> InputContainer:
    """Open a file or URL for FFmpeg, which is never given a name to make out a protocol of its own from.

    Args:
        status: of a file that is checked already.

    Raises:
        BadVideoError: it cannot be opened, or lists other files instead of holding a video.
    """
    size = (status or check_file(path)).size
    try:
        if is_remote(path):
            options = _AT_MOST | _NO_PROTOCOL
            container = av.open(_open_remote(path, size), "r", options=options, metadata_errors="ignore")
        else:
            container = av.open(f"file:{path}", "r", options=_AT_MOST, metadata_errors="ignore")
    except BadVideoError:  # of a URL
        raise
    except DECODER_ERRORS as error:
        raise BadVideoError(path, _why_not_opened(path, size, error)) from None
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
    if not stream.codec_context.is_open:
        stream.codec_context.options = _AT_MOST  # they may grow in mid-file
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
    return stream


def describe(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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


def _why_not_opened(path: str, size: int, error: BaseException) -> str:
    """FFmpeg says "Invalid data" for most; an MP4 without its table of contents is worth naming."""
    reason = f"cannot be opened: {describe(error)}"
    if "Invalid data" in reason:
        with _open_remote(path, size) if is_remote(path) else open(path, "rb") as file:
            boxes = _top_level_boxes(file)
        if "ftyp" in boxes and "moov" not in boxes:
            return "is truncated or was never finished: an MP4 without its moov box"
    return reason


def _open_remote(url: str, size: int) -> RawIOBase:
    from videonorm.data.decoding.remote import RemoteFile

    return RemoteFile(url, size)


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
