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

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from videonorm.bench import peers
from videonorm.bench.command import LOADERS
from videonorm.bench.loading import CASE_COLUMNS, add_ratio, crop_size, medians, new_case
from videonorm.bench.records import LOADING_ORIGIN, Records, Row, loading_origin
from videonorm.bench.terminal import new_progress, show_loading
from videonorm.bench.trial import Cost, Plan, family, peak_mib, private_mib, take_turns
from videonorm.bench.videos import Videos
from videonorm.data import (
    Entries,
    Entry,
    Manifest,
    RandomClips,
    TrainTransform,
    VideoDataset,
    VideoLoader,
    Workers,
    read_manifest,
)

VIDEOS = Videos(num_videos=8, num_paths=2048)
QUICK_VIDEOS = Videos(num_videos=2, num_paths=512)
CLIPS = ((8, 8), (16, 4), (32, 2))  # T x stride
QUICK_CLIPS = CLIPS[:1]
SHORT_SIDES = (128, 256)
QUICK_SHORT_SIDES = SHORT_SIDES[:1]
BATCH_SIZE = 8  # clips
CLIPS_PER_VIDEO = 4  # of repeated augmentation
LEAST_SECONDS = 2.0  # of a window
QUICK_LEAST_SECONDS = 1.0
MEMORY_CLIPS = 5000
QUICK_MEMORY_CLIPS = 200
MEMORY_ROWS = 240_000  # of a manifest: Kinetics-400
PACKED_REPEATS = 256  # of a video in an epoch, each with a clip of its own
ENDLESS = 10**9  # clips of an epoch, which no window reaches the end of

COLUMNS = (
    LOADING_ORIGIN
    | CASE_COLUMNS
    | {
        "crop_size": "pixels of a clip's side",
        "clips_per_video": "clips taken from one open file",
        "batch_size": "clips of a batch",
        "num_workers": "processes that load",
        "loader": "contender",
        "rounds": "processes of which the median is taken",
        "clips_per_second": "by the clock",
        "cpu_seconds_per_clip": "user and system time of the process and its workers",
        "ratio_to_pytorchvideo": "clips_per_second / that of pytorchvideo_pyav on gop250",
        "share_of_decode_limit": "clips_per_second / that of limit_disposable on the same files",
        "first_batch_seconds": "from making the loader to its first batch",
        "peak_memory_mib": "most that one worker had resident",
        "memory_clips": "clips that each worker loaded while its memory was watched",
        "memory_growth_mib": "growth of a worker's private memory over them, the largest",
        "error": "why there are no figures",
    }
)


def run(options: argparse.Namespace) -> None:
    """Measure what the options of `videonorm bench loader` ask for.

    Raises:
        UserError: the results cannot be written.
    """
    videos = QUICK_VIDEOS if options.quick else VIDEOS
    rounds = options.rounds or (1 if options.quick else 2)
    plans = [Plan(name, cases(name, options)) for name in options.loader or LOADERS]
    memory_plans = [Plan(name, memory_cases(name, options)) for name in options.loader or LOADERS]
    sides = {case["short_side"] for plan in plans for case in plan.cases if case["files"] == "packed"}

    def with_manifests(plans: Sequence[Plan]) -> list[Plan]:
        def manifest(case: Row) -> str:
            packed = case["files"] == "packed"
            return str(videos.manifest(f"packed_{case['short_side']}" if packed else case["files"]))

        return [
            Plan(plan.loader, [case | {"manifest": manifest(case)} for case in plan.cases]) for plan in plans
        ]

    with Records(options.out, COLUMNS) as records:
        made_on = loading_origin() | {"quick": int(options.quick)}
        videos.prepare(sorted(sides))
        answers: list[Row] = []
        memory_answers: list[Row] = []
        try:
            with new_progress() as progress:
                answers.extend(take_turns(__name__, with_manifests(plans), rounds, progress))
            with new_progress() as progress:
                memory_answers.extend(take_turns(__name__, with_manifests(memory_plans), 1, progress))
        finally:
            found = rows(plans, answers) + medians(memory_plans, memory_answers)
            records.add(made_on | {name: row[name] for name in row if name in COLUMNS} for row in found)
    show_loading(records.rows, records.path)


def cases(loader: str, options: argparse.Namespace) -> list[Row]:
    clips = options.clip or (QUICK_CLIPS if options.quick else CLIPS)
    sides = options.short_side or (QUICK_SHORT_SIDES if options.quick else SHORT_SIDES)
    # files, clips_per_video
    sources = {
        "limit_disposable": [("gop250", 1), ("gop12_fast", 1)],
        "ours_pyav": [("gop250", 1), ("gop250", CLIPS_PER_VIDEO), ("gop12_fast", 1)],
        "ours_packed": [("packed", 1)],
        "ours_pyav_cpu": [("gop250", 1)],
        "ours_packed_cpu": [("packed", 1)],
    }
    return [
        new_case(clip, None if loader.startswith("limit") else side, files)
        | {
            "crop_size": None if loader.startswith("limit") else crop_size(side),
            "clips_per_video": clips_per_video,
            "batch_size": BATCH_SIZE,
            "num_workers": options.num_workers,
            "least_seconds": QUICK_LEAST_SECONDS if options.quick else LEAST_SECONDS,
        }
        for clip, side in product(clips, sides[:1] if loader.startswith("limit") else sides)
        for files, clips_per_video in sources.get(loader, [("gop250", 1)])
    ]


def memory_cases(loader: str, options: argparse.Namespace) -> list[Row]:
    if loader != "ours_pyav":
        return []
    clips = options.memory_clips or (QUICK_MEMORY_CLIPS if options.quick else MEMORY_CLIPS)
    transcoded = next(case for case in cases(loader, options) if case["files"] == "gop12_fast")
    return [transcoded | {"memory_clips": clips}]


def rows(plans: Sequence[Plan], answers: Sequence[Row]) -> list[Row]:
    """The rows of the results, with what they are relative to others."""
    found = medians(plans, answers)
    add_ratio(found, "ratio_to_pytorchvideo", "clips_per_second", "pytorchvideo_pyav", ["case"])
    same = ["files", "num_frames", "frame_stride", "clips_per_video"]
    add_ratio(found, "share_of_decode_limit", "clips_per_second", "limit_disposable", same)
    return found


def trial(loader: str, case: Row) -> Row:
    """Measure a case, in the process of a contender."""
    manifest = read_manifest(case["manifest"])
    if "memory_clips" in case:
        return _memory(manifest, case)
    if case["files"] == "packed":  # nothing is remembered of a video in a shard, and each has one path only
        manifest = replace(manifest, entries=Entries.of(list(manifest.entries) * PACKED_REPEATS))
    start = time.perf_counter()
    num_workers, batch_size = case["num_workers"], case["batch_size"]
    with batches(loader, manifest, case) as delivered:
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
    # Paths of their own: pages that are shared with the main process become private when a worker reads them.
    entries = manifest.entries
    rows = [
        Entry(f"{entries[n % len(entries)].path}", entries[n % len(entries)].label)
        for n in range(max(MEMORY_ROWS, len(entries)))
    ]
    large = Manifest(manifest.path, Entries.of(rows), manifest.num_classes, manifest.class_names)
    clips = case["memory_clips"] * case["num_workers"]
    with batches("ours_pyav", large, case) as delivered:
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


@contextmanager
def batches(loader: str, manifest: Manifest, case: Row) -> Iterator[Iterator[Any]]:
    """The batches of a contender without an end; at the end of the context its workers have ended."""
    clip = (case["num_frames"], case["frame_stride"])
    picture = (case["short_side"], case["crop_size"])
    who, _, kind = loader.removesuffix("_cpu").partition("_")
    with ExitStack() as stack:
        match who:
            case "ours":
                decoder: Any = "auto" if kind == "packed" else kind
                dataset = VideoDataset(
                    manifest,
                    RandomClips(*clip, case["clips_per_video"]),
                    decoder=decoder,
                    short_side=picture[0],
                    replace_bad=False,
                )
                ours = VideoLoader(
                    dataset,
                    case["batch_size"] // case["clips_per_video"],
                    stack.enter_context(Workers(case["num_workers"], time_limit_seconds=60)),
                    sampler=_endless(dataset),
                )
                transform = TrainTransform(picture[1])
                on_cpu = loader.endswith("_cpu")
                yield (transform(batch)[0] if on_cpu else batch for batch in ours)
            case "limit":
                yield _torch_batches(peers.LimitDataset(manifest, *clip), case)
            case "torchcodec":
                yield _torch_batches(peers.TorchcodecDataset(manifest, *clip, *picture), case)
            case _:
                clips = peers.pytorchvideo_clips(manifest, kind, *clip, *picture)
                yield iter(DataLoader(clips, case["batch_size"], num_workers=case["num_workers"]))


def _torch_batches(dataset: Dataset[Tensor], case: Row) -> Iterator[Tensor]:
    return iter(
        DataLoader(dataset, case["batch_size"], num_workers=case["num_workers"], sampler=_endless(dataset))
    )


def _endless(dataset: Any) -> RandomSampler:
    """Epoch after epoch, each in an order of its own."""
    return RandomSampler(dataset, num_samples=ENDLESS)
