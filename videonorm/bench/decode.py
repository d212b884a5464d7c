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

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from random import Random
from typing import Any

from videonorm.bench import loading
from videonorm.bench.loading import add_ratio, new_case
from videonorm.bench.options import BenchmarkParser, Default
from videonorm.bench.records import Row
from videonorm.bench.trial import Cost, Trial

LOADERS = (
    *("limit", "limit_disposable", "ours_pyav", "ours_torchcodec", "ours_decord"),
    *("torchcodec", "pytorchvideo_pyav", "pytorchvideo_decord"),
)
CLIPS = ((8, 8), (16, 4), (32, 2), (64, 4))  # T x stride; 64 frames of a 10 s video are at most 4 apart
NUM_PATHS = Default(8, 4)
LEAST_SECONDS = 0.4  # of CPU time of a trial

COLUMNS = loading.new_columns(
    {},
    {
        "clips_per_second": "by the clock",
        "cpu_seconds_per_clip": "user and system time",
        "ratio_to_pytorchvideo": "CPU time of pytorchvideo_pyav on the same files / this",
        "share_of_decode_limit": "CPU time of limit_disposable on the same files / this",
    },
)


def parser() -> BenchmarkParser:
    return loading.new_parser("decode", __doc__, COLUMNS, LOADERS, CLIPS)


def run(options: argparse.Namespace) -> None:
    """See ``loading.run``."""
    processes = [[Trial(case, options.rounds) for case in cases(name, options)] for name in options.loader]
    loading.run(options, __name__, COLUMNS, NUM_PATHS[options.quick], processes, compare)


def cases(loader: str, options: argparse.Namespace) -> list[Row]:
    from videonorm.bench.videos import ENCODERS

    sides = (None,) if loader.startswith("limit") else options.short_side
    return [
        new_case(loader, clip, side, files) for files, clip, side in product(ENCODERS, options.clip, sides)
    ]


def compare(rows: Sequence[Row]) -> None:
    """Enter what the rows of the results are relative to others."""
    figure = "cpu_seconds_per_clip"
    add_ratio(rows, "ratio_to_pytorchvideo", figure, "pytorchvideo_pyav", ["files", "case"])
    same = ["files", "num_frames", "frame_stride"]
    add_ratio(rows, "share_of_decode_limit", figure, "limit_disposable", same)


def trial(case: Row) -> Row:
    """Measure a case, in the process of a contender."""
    from videonorm.data import frame_indices, open_video, random_clip_start, read_manifest

    clip = (case["num_frames"], case["frame_stride"])
    plan = []
    for number, entry in enumerate(read_manifest(case["manifest"]).entries):
        with open_video(entry.path) as video:
            start = random_clip_start(video.num_frames, *clip, Random(number))
            plan.append((entry.path, start, frame_indices(start, *clip, video.num_frames, "error")))
    get = contender(case)
    get(*plan[0])
    seconds, cpu_seconds, passes = 0.0, 0.0, 0
    while cpu_seconds < LEAST_SECONDS:
        with Cost() as cost:
            for path, start, indices in plan:
                get(path, start, indices)
        seconds, cpu_seconds, passes = seconds + cost.seconds, cpu_seconds + cost.cpu_seconds, passes + 1
    clips = passes * len(plan)
    return {"clips_per_second": clips / seconds, "cpu_seconds_per_clip": cpu_seconds / clips}


def contender(case: Row) -> Callable[[str, int, list[int]], Any]:
    """Called with a path, the first frame and all frames, it gets the clip."""
    from videonorm.bench import peers
    from videonorm.data import open_video

    short_side = case["short_side"]
    family, _, decoder = case["loader"].partition("_")

    def ours(path: str, start: int, indices: list[int]) -> object:
        with open_video(path, decoder) as video:
            return video.read(indices, short_side)

    def torchcodec(path: str, start: int, indices: list[int]) -> object:
        frames = peers.torchcodec_decoder(path).get_frames_at(indices).data
        return peers.torchcodec_scaled(frames, short_side)

    def pytorchvideo(path: str, start: int, indices: list[int]) -> object:
        return peers.short_side_scale(peers.pytorchvideo_clip(path, decoder, start, case), short_side)

    def limit(path: str, start: int, indices: list[int]) -> object:
        return peers.decode_limit(path, indices, drop=decoder == "disposable")

    return {"ours": ours, "torchcodec": torchcodec, "pytorchvideo": pytorchvideo, "limit": limit}[family]
