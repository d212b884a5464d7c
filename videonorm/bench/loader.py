"""``videonorm bench loader``: whole training loaders, from files to batches of clips on the host.

Every contender gives batches of 8 clips at random starts, with the same number of worker processes.

    limit_disposable       workers that do nothing but decode, in one thread, what random clips need: without
                           the packets that no frame refers to, without conversion; nothing is delivered
    ours_pyav, ...         ``VideoDataset`` and ``VideoLoader`` with each decoder; ``ours_packed`` from packed
                           frames. What they deliver is what goes to the GPU: scaled clips, uint8
    ours_pyav_cpu, ...     the same, and ``TrainTransform``, which a GPU would do, in the main process on the
                           CPU: float32 (8, 3, T, P, P), cropped, flipped and normalized
    torchcodec             torchcodec's clip sampler in a DataLoader; its workers scale with torchvision's
                           resize, crop, flip and normalize, to float32
    pytorchvideo_pyav, ..  LabeledVideoDataset with RandomClipSampler in a DataLoader; its workers choose the
                           frames, scale, crop, flip and normalize, as they do with its transforms

A contender has a process of its own in each round, and goes through all cases there, with new workers for
each. The window of a case begins when every worker has delivered, and ends with a batch of each; CPU time is
that of the process and its workers. The manifest lists more paths than a window loads, so that nothing
remembered of a file helps; ours has the packet indices beside the manifest, as from the second epoch on. All
files are in the page cache. torchcodec runs on PyAV's FFmpeg libraries.

Memory is measured in a process of its own, from a manifest with as many rows as Kinetics-400: what each
worker has for itself after a twentieth of the clips, and after all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from videonorm.bench import loading
from videonorm.bench.loading import add_ratio, crop_size, new_case
from videonorm.bench.options import BenchmarkParser, Default
from videonorm.bench.records import Row
from videonorm.bench.trial import Cost, Trial, peak_mib, private_mib
from videonorm.options import positive_integer
from videonorm.processes import family

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.data import Manifest

LOADERS = (
    *("limit_disposable", "ours_pyav", "ours_torchcodec", "ours_decord"),
    *("ours_packed", "ours_pyav_cpu", "ours_packed_cpu"),
    *("torchcodec", "pytorchvideo_pyav", "pytorchvideo_decord"),
)
CLIPS = ((8, 8), (16, 4), (32, 2))  # T x stride
NUM_PATHS = Default(2048, 512)
BATCH_SIZE = 8  # clips
CLIPS_PER_VIDEO = 4  # of repeated augmentation
LEAST_SECONDS = Default(2.0, 1.0)  # of a window
MEMORY_ROWS = 240_000  # of a manifest: Kinetics-400
PACKED_REPEATS = 256  # of a video in an epoch, each with a clip of its own

COLUMNS = loading.new_columns(
    {
        "crop_size": "pixels of a clip's side",
        "clips_per_video": "clips taken from one open file",
        "batch_size": "clips of a batch",
        "num_workers": "processes that load",
    },
    {
        "clips_per_second": "by the clock",
        "cpu_seconds_per_clip": "user and system time of the process and its workers",
        "ratio_to_pytorchvideo": "clips_per_second / that of pytorchvideo_pyav on gop250",
        "share_of_decode_limit": "clips_per_second / that of limit_disposable on the same files",
        "first_batch_seconds": "from making the loader to its first batch",
        "peak_memory_mib": "most that one worker had resident",
        "memory_clips": "clips that each worker loaded while its memory was watched",
        "memory_growth_mib": "growth of a worker's private memory over them, the largest",
    },
)


def parser() -> BenchmarkParser:
    options = loading.new_parser("loader", __doc__, COLUMNS, LOADERS, CLIPS)
    options.add("--num_workers", "processes that load", 2, type=positive_integer, metavar="N")
    text = "clips that each worker loads while its memory is watched"
    options.add("--memory_clips", text, 5000, 200, type=positive_integer, metavar="N")
    return options


def run(options: argparse.Namespace) -> None:
    """See ``loading.run``."""
    processes = [[Trial(case, options.rounds) for case in cases(name, options)] for name in options.loader]
    processes += [[Trial(case, 1)] for name in options.loader for case in memory_cases(name, options)]
    loading.run(options, __name__, COLUMNS, NUM_PATHS[options.quick], processes, compare)


def cases(loader: str, options: argparse.Namespace) -> list[Row]:
    # files, clips_per_video
    sources = {
        "limit_disposable": [("gop250", 1), ("gop12_fast", 1)],
        "ours_pyav": [("gop250", 1), ("gop250", CLIPS_PER_VIDEO), ("gop12_fast", 1)],
        "ours_packed": [("packed", 1)],
        "ours_packed_cpu": [("packed", 1)],
    }
    sides = (None,) if loader.startswith("limit") else options.short_side
    return [
        new_case(loader, clip, side, files)
        | {
            "crop_size": side and crop_size(side),
            "clips_per_video": clips_per_video,
            "batch_size": BATCH_SIZE,
            "num_workers": options.num_workers,
            "least_seconds": LEAST_SECONDS[options.quick],
        }
        for clip, side in product(options.clip, sides)
        for files, clips_per_video in sources.get(loader, [("gop250", 1)])
    ]


def memory_cases(loader: str, options: argparse.Namespace) -> list[Row]:
    if loader != "ours_pyav":
        return []
    transcoded = next(case for case in cases(loader, options) if case["files"] == "gop12_fast")
    return [transcoded | {"memory_clips": options.memory_clips}]


def compare(rows: Sequence[Row]) -> None:
    """Enter what the rows of the results are relative to others."""
    add_ratio(rows, "ratio_to_pytorchvideo", "clips_per_second", "pytorchvideo_pyav", ["case"])
    same = ["files", "num_frames", "frame_stride", "clips_per_video"]
    add_ratio(rows, "share_of_decode_limit", "clips_per_second", "limit_disposable", same)


def trial(case: Row) -> Row:
    """Measure a case, in the process of a contender."""
    from videonorm.bench.batches import batches
    from videonorm.data import Entries, read_manifest

    manifest = read_manifest(case["manifest"])
    if "memory_clips" in case:
        return _memory(manifest, case)
    if case["files"] == "packed":  # nothing is remembered of a video in a shard, and each has one path only
        manifest = replace(manifest, entries=Entries.of(list(manifest.entries) * PACKED_REPEATS))
    start = time.perf_counter()
    num_workers, batch_size = case["num_workers"], case["batch_size"]
    with batches(manifest, case) as delivered:
        next(delivered)
        first_batch_seconds = time.perf_counter() - start
        warm = 1
        while warm < num_workers or time.perf_counter() - start < case["least_seconds"] / 2:
            next(delivered)
            warm += 1
        number, begin = 0, time.perf_counter()
        with Cost() as cost:
            while (
                number < 2 * num_workers
                or number % num_workers
                or time.perf_counter() - begin < case["least_seconds"]
            ):
                next(delivered)
                number += 1
        peaks = [peak for pid in family()[1:] if (peak := peak_mib(pid)) is not None]
    clips = number * batch_size
    return {
        "clips_per_second": clips / cost.seconds,
        "cpu_seconds_per_clip": cost.cpu_seconds / clips,
        "first_batch_seconds": first_batch_seconds,
        **({"peak_memory_mib": max(peaks)} if peaks else {}),
    }


def _memory(manifest: Manifest, case: Row) -> Row:
    from videonorm.bench.batches import batches
    from videonorm.data import Entries, Entry, Manifest

    # Paths of their own: pages that are shared with the main process become private when a worker reads them.
    entries = manifest.entries
    rows = [
        Entry(f"{entries[n % len(entries)].path}", entries[n % len(entries)].label)
        for n in range(max(MEMORY_ROWS, len(entries)))
    ]
    large = Manifest(manifest.path, Entries.of(rows), manifest.num_classes, manifest.class_names)
    clips = case["memory_clips"] * case["num_workers"]
    with batches(large, case) as delivered:
        taken = 0
        while taken < clips // 20:
            taken += len(next(delivered))
        before = {pid: private_mib(pid) for pid in family()[1:]}
        while taken < clips:
            taken += len(next(delivered))
        after = {pid: private_mib(pid) for pid in family()[1:]}
    growth = [
        last - first
        for pid in before
        if (first := before[pid]) is not None and (last := after.get(pid)) is not None
    ]
    return {"memory_growth_mib": max(growth)} if growth else {"error": "this system does not tell it"}
