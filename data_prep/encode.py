"""One video encoded anew: small and quick to decode, with a record of what it was made of."""

import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import OutputContainer
from pictures import Box, Shaper
from sound import Sound
from video import Facts, probe

from videonorm.data import BadVideoError
from videonorm.data.decoding.container import check_file, open_container, video_stream
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.location import FileStatus, without_credentials
from videonorm.data.decoding.orientation import Orientation
from videonorm.data.decoding.packet_index import PacketIndex
from videonorm.data.decoding.pyav import Pictures, PyAVReader
from videonorm.data.decoding.reader import frames_between
from videonorm.files import new_file

TICK = Fraction(1, 90_000)  # for files without usable timestamps; 24, 25, 29.97 and 30 Hz divide it


class Settings(NamedTuple):
    """What a file's content depends on, besides its source."""

    short_side: int
    gop: int
    crf: float
    preset: str
    tune: str | None
    audio: bool
    fps: str | None  # as "30000/1001"; None keeps the source's times


class Job(NamedTuple):
    """One file to make."""

    source: str
    target: str
    made_in: Path  # until it is whole
    start_seconds: float | None
    end_seconds: float | None
    settings: Settings
    crop: Box | None = None


class Made(NamedTuple):
    """One file that is there."""

    facts: Facts
    source_bytes: int
    bytes: int
    kept: bool  # from an earlier run


def transcode(job: Job) -> Made:
    """Make one file, unless it is there.

    Raises:
        BadVideoError: the source cannot be used, or the file that is there is another's.
        OSError: the file cannot be written.
    """
    status = check_file(job.source)
    record = _record(job, status)
    there = _record_in(job.target)
    if there is not None and (owner := _other_owner(there, record)):
        raise BadVideoError(job.source, f"would replace {job.target}, which {owner}")
    kept = there is not None and {**there, "source": record["source"]} == record
    if kept:
        facts = probe(job.target)
    else:
        with new_file(job.target, job.made_in) as aside:
            _make(job, json.dumps(record), str(aside))
            facts = probe(str(aside))
    return Made(facts, status.size, os.path.getsize(job.target), kept)


def _record(job: Job, status: FileStatus) -> dict[str, Any]:
    """What a file is made of, kept in its comment, so that it is true of the file wherever that goes."""
    return {
        "made_by": "transcode.py 2",
        **job.settings._asdict(),
        **({"crop": list(job.crop)} if job.crop else {}),
        "start_seconds": job.start_seconds,
        "end_seconds": job.end_seconds,
        "source": without_credentials(job.source),
        "source_bytes": status.size,
        "source_mtime_ns": status.stamp,
    }


def _record_in(path: str) -> dict[str, Any] | None:
    """The record of a file; empty if it has none, ``None`` if there is no file, or an empty one."""
    # A machine that loses power may keep the name of a file and not its bytes.
    if not os.path.lexists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0):
        return None
    try:
        with av.open(path, metadata_errors="ignore") as container:
            record = json.loads(container.metadata.get("comment", ""))
    except (av.FFmpegError, OSError, ValueError):
        return {}
    is_ours = isinstance(record, dict) and str(record.get("made_by", "")).startswith("transcode.py")
    return record if is_ours else {}


def _other_owner(there: dict[str, Any], record: dict[str, Any]) -> str:
    """Whose a file is that is none of the source's, as of another list; "" if it may be replaced."""
    if not there:
        return "transcode.py did not make"
    facts = ("source_bytes", "source_mtime_ns")
    if there.get("source", record["source"]) == record["source"]:
        return ""
    if [there.get(fact) for fact in facts] == [record[fact] for fact in facts]:
        return ""  # the source has moved
    return f"was made of {there['source']}"


def _make(job: Job, record: str, path: str) -> None:
    """Write the file to ``path``."""
    with PyAVReader(job.source) as video, ExitStack() as open_files:
        index = packet_index(job.source)
        frames = range(*frames_between(job.source, index.seconds, job.start_seconds, job.end_seconds))

        def begin() -> _Encoding:
            open_files.close()  # of what was encoded in vain
            # Moov first: readers over a network need no second seek.
            options = {"movflags": "+faststart"}
            container = open_files.enter_context(av.open(path, "w", format="mp4", options=options))
            container.metadata["comment"] = record
            return _Encoding(job, index, frames, container)

        video.decode_into(begin, frames).finish()


class _Encoding(Pictures):
    """The frames of a job, encoded as they come."""

    def __init__(self, job: Job, index: PacketIndex, frames: range, container: OutputContainer) -> None:
        super().__init__(index, frames)
        settings = job.settings
        options = {"preset": settings.preset, "crf": f"{settings.crf:g}", "g": str(settings.gop)}
        if settings.tune:
            options["tune"] = settings.tune
        self._job = job
        self._index = index
        self._frames = frames
        self._taken = 0
        with open_container(job.source) as source:
            stream = video_stream(job.source, source)
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            first = (stream.start_time or 0) if index.counted else int(index.pts[0])
            self._clock = float(first * index.format.time_base)
        orientation = Orientation.of(index.format.matrix)
        self._shaper = Shaper(settings.short_side, settings.fps, aspect, orientation, job.crop)
        self._container = container
        self._video = container.add_stream(
            "libx264", rate=Fraction(settings.fps or _rate(index)), options=options
        )
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.thread_count = 1  # the other cores have files of their own; repeatable
        self._sound = Sound(job.source, container) if settings.audio else None

    def take(self, row: int, picture: av.VideoFrame) -> None:
        index, first, crop = self._index, self._frames.start, self._job.crop
        if crop and (crop.x + crop.width > picture.width or crop.y + crop.height > picture.height):
            size = f"{picture.width} x {picture.height}"
            raise BadVideoError(self._job.source, f"is {size}, and the box to crop does not lie in it")
        if row != self._taken:  # one before it is missing: what can be encoded ends there
            self.missing.add(int(index.pts[first + row]))
            return
        self._taken += 1
        # Counted from the first, in place of the times of the source.
        if index.counted:
            picture.time_base = TICK
            picture.pts = round((index.seconds[first + row] - index.seconds[first]) / TICK)
        else:
            picture.time_base = index.format.time_base
            picture.pts = int(index.pts[first + row] - index.pts[first])
        self._encode(self._shaper.push(picture))

    def finish(self) -> None:
        self._encode(self._shaper.finish())
        self._container.mux(self._video.encode())
        if self._sound:
            end = None if self._job.end_seconds is None else self._clock + self._job.end_seconds
            self._sound.copy(self._clock + float(self._index.seconds[self._frames.start]), end)

    def _encode(self, pictures: Iterable[av.VideoFrame]) -> None:
        encoder = self._video.codec_context
        for picture in pictures:
            if not encoder.is_open:
                assert picture.time_base is not None  # filters set it
                encoder.width, encoder.height = picture.width, picture.height
                encoder.time_base = picture.time_base
                encoder.color_range, encoder.colorspace = picture.color_range, picture.colorspace
                encoder.color_primaries, encoder.color_trc = picture.color_primaries, picture.color_trc
            self._container.mux(self._video.encode(picture))


def _rate(index: PacketIndex) -> Fraction:
    """Mean frames a second: x264 spends its bits by it. It does not move any frame."""
    seconds = index.seconds
    rate = (len(seconds) - 1) / float(seconds[-1]) if len(seconds) > 1 else 25.0
    return Fraction(min(max(rate, 1.0), 1000.0)).limit_denominator(1001)
