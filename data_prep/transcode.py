"""Encode the videos of a manifest anew, small and quick to decode; ``--help`` says how."""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from script import add_max_bad_fraction, add_work, new_parser, positive, printable, run
from workers import Failed, run_all

from videonorm.errors import UserError

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from rows import Facts, Row

    from videonorm.data.decoding.location import FileStatus
    from videonorm.data.decoding.packet_index import PacketIndex

DESCRIPTION = """\
Encode the videos of a manifest as H.264 that a loader decodes quickly: small pictures, a keyframe every few
frames. Writes OUT/videos/..., a manifest of them for each one given, under its name, and bad_videos.csv.

Rotation and pixel aspect are resolved into the pixels; what lies outside start_seconds and end_seconds is cut
off; pictures are never enlarged. Run again, files that were made of the same source with the same settings
are kept; so a run that was stopped in any way goes on. A file that fails is named with its reason and left
out of the new manifest.
"""
EXAMPLES = """\
examples:
  python data_prep/transcode.py k400/train.csv k400/val.csv --out k400_256
  python data_prep/transcode.py k400/train.csv --out k400_128 --short-side 128 --gop 1 --crf 20
  python data_prep/transcode.py k400/train.csv --out k400_256 --shard $SLURM_ARRAY_TASK_ID/16

Shards 0/16 to 15/16 share the work; each writes train.shard-0-of-16.csv and so on. When all are done, run it
once without --shard: it finds the files made and writes the whole manifest.

exit codes: 0 done; 1 more than --max-bad-fraction of the files failed; 2 an argument or a manifest is wrong.
"""
PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium"),
    *("slow", "slower", "veryslow"),
)
TICK = Fraction(1, 90_000)  # for files without usable timestamps; 24, 25, 29.97 and 30 Hz divide it
FATAL = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM")  # of the output: no later file can succeed either
MEASURED = 5  # files whose decoding is timed


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
    aside: str  # written here, then renamed
    start_seconds: float | None
    end_seconds: float | None
    settings: Settings


class Made(NamedTuple):
    """One file that is there."""

    facts: "Facts"
    source_bytes: int
    bytes: int
    kept: bool  # from an earlier run


def parser() -> argparse.ArgumentParser:
    options = new_parser("transcode.py", DESCRIPTION, EXAMPLES)
    options.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for what is written; the paths of videos in it are those below --root",
    )
    picture = options.add_argument_group("picture")
    picture.add_argument(
        "--short-side",
        type=positive,
        default=256,
        metavar="N",
        help="pixels, even; smaller pictures stay as small as they are (default: 256)",
    )
    picture.add_argument(
        "--fps", metavar="N", help="fixed rate, as 30 or 30000/1001 (default: each frame keeps its time)"
    )
    coding = options.add_argument_group("coding")
    coding.add_argument(
        "--gop", type=positive, default=12, metavar="N", help="frames to a keyframe, at most (default: 12)"
    )
    coding.add_argument(
        "--crf", type=float, default=23, metavar="Q", help="x264's quality, 0 (best) to 51 (default: 23)"
    )
    coding.add_argument(
        "--preset", choices=PRESETS, default="medium", metavar="NAME", help="x264's (default: medium)"
    )
    coding.add_argument(
        "--tune",
        choices=("fastdecode", "none"),
        default="fastdecode",
        help="fastdecode is about 12 %% larger and quicker to decode (default: fastdecode)",
    )
    coding.add_argument("--audio", action="store_true", help="keep the sound, as AAC (default: drop it)")
    work = add_work(options, time_limit=1800)
    work.add_argument(
        "--shard", default="0/1", metavar="I/N", help="only part I, counted from 0, of N (default: 0/1)"
    )
    add_max_bad_fraction(work)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code.

    Raises:
        UserError: an option, a manifest or the output folder cannot be used.
    """
    options = parser().parse_args(argv)
    settings = _settings(options)
    shard, num_shards = _shard(options.shard)

    from rich.progress import track
    from rows import class_index, read_rows, write_class_index, write_rows

    from videonorm.data import BadVideo, BadVideos
    from videonorm.data.decoding.location import without_credentials
    from videonorm.data.manifest import base_of

    out: Path = options.out.absolute()
    shown = printable(str(options.out))
    names = ["manifest" if path.is_dir() else path.stem for path in options.manifests]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"manifests ({twice}) must have different names, for new ones are called the same")
    rows = [
        (name, row, base_of(path, options.root))
        for name, path in zip(names, options.manifests, strict=True)
        for row in read_rows(path, options.root)
    ]
    classes = class_index(options.manifests)
    targets = _targets([(row, base) for _, row, base in rows], out / "videos")
    rows_of: dict[str, list[tuple[str, Row]]] = {}  # the rows of a file: val and test may share it
    for target, (name, row, _) in zip(targets, rows, strict=True):
        rows_of.setdefault(target, []).append((name, row))
    sources = {os.path.realpath(row.path) for _, row, _ in rows}
    if clash := next((target for target in rows_of if os.path.realpath(target) in sources), None):
        raise UserError(f"--out ({shown}) must not hold the sources, such as {printable(clash)}")

    part = f".shard-{shard}-of-{num_shards}" if num_shards > 1 else ""
    unfinished = out / ".unfinished" / "+".join(names + [part])
    try:
        # What a killed run left; a process of it that still writes there fails at its rename.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out ({shown}) must be a folder to write in: {error.strerror}") from None
    jobs: list[Job] = []
    for target in list(rows_of)[shard::num_shards]:
        _, row = rows_of[target][0]
        aside = unfinished / f"{len(jobs)}-{os.getpid()}.mp4"
        jobs.append(Job(row.path, target, str(aside), row.start_seconds, row.end_seconds, settings))

    made: dict[str, Made] = {}
    bad = BadVideos()
    results = run_all(
        transcode, jobs, jobs=options.jobs or os.cpu_count() or 1, time_limit=options.time_limit
    )
    for number, result in track(results, f"Transcoding to {shown}", total=len(jobs)):
        job = jobs[number]
        if isinstance(result, Made):
            made[job.target] = result
            continue
        if result.stop:
            raise UserError(f"--out ({shown}) must be writable and have room: {result.reason}")
        named = printable(without_credentials(job.source))
        print(f"bad: {named} {printable(result.reason)}", flush=True)
        for name, row in rows_of[job.target]:
            bad.add(row.cells.get("split") or name, [BadVideo(row.path, result.reason)])
    shutil.rmtree(unfinished, ignore_errors=True)
    with contextlib.suppress(OSError):
        unfinished.parent.rmdir()  # unless another run is at work there

    try:
        bad.write(out / f"bad_videos{part}.csv")
        write_class_index(out, classes)
        for name in names:
            new = [
                _new_cells(row, job.target, out, made[job.target].facts)
                for job in jobs
                if job.target in made
                for of, row in rows_of[job.target]
                if of == name
            ]
            write_rows(out / f"{name}{part}.csv", new)
            print(f"{len(new)} videos in {printable(str(out / f'{name}{part}.csv'))}")
    except OSError as error:
        raise UserError(f"--out ({shown}) must be writable and have room: {error.strerror}") from None
    failed = len(jobs) - len(made)
    kept = sum(done.kept for done in made.values())
    print(f"{len(made) - kept} files made, {kept} kept from before, {failed} failed")
    if failed:
        print(f"the reasons are in {printable(str(out / f'bad_videos{part}.csv'))}")
    _report([(job, made[job.target]) for job in jobs if job.target in made])
    return int(failed > options.max_bad_fraction * len(jobs))


def _settings(options: argparse.Namespace) -> Settings:
    if options.short_side % 2:
        raise UserError(f"--short-side ({options.short_side}) must be even")
    if not 0 <= options.crf <= 51:
        raise UserError(f"--crf ({options.crf:g}) must be from 0 to 51")
    rate = None
    if options.fps is not None:
        try:
            rate = Fraction(options.fps).limit_denominator(1001)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= 1000:
            raise UserError(
                f"--fps ({options.fps}) must be a number above 0, at most 1000, as 30 or 30000/1001"
            )
    return Settings(
        short_side=options.short_side,
        gop=options.gop,
        crf=options.crf,
        preset=options.preset,
        tune=None if options.tune == "none" else options.tune,
        audio=options.audio,
        fps=str(rate) if rate else None,
    )


def _shard(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise UserError(f"--shard ({text}) must be I/N with I from 0 to N - 1, as 0/16")


def _targets(rows: "list[tuple[Row, str]]", folder: Path) -> list[str]:
    """The file of each row, by its path below its base, or else by its whole path: no other row moves it."""
    from videonorm.data.decoding.location import is_remote

    def name_of(path: str) -> str:
        """Of a URL without what would not do, or be too much, in the name of a file."""
        return os.path.normpath(path.partition("://")[2].partition("?")[0] if is_remote(path) else path)

    def target(row: "Row", base: str, suffix: str) -> str:
        path = name_of(row.path)
        inside = path.removeprefix(os.path.join(name_of(base), "")).lstrip(os.sep)
        stem = re.sub(r"[\r\n]", "_", os.path.splitext(inside)[0])  # manifests are read by lines
        bounds = (row.start_seconds, row.end_seconds)
        if bounds != (None, None):
            stem += "_" + "_".join("" if bound is None else f"{bound:g}" for bound in bounds)
        return os.path.join(folder, stem + suffix)

    targets = [target(row, base, ".mp4") for row, base in rows]
    made_of: dict[str, set[str]] = {}
    for name, (row, _) in zip(targets, rows, strict=True):
        made_of.setdefault(name, set()).add(os.path.normpath(row.path))
    # a.avi beside a.mp4 becomes a.avi.mp4
    targets = [
        name
        if len(made_of[name]) == 1
        else target(row, base, os.path.splitext(name_of(row.path))[1] + ".mp4")
        for name, (row, base) in zip(targets, rows, strict=True)
    ]
    owner: dict[str, Any] = {}
    for name, (row, _) in zip(targets, rows, strict=True):
        video = (os.path.normpath(row.path), row.start_seconds, row.end_seconds)
        if owner.setdefault(name, video) != video:
            raise UserError(
                f"path ({printable(row.path)}) must not lead to the same new file as "
                f"{printable(owner[name][0])}: give manifests of different folders a common --root"
            )
    return targets


def _new_cells(row: "Row", target: str, out: Path, facts: "Facts") -> dict[str, str]:
    """The row of a new file, of which all is wanted."""
    bounds = dict.fromkeys({"start_seconds", "end_seconds"} & row.cells.keys(), "")
    return {**row.cells, **bounds, "path": os.path.relpath(target, out), **facts.cells()}


def transcode(job: Job) -> Made | Failed:
    """Make one file, unless it is there."""
    import errno

    from rows import probe

    from videonorm.data import BadVideoError
    from videonorm.data.decoding.container import check_file

    try:
        status = check_file(job.source)
        record = _record(job, status)
        there = _record_in(job.target)
        if there != record:
            if there == "":
                return Failed(f"would replace {job.target}, which transcode.py did not make")
            _make(job, record)
            os.makedirs(os.path.dirname(job.target), exist_ok=True)
            facts = probe(job.aside)
            os.replace(job.aside, job.target)
        else:
            facts = probe(job.target)
        return Made(facts, status.size, os.path.getsize(job.target), kept=there == record)
    except BadVideoError as error:
        return Failed(error.reason)
    except OSError as error:
        if error.errno in {getattr(errno, name) for name in FATAL}:
            return Failed(str(error.strerror), stop=True)
        raise


def _record(job: Job, status: "FileStatus") -> str:
    """What a file is made of, kept in its comment, so that it is true of the file wherever that goes."""
    return json.dumps(
        {
            "made_by": "transcode.py 1",
            **job.settings._asdict(),
            "start_seconds": job.start_seconds,
            "end_seconds": job.end_seconds,
            "source_bytes": status.size,
            "source_mtime_ns": status.stamp,
        }
    )


def _record_in(path: str) -> str | None:
    """The record of a file; "" if it has none, ``None`` if there is no file, or an empty one."""
    import av

    # A machine that loses power may keep the name of a file and not its bytes.
    if not os.path.lexists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0):
        return None
    try:
        with av.open(path, metadata_errors="ignore") as container:
            comment: str = container.metadata.get("comment", "")
    except (av.FFmpegError, OSError):
        return ""
    return comment if '"made_by": "transcode.py' in comment else ""


def _make(job: Job, record: str) -> None:
    """Write ``job.aside``."""
    from videonorm.data import BadVideoError
    from videonorm.data.decoding.index_store import packet_index
    from videonorm.data.decoding.reader import frames_between

    index = packet_index(job.source)
    first, stop = frames_between(job.source, index.seconds, job.start_seconds, job.end_seconds)
    try:
        _encode(job, record, index, first, stop, seek=first > 0 and not index.counted)
    except BadVideoError:
        if first == 0 or index.counted:
            raise
        # What needs more than its last keyframe is whole from the start of the file.
        _encode(job, record, index, first, stop, seek=False)


def _encode(job: Job, record: str, index: "PacketIndex", first: int, stop: int, *, seek: bool) -> None:
    import av

    from videonorm.data.decoding.container import open_container, video_stream

    settings = job.settings
    options = {"preset": settings.preset, "crf": f"{settings.crf:g}", "g": str(settings.gop)}
    if settings.tune:
        options["tune"] = settings.tune
    with open_container(job.source) as source:
        stream = video_stream(job.source, source)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        unit = stream.time_base or Fraction(0)
        clock = float(((stream.start_time or 0) if index.counted else int(index.pts[0])) * unit)
    # Moov first: readers over a network need no second seek.
    with av.open(job.aside, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = record
        video = container.add_stream("libx264", rate=Fraction(settings.fps or _rate(index)), options=options)
        video.pix_fmt = "yuv420p"
        encoder = video.codec_context
        encoder.thread_count = 1  # the other cores have files of their own; and the result is repeatable
        sound = _Sound(job.source, container) if settings.audio else None
        for number, picture in enumerate(
            _shaped(_decoded(job.source, index, first, stop, seek), settings, aspect)
        ):
            if number == 0:
                assert picture.time_base is not None  # filters set it
                encoder.width, encoder.height = picture.width, picture.height
                encoder.time_base = picture.time_base
                encoder.color_range, encoder.colorspace = picture.color_range, picture.colorspace
                encoder.color_primaries, encoder.color_trc = picture.color_primaries, picture.color_trc
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if sound:
            end = None if job.end_seconds is None else clock + job.end_seconds
            sound.copy(clock + float(index.seconds[first]), end)


def _rate(index: "PacketIndex") -> Fraction:
    """Mean frames a second: x264 spends its bits by it. It does not move any frame."""
    seconds = index.seconds
    rate = (len(seconds) - 1) / float(seconds[-1]) if len(seconds) > 1 else 25.0
    return Fraction(min(max(rate, 1.0), 1000.0)).limit_denominator(1001)


def _decoded(path: str, index: "PacketIndex", first: int, stop: int, seek: bool) -> "Iterator[av.VideoFrame]":
    """Frames ``first`` to ``stop`` - 1, their pts counted from the first.

    Raises:
        BadVideoError: one of them is missing, or damage may have reached it.
    """
    import numpy as np
    from av.video.frame import PictureType

    from videonorm.data import BadVideoError
    from videonorm.data.decoding.container import decode_all, open_container, video_stream

    def damaged(number: int) -> BadVideoError:
        reason = f"is damaged: frame {number} at {index.seconds[number]:.2f} s cannot be decoded"
        return BadVideoError(path, reason)

    key_pts = int(index.packet_pts[index.keyframe[first]]) if seek else None
    expected, counted, tainted = first, -1, False
    with open_container(path) as container:
        time_base = video_stream(path, container).time_base
        assert time_base is not None  # every stream that is read has one
        unit = TICK if index.counted else time_base
        if seek:
            start = int(index.packet_dts[index.keyframe[first]])
            container.seek(start, stream=video_stream(path, container))
        for picture in decode_all(path, container):
            if picture is None:
                tainted = True
                continue
            counted += 1
            number = counted
            if not index.counted:
                if picture.pts is None or (key_pts is not None and picture.pts < key_pts):
                    continue  # leading pictures of an open GOP: what they refer to was not decoded
                if picture.pts == key_pts and picture.pict_type != PictureType.I:
                    raise damaged(expected)  # called a keyframe, it only begins a gradual intra refresh
                number = int(np.searchsorted(index.pts, picture.pts))
                if number == len(index.pts) or index.pts[number] != picture.pts:
                    continue
            tainted = picture.is_corrupt or (tainted and not picture.key_frame)
            if number < expected:
                continue
            if number > expected or tainted or index.damaged[number]:
                raise damaged(expected)
            passed = index.seconds[number] - index.seconds[first]
            picture.pts = (
                round(passed * 90_000) if index.counted else int(index.pts[number] - index.pts[first])
            )
            picture.time_base = unit
            yield picture
            expected += 1
            if expected == stop:
                return
    raise damaged(expected)


def _shaped(
    decoded: "Iterator[av.VideoFrame]", settings: Settings, aspect: Fraction
) -> "Iterator[av.VideoFrame]":
    """Pictures scaled, with square pixels, upright, in 8 bit 4:2:0, at the rate wanted.

    Args:
        aspect: width of a pixel of the source over its height.
    """
    size: tuple[int, int] | None = None  # that of the first picture, for all
    graph, looks = None, None
    for picture in decoded:
        now = (picture.width, picture.height, picture.format.name, picture.color_range)
        if now != looks:  # streams cut together may change their looks
            if graph:
                graph.vpush(None)
                yield from _ready(graph)
            size = size or _new_size(picture.width, picture.height, aspect, settings.short_side)
            graph, looks = _graph(picture, size, settings.fps), now
        assert graph
        graph.vpush(picture)
        yield from _ready(graph)
    if graph:
        graph.vpush(None)
        yield from _ready(graph)


def _new_size(width: int, height: int, aspect: Fraction, short_side: int) -> tuple[int, int]:
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


def _graph(picture: "av.VideoFrame", size: tuple[int, int], fps: str | None) -> Any:
    import av

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
        graph.add("scale", w=str(size[0]), h=str(size[1]), flags="bicubic", out_range="tv"),
        graph.add("format", pix_fmts="yuv420p"),
    ]
    match round(picture.rotation / 90) % 4:
        case 1:
            chain.append(graph.add("transpose", dir="cclock"))
        case 2:
            chain += [graph.add("hflip"), graph.add("vflip")]
        case 3:
            chain.append(graph.add("transpose", dir="clock"))
    chain.append(graph.add("setsar", sar="1"))
    if fps:
        chain.append(graph.add("fps", fps=fps))
    graph.link_nodes(*chain, graph.add("buffersink")).configure()
    return graph


def _ready(graph: Any) -> "Iterator[av.VideoFrame]":
    import av
    from av.video.frame import PictureType

    while True:
        try:
            picture = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        picture.pict_type = PictureType.NONE  # or the encoder would repeat the source's keyframes
        yield picture


class _Sound:
    """The best audio stream of a source, encoded anew as AAC. Its packets that are damaged fall silent."""

    def __init__(self, source: str, container: "OutputContainer") -> None:
        from videonorm.data.decoding.container import open_container

        self._source = source
        self._container = container
        self._to: Any = None
        with open_container(source) as sources:
            best: Any = sources.streams.best("audio")
            if best is not None and best.codec_context is not None:
                self._to = container.add_stream("aac", rate=min(best.codec_context.sample_rate, 48_000))
                self._to.layout = "mono" if best.codec_context.channels == 1 else "stereo"

    def copy(self, start: float, end: float | None) -> None:
        """Encode the samples from ``start`` to ``end``, in seconds of the source's clock."""
        import av

        if self._to is None:
            return
        graph = None
        for samples in _decoded_sound(self._source):
            graph = graph or self._graph(samples, start, end)
            try:
                graph.push(samples)
            except av.EOFError:
                break  # all that follows is cut off
            self._encode(graph)
        if graph is not None:
            graph.push(None)
            self._encode(graph)
        self._container.mux(self._to.encode(None))

    def _graph(self, samples: "av.AudioFrame", start: float, end: float | None) -> Any:
        import av

        graph = av.filter.Graph()
        trim = {"start": f"{start:.6f}"}
        if end is not None:
            trim["end"] = f"{end:.6f}"
        to = self._to
        chain = [
            graph.add_abuffer(
                sample_rate=samples.sample_rate,
                format=samples.format,
                layout=samples.layout,
                time_base=samples.time_base,
            ),
            graph.add("atrim", **trim),
            graph.add("asetpts", expr=f"PTS-{start:.6f}/TB"),
            graph.add(
                "aformat",
                sample_fmts="fltp",
                sample_rates=str(to.codec_context.sample_rate),
                channel_layouts=to.layout.name,
            ),
        ]
        graph.link_nodes(*chain, graph.add("abuffersink")).configure()
        return graph

    def _encode(self, graph: Any) -> None:
        import av

        while True:
            try:
                samples = graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            self._container.mux(self._to.encode(samples))


def _decoded_sound(path: str) -> "Iterator[av.AudioFrame]":
    from videonorm.data.decoding.container import DECODER_ERRORS, open_container

    with open_container(path) as container:
        stream: Any = container.streams.best("audio")
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except DECODER_ERRORS:
                continue


def _report(done: list[tuple[Job, Made]]) -> None:
    """Print the disk and the speed of decoding, before and after."""
    if not done:
        return
    before = sum({job.source: made.source_bytes for job, made in done}.values())
    after = sum(made.bytes for _, made in done)
    print(f"disk: {_bytes(before)} before, {_bytes(after)} after, {after / before:.2f} of it")
    short_side = done[0][0].settings.short_side
    times = [_clip_times(*pair, short_side) for pair in done[:: max(1, len(done) // MEASURED)][:MEASURED]]
    old, new = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"decoding 8 frames, stride 8, to short side {short_side}: {old:.1f} ms before, {new:.1f} ms after, "
        f"{old / new:.1f} times as fast (CPU time of one core, medians of {len(times)} files)"
    )


def _clip_times(job: Job, made: Made, short_side: int) -> tuple[float, float]:
    """CPU seconds for one clip of the source and of the new file: the median of the same three moments."""
    import numpy as np

    from videonorm.data import open_video

    starts = [
        max(made.facts.duration_seconds * third - 0.5 * 64 / 30, 0.0) for third in (1 / 6, 3 / 6, 5 / 6)
    ]
    medians = []
    for path, offset in ((job.source, job.start_seconds or 0.0), (job.target, 0.0)):
        spent = []
        for start in [starts[0], *starts]:
            began = time.process_time()
            with open_video(path, "pyav") as video:
                first = min(int(np.searchsorted(video.seconds, offset + start)), video.num_frames - 1)
                video.read(range(first, video.num_frames, 8)[:8], short_side)
            spent.append(time.process_time() - began)
        medians.append(statistics.median(spent[1:]))  # the first also builds the packet index
    return medians[0], medians[1]


def _bytes(count: float) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:,.1f} {unit}"
    return f"{count / 1024:,.1f} TiB"


if __name__ == "__main__":
    run(main)
