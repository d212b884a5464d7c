"""``videonorm bench decode``: what it costs one core to get the frames of a clip out of a file.

Every contender opens a file, decodes T frames that are `frame_stride` apart from a random start, and gives
them as RGB with the short side wanted. There is no loader, no crop and no normalization.

    limit                 libavcodec alone: from the keyframe to the last frame needed, in one thread, without
                          conversion, by a packet index known beforehand
    limit_disposable      the same without the packets that no frame refers to and nobody asked for
    ours_pyav, ...        ``videonorm.data.open_video`` with each decoder
    torchcodec            its own VideoDecoder, one thread, and torchvision's resize
    pytorchvideo_pyav, .. its EncodedVideo: a clip of T x stride frames by get_clip, of which T are kept, and
                          its way to scale them; decoder threads as it sets them

A contender has a process of its own in each round, and goes through all cases there. A case is the same few
clips for all, again and again for a moment. Files are opened for every clip, but ours knows their packet
indices already, as they are kept beside a manifest. torchcodec runs on PyAV's FFmpeg libraries.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from random import Random
from typing import Any

from videonorm.bench import peers
from videonorm.bench.command import DECODE_LOADERS
from videonorm.bench.loading import CASE_COLUMNS, add_ratio, medians, new_case
from videonorm.bench.records import LOADING_ORIGIN, Records, Row, loading_origin
from videonorm.bench.terminal import new_progress, show_loading
from videonorm.bench.trial import Cost, Plan, take_turns
from videonorm.bench.videos import ENCODERS, Videos
from videonorm.data import frame_indices, open_video, random_clip_start, read_manifest

VIDEOS = Videos(num_videos=8, num_paths=8)
QUICK_VIDEOS = Videos(num_videos=2, num_paths=4)
CLIPS = ((8, 8), (16, 4), (32, 2), (64, 4))  # T x stride; 64 frames of a 10 s video are at most 4 apart
QUICK_CLIPS = ((8, 8),)
SHORT_SIDES = (128, 256)
QUICK_SHORT_SIDES = (128,)
LEAST_SECONDS = 0.4  # of CPU time of a trial

COLUMNS = (
    LOADING_ORIGIN
    | CASE_COLUMNS
    | {
        "loader": "contender",
        "rounds": "processes of which the median is taken",
        "clips_per_second": "by the clock",
        "cpu_seconds_per_clip": "user and system time",
        "ratio_to_pytorchvideo": "CPU time of pytorchvideo_pyav on the same files / this",
        "share_of_decode_limit": "CPU time of limit_disposable on the same files / this",
        "error": "why there is no time",
    }
)


def run(options: argparse.Namespace) -> None:
    """Measure what the options of `videonorm bench decode` ask for.

    Raises:
        UserError: the results cannot be written.
    """
    videos = QUICK_VIDEOS if options.quick else VIDEOS
    rounds = options.rounds or (1 if options.quick else 2)
    plans = [Plan(name, cases(name, options)) for name in options.loader or DECODE_LOADERS]
    with Records(options.out, COLUMNS) as records:
        made_on = loading_origin() | {"quick": int(options.quick)}
        videos.prepare()
        work = [
            Plan(name, [case | {"manifest": str(videos.manifest(case["files"]))} for case in todo])
            for name, todo in plans
        ]
        answers: list[Row] = []
        try:
            with new_progress() as progress:
                answers.extend(take_turns(__name__, work, rounds, progress))
        finally:
            records.add(made_on | row for row in rows(plans, answers))
    show_loading(records.rows, records.path)


def cases(loader: str, options: argparse.Namespace) -> list[Row]:
    clips = options.clip or (QUICK_CLIPS if options.quick else CLIPS)
    sides = options.short_side or (QUICK_SHORT_SIDES if options.quick else SHORT_SIDES)
    if loader.startswith("limit"):
        sides = (None,)
    return [new_case(clip, side, files) for files, clip, side in product(ENCODERS, clips, sides)]


def rows(plans: Sequence[Plan], answers: Sequence[Row]) -> list[Row]:
    """The rows of the results, with what they are relative to others."""
    found = medians(plans, answers)
    for row in found:
        if "cpu_seconds_per_clip" in row:
            row["clips_per_cpu_second"] = 1 / row["cpu_seconds_per_clip"]
    figure = "clips_per_cpu_second"
    add_ratio(found, "ratio_to_pytorchvideo", figure, "pytorchvideo_pyav", ["files", "case"])
    same = ["files", "num_frames", "frame_stride"]
    add_ratio(found, "share_of_decode_limit", figure, "limit_disposable", same)
    return [{name: row[name] for name in row if name in COLUMNS} for row in found]


def trial(loader: str, case: Row) -> Row:
    """Measure a case, in the process of a contender."""
    clip = (case["num_frames"], case["frame_stride"])
    plan = []
    for number, entry in enumerate(read_manifest(case["manifest"]).entries):
        with open_video(entry.path) as video:
            start = random_clip_start(video.num_frames, *clip, Random(number))
            plan.append((entry.path, start, frame_indices(start, *clip, video.num_frames, "error")))
    get = contender(loader, case)
    get(*plan[0])
    seconds, cpu_seconds, passes = 0.0, 0.0, 0
    while cpu_seconds < LEAST_SECONDS:
        with Cost() as cost:
            for path, start, indices in plan:
                get(path, start, indices)
        seconds, cpu_seconds, passes = seconds + cost.seconds, cpu_seconds + cost.cpu_seconds, passes + 1
    clips = passes * len(plan)
    return {"clips_per_second": clips / seconds, "cpu_seconds_per_clip": cpu_seconds / clips}


def contender(loader: str, case: Row) -> Callable[[str, int, list[int]], Any]:
    """Called with a path, the first frame and all frames, it gets the clip."""
    num_frames, frame_stride, short_side = case["num_frames"], case["frame_stride"], case["short_side"]
    family, _, decoder = loader.partition("_")

    def ours(decoder: Any, path: str, start: int, indices: list[int]) -> object:
        with open_video(path, decoder) as video:
            return video.read(indices, short_side)

    def torchcodec(path: str, start: int, indices: list[int]) -> object:
        frames = peers.torchcodec_decoder(path).get_frames_at(indices).data
        return peers.torchcodec_scaled(frames, short_side)

    def pytorchvideo(decoder: str, path: str, start: int, indices: list[int]) -> object:
        clip = peers.pytorchvideo_clip(path, decoder, start, num_frames, frame_stride)
        return peers.short_side_scale(clip, short_side)

    def limit(drop: bool, path: str, start: int, indices: list[int]) -> object:
        return peers.decode_limit(path, indices, drop)

    match family:
        case "ours":
            return partial(ours, decoder)
        case "torchcodec":
            return torchcodec
        case "pytorchvideo":
            return partial(pytorchvideo, decoder)
        case _:
            return partial(limit, decoder == "disposable")
